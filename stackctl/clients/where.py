"""Where a listener is and how its certificate is checked. A value; it connects to nothing."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stackctl.errors import UsageError

Tls = Literal["implicit", "starttls", "none"]
CLEAR = ("telnet", "kerberos")  # without TLS, ever
IMPLICIT = ("submissions", "imaps", "pop3s", "https")  # inside TLS from the first octet (RFC 8314); the others have STARTTLS or STLS


def open_listeners(part: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Of one service of `endpoints`: each open listener with its [host, port]."""
    return {name: place for name, place in part.items() if isinstance(place, list) and len(place) == 2 and isinstance(place[1], int)}


@dataclass(frozen=True)
class Where:
    """A listener. `name` is the host name that its certificate must carry; `ca` whom to trust (None: the system's roots)."""

    host: str
    port: int
    tls: Tls
    name: str
    ca: Path | None

    @classmethod
    def of(cls, endpoints: Mapping[str, Any], service: str, listener: str) -> Where:
        """A listener of a stack. Raises UsageError when the stack has none of that name."""
        part = {**endpoints["stores"], **{name: endpoints.get(name) for name in ("mta", "host", "webmail", "kdc")}}.get(service)
        if part is None:
            raise UsageError(f"the stack {endpoints['name']} has no store {service}", f"it has {', '.join(endpoints['stores'])}")
        if not part.get(listener):
            raise UsageError(f"{service} has no open listener {listener}", f"it has {', '.join(open_listeners(part))}")
        host, port = part[listener]
        return cls(host, port, "implicit" if listener in IMPLICIT else "none" if listener in CLEAR else "starttls", endpoints["tls_name"], Path(endpoints["ca"]))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def context(self) -> ssl.SSLContext:
        """What verifies the server: chain and name, always. Raises FileNotFoundError when the CA file is gone."""
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        # Python 3.13's default: a certificate that it would not take is not taken by an older one either.
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context
