"""A POP3 client (RFC 1939) for tests: exact octets out, nothing deleted unless asked."""

from __future__ import annotations

import contextlib
import poplib
from collections.abc import Iterator
from typing import Any

from stackctl.clients.transcript import AuthRefused, Context, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError

poplib._MAXLINE = 20_000_000  # type: ignore[attr-defined]  # real messages have longer lines than RFC 1939 gives answers


class _Library(poplib.POP3):
    """poplib on a recorded socket."""

    def __init__(self, where: Where, transcript: Transcript, timeout: float) -> None:
        self._where, self._transcript = where, transcript
        super().__init__(where.host, where.port, timeout)
        self.host = where.name

    def _create_socket(self, timeout: float) -> Any:
        sock = connect(self._where, self._transcript, timeout)
        return Context(self._where, self._transcript).wrap_socket(sock) if self._where.tls == "implicit" else sock


class Pop3:
    """A session that has greeted, and is inside TLS where the listener has it. A context manager; leaving it sends QUIT."""

    def __init__(self, where: Where, timeout: float = 60, transcript: Transcript | None = None) -> None:
        self.transcript = transcript or Transcript()
        self._where = where
        with self._guard("connect"):
            self._library = _Library(where, self.transcript, timeout)
        if where.tls == "starttls":
            if "STLS" not in self.capabilities:
                self._library.close()
                raise StackctlError(f"{where}: the server does not offer STLS", "something between may have taken it out: do not send a password")
            with self._guard("STLS"):
                secure: Any = Context(where, self.transcript)
                self._library.stls(context=secure)

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
        with self._guard("CAPA"):
            return {word.upper() for word in self._library.capa()}

    def login(self, user: str, password: str) -> None:
        """USER and PASS. Raises AuthRefused."""
        try:
            self._library.user(user)
            self._library.pass_(password)
        except poplib.error_proto as why:
            raise AuthRefused(
                f"{self._where}: the login of {user} was refused: {_text(why)}",
                "`stackctl endpoints --secrets` shows the passwords, `stackctl user passwd` sets one",
            ) from why
        except OSError as why:
            raise StackctlError(f"{self._where}: PASS: {why or type(why).__name__}") from why

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
            return b"".join(line + b"\r\n" for line in self._library.retr(number)[1])

    def top(self, number: int, lines: int) -> bytes:
        """The header and the first lines of the body."""
        with self._guard(f"TOP {number}"):
            return b"".join(line + b"\r\n" for line in self._library.top(number, lines)[1])

    def dele(self, number: int) -> None:
        """Marks a message; it goes when the session ends with QUIT."""
        with self._guard(f"DELE {number}"):
            self._library.dele(number)

    @contextlib.contextmanager
    def _guard(self, stage: str) -> Iterator[None]:
        try:
            yield
        except poplib.error_proto as why:
            raise StackctlError(f"{self._where}: {stage}: {_text(why)}", "`stackctl logs` shows the server's side") from why
        except OSError as why:
            raise StackctlError(f"{self._where}: {stage}: {why or type(why).__name__}", "`stackctl status` tells whether the server runs") from why


def _text(why: BaseException) -> str:
    first = why.args[0] if why.args else why
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
