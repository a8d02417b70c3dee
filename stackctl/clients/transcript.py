"""What was said on a connection, both sides, inside TLS too. Passwords never get into it.

Two socket classes record what passes, so that the standard libraries work unchanged on top.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from stackctl.clients.dialogue import Dialogue
from stackctl.clients.failure import AuthRefused, TlsFailed
from stackctl.clients.where import Where
from stackctl.errors import StackctlError, TimedOut

__all__ = ["AuthRefused", "Context", "RecordedSocket", "RecordedTls", "TlsFailed", "Transcript", "connect"]

_BODY_LINES = 12  # of a message, and
_WIDTH = 300  # characters of a line; the rest is counted


class Transcript:
    """The lines of one connection: `C:` what the client sent, `S:` what the server answered, `--` what happened.

    `on_line` gets each of them at once, in the form of `lines`. Of a message only the first lines are kept, unless `whole`.
    """

    def __init__(self, on_line: Callable[[str], None] | None = None, whole: bool = False) -> None:
        self.dialogue = Dialogue(self._add, None if whole else _BODY_LINES, None if whole else _WIDTH)
        self._rows: list[tuple[float, str]] = []
        self._start = time.monotonic()
        self._on_line = on_line
        self._muted = False

    def note(self, text: str) -> None:
        """Adds a line about the connection itself."""
        self._add("--", self.dialogue.masked(text))

    def record(self, side: str, data: bytes) -> None:
        """Adds octets of one side, "C" or "S"; whole lines are shown."""
        self.dialogue.feed(side, data)

    def hide(self, secret: str) -> None:
        """Makes a password known, so that it is masked in places too where none belongs, in plain and in base64."""
        if len(secret) >= 4 and secret not in self.dialogue.secrets:  # a shorter one is part of ordinary words
            self.dialogue.secrets.append(secret)

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """Leaves out what is said meanwhile: a poll, of which nobody wants to read each round."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def _add(self, side: str, text: str) -> None:
        if self._muted and side != "--":
            return
        line = f"{side}{'' if side == '--' else ':'} {text}".rstrip()
        self._rows.append((time.monotonic() - self._start, line))
        if self._on_line is not None:
            self._on_line(line)

    def __str__(self) -> str:
        rows = [f"{offset * 1000:8.1f}ms {line}" for offset, line in self._rows]
        for side in "CS":
            if count := self.dialogue.unfinished(side):
                rows.append(f"{'':10} -- {'sent' if side == 'C' else 'received'} {count} octets more, without a line end")
        return "\n".join(rows)

    @property
    def lines(self) -> list[str]:
        """The lines without times: `C: …`, `S: …`, `-- …`."""
        return [line for _, line in self._rows]


class _Recorded:
    """What both socket classes do: hand octets to the transcript as they pass, and give the other side `limit` seconds for a whole answer.

    A time-out of the socket alone would start anew with every octet.
    """

    transcript: Transcript | None = None
    limit: float | None = None
    _deadline: float | None = None

    def send(self, data: Any, *rest: Any) -> int:
        self._arm()
        count: int = super().send(data, *rest)  # type: ignore[misc]
        self._note("C", data, count)
        return count

    def recv(self, *rest: Any) -> bytes:
        self._hurry()
        data: bytes = super().recv(*rest)  # type: ignore[misc]
        self._note("S", data, len(data))
        return data

    def recv_into(self, buffer: Any, *rest: Any) -> int:
        self._hurry()
        count: int = super().recv_into(buffer, *rest)  # type: ignore[misc]
        self._note("S", buffer, count)
        return count

    def _arm(self) -> None:
        """What is sent now wants an answer within the limit."""
        if self.limit is not None and self.gettimeout() != 0:  # type: ignore[attr-defined]
            self._deadline = time.monotonic() + self.limit
            self.settimeout(self.limit)  # type: ignore[attr-defined]

    def _hurry(self) -> None:
        timeout: float | None = self.gettimeout()  # type: ignore[attr-defined]
        if self._deadline is None or timeout == 0:  # 0: it does not block at all
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left if timeout is None else min(left, timeout))  # type: ignore[attr-defined]

    def _note(self, side: str, data: Any, count: int) -> None:
        if self.transcript is not None and count:
            self.transcript.record(side, bytes(memoryview(data)[:count]))


class RecordedSocket(_Recorded, socket.socket):
    """A plain socket that is recorded."""

    def sendall(self, data: Any, *rest: Any) -> None:
        """Sends all; the system's own function, which calls no other."""
        self._arm()
        super().sendall(data, *rest)
        self._note("C", data, len(data))


class RecordedTls(_Recorded, ssl.SSLSocket):
    """A TLS socket whose clear text is recorded. Its sendall calls send, and recv and recv_into call read, so each octet is noted once."""


def connect(where: Where, transcript: Transcript, timeout: float) -> RecordedSocket:
    """A connected, recorded plain socket that gives each answer `timeout` seconds. Raises StackctlError when nobody listens."""
    try:
        raw = socket.create_connection((where.host, where.port), timeout)
    except TimeoutError as why:
        raise TimedOut(f"{where}: cannot connect: no answer within {timeout:g} s", "is the stack up? `stackctl status` tells") from why
    except OSError as why:
        raise StackctlError(f"{where}: cannot connect: {why.strerror or why}", "is the stack up? `stackctl status` tells") from why
    recorded = RecordedSocket(raw.family, raw.type, raw.proto, fileno=raw.detach())
    # A command may go out in two parts (a literal, a body and its end); neither waits for the other's acknowledgement.
    recorded.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    recorded.limit = timeout
    recorded._arm()
    recorded.transcript = transcript
    transcript.note(f"connected to {where}")
    return recorded


class Context:
    """Wraps sockets for the standard libraries: their `context.wrap_socket` gives recorded, verified TLS."""

    def __init__(self, where: Where, transcript: Transcript) -> None:
        self._where, self._transcript = where, transcript

    def wrap_socket(self, sock: socket.socket, server_hostname: str | None = None, **_: Any) -> RecordedTls:
        """Does the handshake, checking the certificate against the listener's name. Raises TlsFailed, TimedOut; the socket is closed then."""
        where = self._where
        try:
            context = where.context()
            context.sslsocket_class = RecordedTls
            wrapped = context.wrap_socket(sock, server_hostname=where.name)
        except BaseException as why:
            sock.close()
            if not isinstance(why, OSError):
                raise
            self._transcript.note(f"TLS failed: {getattr(why, 'verify_message', '') or why}")
            raise _tls_error(where, why) from why
        assert isinstance(wrapped, RecordedTls)
        wrapped.transcript = self._transcript
        wrapped.limit = sock.limit if isinstance(sock, RecordedSocket) else None
        wrapped._arm()
        cipher = wrapped.cipher()
        version = (wrapped.version() or "TLS").replace("TLSv", "TLS ")
        self._transcript.note(f"{version}, {cipher[0] if cipher else '?'}, certificate verified for {where.name}")
        return wrapped


def _tls_error(where: Where, why: OSError) -> StackctlError:
    if isinstance(why, ssl.SSLCertVerificationError):
        return TlsFailed(
            f"{where}: the certificate does not verify for {where.name}: {why.verify_message}",
            f"trusted is {where.ca or 'what the system trusts'}; `stackctl ca path` names the CA of the stack",
        )
    if isinstance(why, FileNotFoundError):
        return TlsFailed(f"the CA file {where.ca} is gone", "`stackctl up` makes it anew")
    if isinstance(why, ssl.SSLError) and why.reason == "NO_CERTIFICATE_OR_CRL_FOUND":
        return TlsFailed(f"the CA file {where.ca} holds no certificate", "`stackctl ca path` names the CA of the stack")
    if isinstance(why, TimeoutError):
        return TimedOut(f"{where}: the TLS handshake did not end in time", "`stackctl logs` shows the server's side")
    what = why.reason if isinstance(why, ssl.SSLError) and why.reason else why.strerror or str(why)
    return TlsFailed(f"{where}: the TLS handshake failed: {what}", "`stackctl logs` shows the server's side; does this port speak TLS from the first octet?")
