"""A ManageSieve client (RFC 5804): a person's Sieve scripts, listed, read, put, and one of them made active. It understands none of them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from stackctl.clients.failure import STRIPPED, WRONG_PASSWORD, AuthRefused, TlsFailed
from stackctl.clients.transcript import Context, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError

_LITERAL = re.compile(rb"\{(\d+)\+?\}\r\n$")
_LONGEST = 100_000  # octets of a line


class ManageSieve:
    """A session that has greeted, and is inside TLS. A context manager; leaving it logs out. Raises StackctlError (TlsFailed and AuthRefused are kinds of it)."""

    def __init__(self, where: Where, timeout: float = 60, transcript: Transcript | None = None) -> None:
        self.transcript = transcript or Transcript()
        self._where = where
        self._socket: Any = connect(where, self.transcript, timeout)
        try:
            self._file = self._socket.makefile("rb")
            announced = self._answer()
            if where.tls == "starttls":
                if not any(line.upper().startswith(b'"STARTTLS"') for line in announced):
                    raise TlsFailed(f"{where}: the server does not offer STARTTLS", STRIPPED)
                self._ask(b"STARTTLS")
                self._file.close()
                self._socket = Context(where, self.transcript).wrap_socket(self._socket)
                self._file = self._socket.makefile("rb")
                self._answer()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> ManageSieve:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def login(self, user: str, password: str) -> None:
        """AUTHENTICATE PLAIN (RFC 4616). Raises AuthRefused."""
        self.transcript.hide(password)
        answer = base64.b64encode(f"\0{user}\0{password}".encode())
        try:
            self._ask(b'AUTHENTICATE "PLAIN" "' + answer + b'"')
        except StackctlError as why:
            raise AuthRefused(f"{self._where}: the login of {user} was refused: {why.message}", WRONG_PASSWORD) from why

    def scripts(self) -> dict[str, bool]:
        """The names of all scripts, and whether each is the one that runs."""
        return {name.decode("utf-8", "replace"): rest.strip().upper() == b"ACTIVE" for name, rest in map(_string, self._ask(b"LISTSCRIPTS"))}

    def get(self, name: str) -> bytes:
        """The text of a script."""
        text, _ = _string(self._ask(b"GETSCRIPT " + _quoted(name))[0])
        return text

    def put(self, name: str, text: bytes) -> None:
        """Stores a script; one of that name is replaced. The server refuses one that is not right."""
        self._ask(b"PUTSCRIPT " + _quoted(name) + b" {%d+}\r\n" % len(text) + text)

    def activate(self, name: str) -> None:
        """Makes it the script that runs."""
        self._ask(b"SETACTIVE " + _quoted(name))

    def _ask(self, line: bytes) -> list[bytes]:
        try:
            self._socket.sendall(line + b"\r\n")
        except OSError as why:
            raise StackctlError(f"{self._where}: the connection was lost: {why}", "`stackctl logs` shows the server's side") from why
        return self._answer()

    def _answer(self) -> list[bytes]:
        """The lines of an answer before its OK, literals in place. Raises StackctlError for NO and BYE."""
        found: list[bytes] = []
        for line in self._lines():
            if end := re.match(rb"(OK|NO|BYE)\b", line, re.IGNORECASE):
                if end[1].upper() != b"OK":
                    raise StackctlError(f"{self._where}: {line.decode('utf-8', 'replace').strip()}", "`stackctl logs` shows the server's side")
                return found
            found.append(line)
        raise StackctlError(f"{self._where}: the server closed the connection", "`stackctl logs` shows the server's side")

    def _lines(self) -> Iterator[bytes]:
        try:
            while line := self._file.readline(_LONGEST):
                while literal := _LITERAL.search(line):
                    line += self._file.read(int(literal[1])) + self._file.readline(_LONGEST)
                yield line
        except OSError as why:
            raise StackctlError(f"{self._where}: no answer: {why}", "`stackctl logs` shows the server's side") from why


def _quoted(name: str) -> bytes:
    octets = name.encode()
    return b"{%d+}\r\n" % len(octets) + octets  # a literal holds every name


def _string(line: bytes) -> tuple[bytes, bytes]:
    """The string that a line begins with, quoted or a literal, and what follows it."""
    if literal := re.match(rb"\{(\d+)\+?\}\r\n", line):
        end = literal.end() + int(literal[1])
        return line[literal.end() : end], line[end:]
    quoted = re.match(rb'"((?:[^"\\]|\\.)*)"', line)
    if not quoted:
        raise StackctlError(f"not a string: {line[:60]!r}")
    return re.sub(rb"\\(.)", rb"\1", quoted[1]), line[quoted.end() :]
