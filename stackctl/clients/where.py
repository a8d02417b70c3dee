"""Where a listener is and how its certificate is checked. A value; it connects to nothing."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Tls = Literal["implicit", "starttls", "none"]
IMPLICIT = ("submissions", "imaps", "pop3s")  # inside TLS from the first octet (RFC 8314); the others have STARTTLS or STLS


def open_listeners(part: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Of one service of `endpoints`: each open listener with its [host, port]."""
    return {name: place for name, place in part.items() if isinstance(place, list) and name != "provides"}


@dataclass(frozen=True)
class Where:
    """A listener. `name` is the host name that its certificate must carry; `ca` whom to trust (None: the system's roots)."""

    host: str
    port: int
    tls: Tls
    name: str
    ca: Path | None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def context(self) -> ssl.SSLContext:
        """What verifies the server: chain and name, always. Raises FileNotFoundError when the CA file is gone."""
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        # Python 3.13's default: a certificate that it would not take is not taken by an older one either.
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context
