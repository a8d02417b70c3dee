"""What can go wrong on a connection, told so that a person knows the next step. It retries nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from stackctl.clients.where import Where
from stackctl.errors import StackctlError, TimedOut

WRONG_PASSWORD = "`stackctl endpoints --secrets` shows the passwords, `stackctl user passwd` sets one"
STRIPPED = "something between may have taken it out: do not send a password"


class TlsFailed(StackctlError):
    """The server's certificate did not verify, the handshake failed, or TLS was asked for and is not offered."""


class AuthRefused(StackctlError):
    """The server refused a login."""


def explain(where: Where, stage: str, why: BaseException) -> StackctlError:
    """The error to raise for what a library raised during `stage`, a protocol command or "connect"."""
    causes = list(_causes(why))
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return TimedOut(f"{where}: {stage}: no answer in time", "`stackctl logs` shows whether the server saw it, `stackctl status` whether it runs")
    # The libraries say so in their own words: "socket error: EOF", "-ERR EOF", "Connection unexpectedly closed".
    if any(isinstance(cause, EOFError | ConnectionError) or "EOF" in str(cause) or "unexpectedly closed" in str(cause) for cause in causes):
        return StackctlError(f"{where}: {stage}: the server closed the connection", "`stackctl logs` shows why, `stackctl status` whether it runs")
    return StackctlError(f"{where}: {stage}: {said(why)}", "`stackctl logs` shows the server's side")


def said(why: BaseException) -> str:
    """What the server said, or else the error's name."""
    first = why.args[-1] if why.args else ""
    text = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
    for quote in ("'", '"'):  # imaplib passes on str(b'...')
        if text.startswith(f"b{quote}") and text.endswith(quote):
            text = text[2:-1]
    return text or type(why).__name__


def _causes(why: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = why
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


@contextlib.contextmanager
def closing(library: object) -> Iterator[None]:
    """Closes a library's connection when what follows fails, so that no socket stays behind."""
    try:
        yield
    except BaseException:
        for part in (getattr(library, "file", None), getattr(library, "sock", None)):  # an open file would keep the socket open
            if part is not None:
                with contextlib.suppress(OSError):
                    part.close()
        raise
