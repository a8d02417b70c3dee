"""A dialogue line by line, as one would type it, with both sides shown. It knows whose turn it is, and no more of the protocol."""

from __future__ import annotations

import base64
import contextlib
import queue
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from stackctl.clients.failure import STRIPPED, TlsFailed, explain
from stackctl.clients.transcript import Context, RecordedSocket, RecordedTls, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import UsageError

_OPENING = {"smtp": ("EHLO client.invalid", "STARTTLS", "EHLO client.invalid"), "imap": ("s1 STARTTLS",), "pop3": ("STLS",)}
_VARIABLE = re.compile(r"\$(USER|PASSWORD|PLAIN)(64)?\b")


class _Closed(Exception):
    """An end, not a fault."""


class _Session:
    def __init__(self, where: Where, transcript: Transcript, timeout: float) -> None:
        self.where, self.transcript = where, transcript
        self.sock: RecordedSocket | RecordedTls = connect(where, transcript, timeout)
        try:
            if where.tls == "implicit":
                self.secure()
            self.listen("greeting")
        except BaseException:
            self.sock.close()
            raise

    def secure(self) -> None:
        self.sock = Context(self.where, self.transcript).wrap_socket(self.sock)
        self.transcript.dialogue.upgrade = False

    def say(self, line: str) -> None:
        """Sends a line, and takes what the server has to say until it is the client's turn again."""
        try:
            self.sock.sendall(line.encode() + b"\r\n")
        except OSError as why:
            raise _Closed from why
        self.listen("the last line")

    def listen(self, stage: str) -> None:
        while self.transcript.dialogue.turn == "S":
            try:
                self._closed(self.sock.recv(65536))
            except TimeoutError as why:
                raise explain(self.where, stage, why) from why
            except OSError as why:
                raise _Closed from why
        if self.transcript.dialogue.upgrade:
            self.secure()

    def overhear(self) -> None:
        """Takes what the server says out of turn, without waiting for it."""
        timeout = self.sock.gettimeout()
        self.sock.setblocking(False)
        try:
            while True:
                self._closed(self.sock.recv(65536))
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as why:
            raise _Closed from why
        finally:
            with contextlib.suppress(OSError):
                self.sock.settimeout(timeout)

    def _closed(self, data: bytes) -> None:
        if not data:
            raise _Closed


def talk(where: Where, protocol: str, script: Iterable[str], write: Callable[[str], None], credentials: tuple[str, str] | None = None, timeout: float = 60) -> bool:
    """Sends each line of `script` after the answer to the one before, and hands every line of both sides to `write`, passwords masked.

    `protocol` is smtp, imap or pop3. A listener with STARTTLS is taken into TLS first (`where.tls`), and whenever the script says
    STARTTLS or STLS itself. Lines of a message, of a literal and of a login go out as the protocol wants them: after the server asked.
    $USER, $PASSWORD and $PLAIN (the response of SASL PLAIN) in the script stand for the credentials, $USER64 and $PASSWORD64 for
    their base64. A script that waits for a person is not waited for longer than the server stays.
    Returns whether the server was there to the end. Raises StackctlError, TlsFailed, TimedOut after `timeout` seconds without an
    answer, and UsageError for a variable without credentials.
    """
    transcript = Transcript(write, whole=True)
    if credentials:
        transcript.hide(credentials[1])
    session = _Session(where, transcript, timeout)
    try:
        if where.tls == "starttls":
            for line in _OPENING[protocol]:
                session.say(line)
            if not isinstance(session.sock, ssl.SSLSocket):
                raise TlsFailed(f"{where}: the server does not offer STARTTLS", STRIPPED)
        for line in _lines(script, session):
            if transcript.dialogue.over:
                raise _Closed
            session.say(filled(line, credentials, quoted=protocol == "imap" and not transcript.dialogue.in_literal))
        return True
    except _Closed:
        transcript.note("the server closed the connection")
        return False
    finally:
        session.sock.close()


def filled(line: str, credentials: tuple[str, str] | None, *, quoted: bool = False) -> str:
    """A line of the script with its variables replaced; `quoted` as IMAP's quoted strings (RFC 9051 4.3), which carry what atoms cannot.

    Raises UsageError when there are no credentials for them.
    """

    def value(found: re.Match[str]) -> str:
        if credentials is None:
            raise UsageError(f"the script says {found[0]}, and no user was given", "name one, or write the value")
        user, password = credentials
        text = {"USER": user, "PASSWORD": password, "PLAIN": f"\0{user}\0{password}"}[found[1]]
        if found[2] or found[1] == "PLAIN":
            return base64.b64encode(text.encode()).decode()
        if not quoted:
            return text
        text = text.replace("\\", "\\\\").replace('"', '\\"')
        return text if line[: found.start()].count('"') % 2 else f'"{text}"'  # inside the script's own quotes, or not

    return _VARIABLE.sub(value, line)


def _lines(script: Iterable[str], session: _Session) -> Iterator[str]:
    """The script's lines; where they come from a person, what the server says meanwhile is shown, and its end is the end."""
    if isinstance(script, Sequence):
        yield from script
        return
    rest = iter(script)
    lines: queue.SimpleQueue[Any] = queue.SimpleQueue()
    here, there = socket.socketpair()

    def read() -> None:
        try:
            lines.put(next(rest, None))
        except BaseException as why:  # the caller's iterator may raise anything; it is raised again where the caller sees it
            lines.put(why)
        with contextlib.suppress(OSError):  # the dialogue may be over by now
            there.send(b".")

    with here, there:
        while True:
            threading.Thread(target=read, daemon=True).start()
            while here not in select.select([here, session.sock], [], [])[0]:
                try:
                    session.overhear()
                except _Closed:
                    if session.transcript.dialogue.over:
                        return
                    raise
            here.recv(1)
            line = lines.get()
            if line is None:
                return
            if isinstance(line, BaseException):
                raise line
            yield line
