"""An SMTP client (RFC 5321) that sends exactly the octets it is given. It composes nothing."""

from __future__ import annotations

import base64
import smtplib
from collections.abc import Callable, Sequence
from typing import Any

from stackctl.clients.failure import STRIPPED, WRONG_PASSWORD, AuthRefused, TlsFailed, closing, explain
from stackctl.clients.transcript import Context, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError, UsageError


class Refused(StackctlError):
    """The server refused something: `code` is its reply code, `text` the reply, `stage` the command that it answers."""

    def __init__(self, code: int, text: str, stage: str) -> None:
        super().__init__(f"{stage}: {code} {text}", "`stackctl logs mta` says more")
        self.code, self.text, self.stage = code, text, stage

    @property
    def enhanced(self) -> str:
        """The enhanced status code (RFC 3463), "" without one."""
        word = self.text.split(" ", 1)[0]
        return word if word[:2] in ("2.", "4.", "5.") else ""


class _Library(smtplib.SMTP):
    """smtplib on a recorded socket."""

    def __init__(self, where: Where, transcript: Transcript, timeout: float) -> None:
        self._where, self._transcript = where, transcript
        super().__init__(timeout=timeout, local_hostname="client.invalid")
        self._host = where.name

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        sock = connect(self._where, self._transcript, timeout)
        return Context(self._where, self._transcript).wrap_socket(sock) if self._where.tls == "implicit" else sock


class Smtp:
    """A session that has greeted, and is inside TLS where the listener has it. A context manager; leaving it sends QUIT.

    Raises StackctlError (TlsFailed, AuthRefused, Refused and TimedOut are kinds of it) and nothing of the library below.
    """

    def __init__(self, where: Where, timeout: float = 60, transcript: Transcript | None = None) -> None:
        self.transcript = transcript or Transcript()
        self._where = where
        self._library = _Library(where, self.transcript, timeout)
        with closing(self._library):
            code, text = self._guard("connect", self._library.connect, where.host, where.port)
            if code != 220:
                raise Refused(code, _text(text), "greeting")
            self._greet()
            if where.tls == "starttls":
                self._secure()

    def _greet(self) -> None:
        code, text = self._guard("EHLO", self._library.ehlo)
        if code != 250:
            raise Refused(code, _text(text), "EHLO")

    def _secure(self) -> None:
        if "starttls" not in self._library.esmtp_features:
            raise TlsFailed(f"{self._where}: the server does not offer STARTTLS", STRIPPED)
        context: Any = Context(self._where, self.transcript)
        code, text = self._guard("STARTTLS", lambda: self._library.starttls(context=context))
        if code != 220:
            raise Refused(code, _text(text), "STARTTLS")
        self._greet()

    def __enter__(self) -> Smtp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Sends QUIT where the connection still stands, and closes it."""
        try:
            self._library.quit()
        except (smtplib.SMTPException, OSError):
            self._library.close()

    @property
    def extensions(self) -> dict[str, str]:
        """What EHLO offered: the keyword in lower case, and its parameters."""
        return dict(self._library.esmtp_features)

    def login(self, user: str, password: str) -> None:
        """AUTH PLAIN (RFC 4616), or LOGIN where only that is offered. Raises AuthRefused, also where no login is offered."""
        self.transcript.hide(password)
        offered = self.extensions.get("auth", "").upper().split()
        if "PLAIN" in offered or not offered:
            code, text = self.command(f"AUTH PLAIN {_base64(f'{chr(0)}{user}{chr(0)}{password}')}")
        elif "LOGIN" in offered:
            code, text = self.command("AUTH LOGIN")
            for answer in (user, password):
                if code == 334:
                    code, reply = self._guard("AUTH LOGIN", self._library.docmd, _base64(answer))
                    text = _text(reply)
        else:
            raise AuthRefused(f"{self._where}: the server offers only the mechanisms {', '.join(offered)}", "this client speaks PLAIN and LOGIN")
        if code != 235:
            where = "" if offered else " (no login was offered here)"
            raise AuthRefused(f"{self._where}: the login of {user} was refused: {code} {text}{where}", WRONG_PASSWORD)

    def command(self, line: str) -> tuple[int, str]:
        """Sends one command line; the reply's code and text, its lines joined by " / ". Raises UsageError for what no line can hold."""
        if "\r" in line or "\n" in line or not (line.isascii() or self._library.command_encoding == "utf-8"):
            raise UsageError(f"this cannot be said in one line of ASCII: {line!r}", "addresses that are not ASCII need SMTPUTF8, and no address has a line end")
        code, text = self._guard(line.split(" ")[0], self._library.docmd, line)
        return code, _text(text)

    def send(
        self, sender: str, recipients: Sequence[str], message: bytes, *, smtputf8: bool = False, eightbit: bool = True, options: Sequence[str] = ()
    ) -> dict[str, tuple[int, str]]:
        """One transaction. `message` has CRLF line ends and goes out as it is; returns the replies of recipients that were refused.

        `smtputf8` asks for RFC 6531, `eightbit` says BODY=8BITMIME (RFC 6152) where it is offered, `options` are further parameters of MAIL.
        Raises Refused when the sender, every recipient, or the message is refused, StackctlError when SMTPUTF8 is not offered.
        """
        if smtputf8 and "smtputf8" not in self.extensions:
            raise StackctlError(f"{self._where}: the server does not offer SMTPUTF8", "addresses and header fields must be ASCII here")
        parameters = [f"SIZE={len(message)}"] if "size" in self.extensions else []
        parameters += ["BODY=8BITMIME"] if eightbit and "8bitmime" in self.extensions else []
        parameters += ["SMTPUTF8"] if smtputf8 else []
        self._library.command_encoding = "utf-8" if smtputf8 else "ascii"
        self._expect("MAIL", f"MAIL FROM:<{sender}> {' '.join([*parameters, *options])}".rstrip(), (250,))
        refused: dict[str, tuple[int, str]] = {}
        for recipient in recipients:
            code, text = self.command(f"RCPT TO:<{recipient}>")
            if code not in (250, 251):
                refused[recipient] = (code, text)
        if len(refused) == len(set(recipients)):
            first, (code, text) = next(iter(refused.items()), ("", (0, "no recipient was given")))
            self.command("RSET")
            raise Refused(code, text, f"RCPT TO:<{first}>")
        self._expect("DATA", "DATA", (354,))
        # RFC 5321 4.5.2: a line that starts with a dot gets another one.
        data = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]
        ending = b"" if data.endswith(b"\r\n") or not data else b"\r\n"
        code, reply = self._guard("end of data", self._data, data + ending + b".\r\n")
        if code != 250:
            raise Refused(code, _text(reply), "end of data")
        return refused

    def _data(self, data: bytes) -> tuple[int, bytes]:
        assert self._library.sock is not None
        self._library.sock.sendall(data)
        return self._library.getreply()

    def _expect(self, stage: str, line: str, good: Sequence[int]) -> None:
        code, text = self.command(line)
        if code not in good:
            self._guard("RSET", self._library.rset)
            raise Refused(code, text, stage)

    def _guard(self, stage: str, call: Callable[..., tuple[int, bytes]], *arguments: Any) -> tuple[int, bytes]:
        try:
            return call(*arguments)
        except smtplib.SMTPResponseException as why:
            raise Refused(why.smtp_code, _text(why.smtp_error), stage) from why
        except (smtplib.SMTPException, OSError, EOFError) as why:
            raise explain(self._where, stage, why) from why


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(reply: bytes | str) -> str:
    return (reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply).replace("\n", " / ")
