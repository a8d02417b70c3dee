"""Waits until a listener greets and its TLS verifies. It logs in nowhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from stackctl.clients.transcript import Context, TlsFailed, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import EngineError, StackctlError, TimedOut

_PAUSE = 0.004  # seconds between two tries: a server comes up in 10 to 50 ms
_GREETINGS = {"smtp": b"220", "imap": b"* OK", "pop3": b"+OK", "managesieve": b'"', "http": b""}
_LOOK = 0.25  # seconds between two looks at whether the container still runs


def probe(where: Where, protocol: str, deadline: float, gone: Callable[[], str | None], label: str) -> None:
    """Tries until `deadline` (on time.monotonic). `gone` says why the server will never answer, or None.

    Raises EngineError with that reason, or TimedOut with the last thing that was seen.
    """
    start = looked = time.monotonic()
    last: Exception | str = "nothing was tried"
    while True:
        try:
            _once(where, protocol)
            return
        except TlsFailed as why:
            if "does not verify" in why.message:  # this does not get better by waiting
                raise
            last = why
        except (StackctlError, OSError) as why:
            last = why
        now = time.monotonic()
        if now > deadline:
            raise TimedOut(f"{label}: not ready after {now - start:.0f} s (last: {last})", "`stackctl logs` shows what the server says")
        if now - looked > _LOOK:
            looked = now
            if reason := gone():
                raise EngineError(f"{label}: {reason}", "`stackctl check` lets the server look at its configuration")
        time.sleep(_PAUSE)


def _once(where: Where, protocol: str) -> None:
    sock = connect(where, Transcript(), 10)
    with sock:
        if where.tls == "implicit":
            with Context(where, Transcript()).wrap_socket(sock) as tls:
                _greeting(tls.recv(1000), protocol)
        else:
            _greeting(sock.recv(1000), protocol)


def _greeting(data: bytes, protocol: str) -> None:
    # The engine's port forwarder accepts before the server listens, and closes without a word.
    if not data or not data.startswith(_GREETINGS[protocol]):
        raise StackctlError(f"greeted with {data[:60]!r}" if data else "closed without a greeting")
