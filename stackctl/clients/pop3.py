"""A POP3 client (RFC 1939) for tests: exact octets out, nothing deleted unless asked."""

from __future__ import annotations

import contextlib
import poplib
from collections.abc import Iterator
from typing import Any

from stackctl.clients.failure import STRIPPED, WRONG_PASSWORD, AuthRefused, TlsFailed, closing, explain, said
from stackctl.clients.transcript import Context, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import UsageError


class _Library(poplib.POP3):
    """poplib on a recorded socket."""

    def __init__(self, where: Where, transcript: Transcript, timeout: float) -> None:
        self._where, self._transcript = where, transcript
        with closing(self):
            super().__init__(where.host, where.port, timeout)

    def _create_socket(self, timeout: float) -> Any:
        sock = connect(self._where, self._transcript, timeout)
        return Context(self._where, self._transcript).wrap_socket(sock) if self._where.tls == "implicit" else sock

    def octets(self, command: str) -> bytes:
        """A multi-line answer as it was before it was made one (RFC 1939 3); poplib's own readers lose line ends and limit lines."""
        self._shortcmd(command)  # type: ignore[attr-defined]
        lines: list[bytes] = []
        after_crlf = True
        while True:
            line: bytes = self.file.readline()
            if not line:
                raise poplib.error_proto("-ERR EOF")
            if after_crlf and line.startswith(b"."):
                if line == b".\r\n":
                    return b"".join(lines)
                line = line[1:]
            after_crlf = line.endswith(b"\r\n")
            lines.append(line)


class Pop3:
    """A session that has greeted, and is inside TLS where the listener has it. A context manager; leaving it sends QUIT.

    Every method raises StackctlError (TlsFailed, AuthRefused and TimedOut are kinds of it) and nothing of the library below.
    """

    def __init__(self, where: Where, timeout: float = 60, transcript: Transcript | None = None) -> None:
        self.transcript = transcript or Transcript()
        self._where = where
        with self._guard("connect"):
            self._library = _Library(where, self.transcript, timeout)
        if where.tls == "starttls":
            with closing(self._library):
                self._secure()

    def _secure(self) -> None:
        if "STLS" not in self.capabilities:
            raise TlsFailed(f"{self._where}: the server does not offer STLS", STRIPPED)
        context: Any = Context(self._where, self.transcript)
        with self._guard("STLS"):
            self._library.stls(context=context)

    def __enter__(self) -> Pop3:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Sends QUIT (which makes deletions final) where the connection still stands, and closes it."""
        try:
            self._library.quit()
        except (poplib.error_proto, OSError):
            self._library.close()

    @property
    def capabilities(self) -> set[str]:
        """What CAPA announces, in upper case (RFC 2449)."""
        return set(self.announced())

    def announced(self) -> dict[str, list[str]]:
        """The same, each with its parameters."""
        with self._guard("CAPA"):
            return {word.upper(): parameters for word, parameters in self._library.capa().items()}

    def login(self, user: str, password: str) -> None:
        """USER and PASS. Raises AuthRefused."""
        self.transcript.hide(password)
        if any(ord(character) < 32 or ord(character) == 127 for character in user + password):
            raise UsageError("a user name or password holds a control character", "POP3 says each in one line")
        try:
            with self._guard("PASS", answers=False):
                self._library.user(user)
                self._library.pass_(password)
        except poplib.error_proto as why:
            raise AuthRefused(f"{self._where}: the login of {user} was refused: {said(why)}", WRONG_PASSWORD) from why

    def stat(self) -> tuple[int, int]:
        """How many messages there are, and their octets."""
        with self._guard("STAT"):
            count, size = self._library.stat()
            return count, size

    def sizes(self) -> dict[int, int]:
        """The octets of each message, by its number."""
        with self._guard("LIST"):
            return {int(number): int(size) for number, size in (row.split()[:2] for row in self._library.list()[1])}

    def uidl(self) -> dict[int, str]:
        """The unique id of each message, by its number."""
        with self._guard("UIDL"):
            return {int(number): unique.decode() for number, unique in (row.split()[:2] for row in self._library.uidl()[1])}

    def retr(self, number: int) -> bytes:
        """The octets of a message, with the dots as they were."""
        with self._guard(f"RETR {number}"):
            return self._library.octets(f"RETR {number}")

    def top(self, number: int, lines: int) -> bytes:
        """The header and the first lines of the body."""
        with self._guard(f"TOP {number}"):
            return self._library.octets(f"TOP {number} {lines}")

    def dele(self, number: int) -> None:
        """Marks a message; it goes when the session ends with QUIT."""
        with self._guard(f"DELE {number}"):
            self._library.dele(number)

    @contextlib.contextmanager
    def _guard(self, stage: str, answers: bool = True) -> Iterator[None]:
        """Explains what the library raises. Unless `answers`, the server's -ERR is left to the caller."""
        try:
            yield
        except poplib.error_proto as why:
            if not answers and "EOF" not in said(why):
                raise
            raise explain(self._where, stage, why) from why
        except OSError as why:
            raise explain(self._where, stage, why) from why
