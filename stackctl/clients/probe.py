"""Waits until a listener greets and its TLS verifies. It logs in nowhere."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from stackctl.clients.failure import TlsFailed
from stackctl.clients.transcript import Context, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import EngineError, StackctlError, TimedOut

_PAUSE = 0.006  # seconds between two tries: a server comes up in 10 to 50 ms
# telnet: a command, RFC 854; kerberos: the length of a short answer.
_GREETINGS = {"smtp": b"220", "imap": b"* OK", "pop3": b"+OK", "managesieve": b'"', "http": b"HTTP/1.", "telnet": b"\xff", "kerberos": b"\0\0"}
# kerberos: a length with its first bit set, which the server must complain about, and behind which it ends (RFC 4120 7.2.2).
_ASKED = {"http": b"HEAD / HTTP/1.0\r\n\r\n", "kerberos": b"\xff\xff\xff\xff"}
_LOOK = 0.25  # seconds between two looks at whether the container still runs
_RENEWED = 2.0  # seconds in which a server that was told to take a new certificate may still show the old one
_PATIENCE = 10.0  # seconds for one try: a server that took the connection is about to greet


class _Silent(StackctlError):
    """A server that took the connection has not greeted in time."""


def probe(where: Where, protocol: str, deadline: float, gone: Callable[[], str | None], label: str) -> None:
    """Tries until `deadline` (on time.monotonic). `gone` says why the server will never answer, or None.

    Raises EngineError with that reason, TlsFailed for a certificate that does not verify, or TimedOut with the last thing that was seen.
    """
    start = looked = time.monotonic()
    last, seen = "nothing was tried", False

    def look() -> None:
        """Asks now and then whether it is worth while to go on."""
        nonlocal looked
        if time.monotonic() - looked > _LOOK:
            looked = time.monotonic()
            if reason := gone():
                raise EngineError(f"{label}: {reason}", "`stackctl check` lets the server look at its configuration")

    while True:
        patience = min(_PATIENCE, max(0.1, deadline - time.monotonic()))
        try:
            _once(where, protocol, patience, look)
            return
        except EngineError:
            raise
        except _Silent as why:
            if patience == _PATIENCE or not seen:  # that the time is over says less than what was seen before
                last = why.message
        except StackctlError as why:
            unverified = isinstance(why, TlsFailed) and ("does not verify" in why.message or "CA file" in why.message)
            if unverified and time.monotonic() - start > _RENEWED:  # waiting makes this no better
                raise
            last, seen = why.message, True
        except OSError as why:
            last, seen = f"{where}: {why.strerror or why}", True
        if time.monotonic() > deadline:
            raise TimedOut(f"{label}: not ready after {time.monotonic() - start:.0f} s (last: {last})", "`stackctl logs` shows what the server says")
        look()
        time.sleep(_PAUSE)


def _once(where: Where, protocol: str, patience: float, look: Callable[[], None]) -> None:
    with connect(where, Transcript(), patience) as sock:
        if where.tls == "implicit":
            with Context(where, Transcript()).wrap_socket(sock) as tls:
                _greeting(tls, protocol, patience, look)
        else:
            _greeting(sock, protocol, patience, look)


def _greeting(sock: socket.socket, protocol: str, patience: float, look: Callable[[], None]) -> None:
    until = time.monotonic() + patience
    if protocol in _ASKED:  # here the client speaks first
        sock.sendall(_ASKED[protocol])
    while True:
        sock.settimeout(min(_LOOK, patience))
        try:
            data = sock.recv(1000)
            break
        except TimeoutError:
            look()
            if time.monotonic() > until:
                raise _Silent(f"no greeting within {patience:.1f} s") from None
    # The engine's port forwarder accepts before the server listens, and closes without a word.
    if not data or not data.startswith(_GREETINGS[protocol]):
        raise StackctlError(f"greeted with {data[:60]!r}" if data else "closed without a greeting")
