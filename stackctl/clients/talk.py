"""A dialogue line by line, as one would type it, with both sides shown. It understands where an answer ends, and no more of the protocol."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Callable, Iterable

from stackctl.clients.transcript import Context, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError, TimedOut

_ANSWER_WITHIN = 60.0  # seconds
_MULTI = re.compile(r"(CAPA|LIST|UIDL|RETR .*|TOP .*)$", re.IGNORECASE)


class _Closed(Exception):  # an end, not a fault
    pass


class _Dialogue:
    def __init__(self, where: Where, protocol: str, write: Callable[[str], None]) -> None:
        self.where, self.protocol, self.write = where, protocol, write
        self.transcript = Transcript()
        self.shown = 0
        self.sock: socket.socket = connect(where, self.transcript, _ANSWER_WITHIN)
        if where.tls == "implicit":
            self._secure()
        self.file = self.sock.makefile("rb")
        self.show()

    def _secure(self) -> None:
        self.sock = Context(self.where, self.transcript).wrap_socket(self.sock)

    def show(self) -> None:
        lines = self.transcript.lines
        for line in lines[self.shown :]:
            self.write(line)
        self.shown = len(lines)

    def read(self) -> str:
        """One line of the server's."""
        try:
            line = self.file.readline()
        except TimeoutError as why:
            raise TimedOut(f"{self.where}: no answer within {_ANSWER_WITHIN:g} s") from why
        except OSError as why:
            raise StackctlError(f"{self.where}: {why}") from why
        if not line:
            raise _Closed
        return line.decode("utf-8", "replace").rstrip("\r\n")

    def answer(self, sent: str, data: bool) -> str:
        """Reads what answers a line; returns its last line. `data`: the line was part of a message, which nothing answers."""
        if data:
            return ""
        last = self.read()
        if self.protocol == "smtp":
            while len(last) > 3 and last[3] == "-":
                last = self.read()
        elif self.protocol == "imap":
            tag = sent.split(" ", 1)[0]
            while sent and not last.startswith((f"{tag} ", "+")):
                last = self.read()
        elif last.startswith("+OK") and _MULTI.match(sent):
            several = not re.match(r"(LIST|UIDL) \d+$", sent, re.IGNORECASE)
            body = last
            while several and body != ".":
                body = self.read()
        self.show()
        return last

    def send(self, line: str) -> None:
        self.sock.sendall(line.encode() + b"\r\n")
        self.show()

    def upgrade(self) -> None:
        """Goes into TLS after the server agreed."""
        self.file.detach()
        self._secure()
        self.file = self.sock.makefile("rb")
        self.show()


def talk(where: Where, protocol: str, script: Iterable[str], write: Callable[[str], None], credentials: tuple[str, str] | None = None) -> bool:
    """Sends each line of `script` after the answer to the one before, and hands every line of both sides to `write`, passwords masked.

    `protocol` is smtp, imap or pop3. A listener with STARTTLS is taken into TLS first (`where.tls`), and whenever the script says
    STARTTLS or STLS itself. $USER, $PASSWORD and $PLAIN in the script stand for the credentials. Returns whether the server was there
    to the end. Raises StackctlError, TlsFailed, TimedOut.
    """
    user, password = credentials or ("", "")
    plain = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    values = {"$PLAIN": plain, "$PASSWORD": password, "$USER": user}
    dialogue = _Dialogue(where, protocol, write)
    try:
        dialogue.answer("", False)
        opening = {"smtp": ["EHLO client.invalid", "STARTTLS", "EHLO client.invalid"], "imap": ["s1 STARTTLS"], "pop3": ["STLS"]}[protocol]
        if where.tls == "starttls":
            for line in opening:
                _say(dialogue, line, False)
        data = False
        for line in script:
            for name, value in values.items():
                line = line.replace(name, value)
            last = _say(dialogue, line, data and line != ".")
            data = (protocol == "smtp" and last.startswith("354")) or (data and line != ".")
        return True
    except _Closed:
        dialogue.transcript.note("the server closed the connection")
        dialogue.show()
        return False
    finally:
        dialogue.show()
        dialogue.sock.close()


def _say(dialogue: _Dialogue, line: str, data: bool) -> str:
    dialogue.send(line)
    last = dialogue.answer(line, data)
    agreed = {"smtp": r"220", "imap": r"\S+ OK", "pop3": r"\+OK"}[dialogue.protocol]
    if re.match(r"(\S+ )?(STARTTLS|STLS)$", line, re.IGNORECASE) and re.match(agreed, last):
        dialogue.upgrade()
    if re.match(r"(\S+ )?(QUIT|LOGOUT)$", line, re.IGNORECASE):
        return ""
    return last
