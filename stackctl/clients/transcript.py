"""What was said on a connection, both sides, inside TLS too. Passwords never get into it.

Two socket classes record what passes, so that the standard libraries work unchanged on top.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from typing import Any

from stackctl.clients.where import Where
from stackctl.errors import StackctlError

_SHOWN = 60  # lines of one direction in a row; the rest of a message is counted
_WIDTH = 300  # characters of a line
_MASK = "***"


class Transcript:
    """The lines of one connection: `C:` what the client sent, `S:` what the server answered, `--` what happened."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, str, str]] = []
        self._start = time.monotonic()
        self._partial = {"C": b"", "S": b""}
        self._secret_next = False  # the client's next line answers a SASL challenge

    def note(self, text: str) -> None:
        """Adds a line about the connection itself."""
        self._rows.append((time.monotonic() - self._start, "--", text))

    def record(self, side: str, data: bytes) -> None:
        """Adds octets of one side; whole lines are shown."""
        *lines, self._partial[side] = (self._partial[side] + data).split(b"\n")
        for line in lines:
            self._add(side, line.rstrip(b"\r").decode("utf-8", "replace"))

    def _add(self, side: str, line: str) -> None:
        if side == "C":
            line = self._masked(line)
        elif re.match(r"(334|\+ |\+$)", line):
            self._secret_next = self._sasl_open
        elif not line.startswith("* "):
            self._sasl_open = self._secret_next = False
        self._rows.append((time.monotonic() - self._start, side, line))

    _sasl_open = False

    def _masked(self, line: str) -> str:
        if self._secret_next:
            self._secret_next = False
            return line if line == "*" else _MASK
        self._sasl_open = bool(re.match(r"(\S+ )?(AUTH|AUTHENTICATE) ", line, re.IGNORECASE))
        line = re.sub(r"^((?:\S+ )?(?:AUTH|AUTHENTICATE) \S+) \S.*", rf"\1 {_MASK}", line, flags=re.IGNORECASE)
        line = re.sub(r"^(\S+ LOGIN (?:\"(?:[^\"\\]|\\.)*\"|\S+)) .+", rf"\1 {_MASK}", line, flags=re.IGNORECASE)
        if re.match(r"\S+ LOGIN .*\{\d+\+?\}$", line, re.IGNORECASE):
            self._secret_next = self._sasl_open = True
        return re.sub(r"^(PASS|APOP \S+) .*", rf"\1 {_MASK}", line, flags=re.IGNORECASE)

    def __str__(self) -> str:
        out: list[str] = []
        run, side_before, hidden = 0, "", 0
        for offset, side, line in [*self._rows, (0.0, "", "")]:
            run = run + 1 if side == side_before else 1
            if side != side_before and hidden:
                out.append(f"           {side_before}: … {hidden} more lines")
                hidden = 0
            side_before = side
            if not side:
                break
            if run > _SHOWN and side != "--":
                hidden += 1
                continue
            mark = side if side == "--" else f"{side}:"
            out.append(f"{offset * 1000:8.1f}ms {mark} {line[:_WIDTH]}{'…' if len(line) > _WIDTH else ''}")
        return "\n".join(out)

    @property
    def lines(self) -> list[str]:
        """The lines without times: `C: …`, `S: …`, `-- …`."""
        return [f"{side}{'' if side == '--' else ':'} {line}" for _, side, line in self._rows]


class _Recorded:
    """What both socket classes do: hand octets to the transcript as they pass."""

    transcript: Transcript | None = None

    def sendall(self, data: Any, *rest: Any) -> None:
        super().sendall(data, *rest)  # type: ignore[misc]
        self._note("C", bytes(data))

    def send(self, data: Any, *rest: Any) -> int:
        count: int = super().send(data, *rest)  # type: ignore[misc]
        if not isinstance(self, ssl.SSLSocket) or not self._inside_sendall:
            self._note("C", bytes(data)[:count])
        return count

    _inside_sendall = False

    def recv(self, *rest: Any) -> bytes:
        data: bytes = super().recv(*rest)  # type: ignore[misc]
        self._note("S", data)
        return data

    def recv_into(self, buffer: Any, *rest: Any) -> int:
        count: int = super().recv_into(buffer, *rest)  # type: ignore[misc]
        self._note("S", bytes(memoryview(buffer)[:count]))
        return count

    def _note(self, side: str, data: bytes) -> None:
        if self.transcript is not None:
            self.transcript.record(side, data)


class RecordedSocket(_Recorded, socket.socket):
    """A plain socket that is recorded."""


class RecordedTls(_Recorded, ssl.SSLSocket):
    """A TLS socket whose clear text is recorded."""

    def sendall(self, data: Any, *rest: Any) -> None:
        """Sends all; ssl's own sendall calls send, which must not record a second time."""
        self._inside_sendall = True
        try:
            super().sendall(data, *rest)
        finally:
            self._inside_sendall = False

    # ssl's recv and recv_into call read for data inside TLS; read itself stays unrecorded.


def connect(where: Where, transcript: Transcript, timeout: float) -> RecordedSocket:
    """A connected, recorded plain socket. Raises StackctlError when nobody listens."""
    try:
        raw = socket.create_connection((where.host, where.port), timeout)
    except OSError as why:
        raise StackctlError(f"{where}: cannot connect: {why.strerror or why}", "is the stack up? `stackctl status` tells") from why
    recorded = RecordedSocket(raw.family, raw.type, raw.proto, fileno=raw.detach())
    recorded.settimeout(timeout)
    recorded.transcript = transcript
    transcript.note(f"connected to {where}")
    return recorded


class Context:
    """Wraps sockets for the standard libraries: their `context.wrap_socket` gives recorded, verified TLS."""

    def __init__(self, where: Where, transcript: Transcript) -> None:
        self._where, self._transcript = where, transcript

    def wrap_socket(self, sock: socket.socket, server_hostname: str | None = None, **_: Any) -> RecordedTls:
        """Does the handshake, checking the certificate against the listener's name. Raises TlsFailed."""
        try:
            context = self._where.context()
            context.sslsocket_class = RecordedTls
            wrapped = context.wrap_socket(sock, server_hostname=self._where.name)
        except FileNotFoundError as why:
            raise TlsFailed(f"the CA file {self._where.ca} is gone", "`stackctl up` makes it anew") from why
        except ssl.SSLCertVerificationError as why:
            self._transcript.note(f"TLS failed: {why.verify_message}")
            raise TlsFailed(
                f"{self._where}: the certificate does not verify for {self._where.name}: {why.verify_message}",
                f"trusted is {self._where.ca or 'what the system trusts'}; `stackctl ca path` names the CA of the stack",
            ) from why
        except (ssl.SSLError, OSError) as why:
            self._transcript.note(f"TLS failed: {why}")
            raise TlsFailed(f"{self._where}: the TLS handshake failed: {why}") from why
        assert isinstance(wrapped, RecordedTls)
        wrapped.transcript = self._transcript
        cipher = wrapped.cipher()
        self._transcript.note(f"{wrapped.version()}, {cipher[0] if cipher else '?'}, certificate verified for {self._where.name}")
        return wrapped


class TlsFailed(StackctlError):
    """The server's certificate did not verify, or the handshake failed."""


class AuthRefused(StackctlError):
    """The server refused a login."""
