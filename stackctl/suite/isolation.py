"""What the services cannot reach: anything outside the stack. It asks from inside each container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stackctl import engine
from stackctl.backends import all_backends
from stackctl.clients.transcript import connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError
from stackctl.scenario import Context, Skipped, expect, scenario
from stackctl.suite.declared import declared

PATIENCE = 2  # seconds for a connection from inside; one within the stack takes a few thousandths
OUTSIDE = (("1.1.1.1", 443), ("9.9.9.9", 443), ("8.8.8.8", 53))  # addresses that have answered for years


def _connects(container: str, host: str, port: int) -> bool:
    """Whether a TCP connection from inside a container is made. bash is part of every Debian."""
    status, _ = engine.execute(container, ["timeout", str(PATIENCE), "bash", "-c", 'exec 3<>"/dev/tcp/$0/$1"', host, str(port)])
    return status == 0


@scenario(feature="A9")
def no_service_reaches_anything_outside(context: Context) -> None:
    """Addresses that this machine itself reaches; every service reaches its neighbour all the same."""
    declared(context, "there is no relayhost", lambda stack: not stack.relayhost)
    parts = {"mta": context.endpoints["mta"], **context.endpoints["stores"]}
    inside = {name: _port(part) for name, part in parts.items()}
    with ThreadPoolExecutor(16) as pool:
        places = [*_resolvers(), *OUTSIDE]
        reachable = [place for place, reached in zip(places, pool.map(lambda place: _from_here(context, *place), places), strict=True) if reached]
        tries = [(name, host, port) for name in parts for host, port in reachable or OUTSIDE[:1]]
        for (name, host, port), got_out in zip(tries, pool.map(lambda job: _connects(parts[job[0]]["container"], job[1], job[2]), tries), strict=True):
            expect(not got_out, f"{name} reached {host}:{port}, which is outside")
    for name, part in parts.items():
        neighbour = next(other for other in parts if other != name)
        expect(_connects(part["container"], neighbour, inside[neighbour]), f"{name} does not reach {neighbour}, so that its silence proves nothing")
    if not reachable:
        raise Skipped("this machine itself reaches nothing outside, so that the services' silence proves nothing")


def _port(part: Mapping[str, Any]) -> int:
    """Where an open listener of a service is, inside the stack."""
    return next(listener.port for name, listener in all_backends()[part["backend"]].listeners.items() if part[name])


def _from_here(context: Context, host: str, port: int) -> bool:
    try:
        connect(Where(host, port, "none", host, None), context.recorder.open(f"{host}:{port} from this machine"), 2).close()
    except StackctlError:
        return False
    return True


def _resolvers() -> list[tuple[str, int]]:
    """The name servers of this machine that are on other machines."""
    try:
        text = Path("/etc/resolv.conf").read_text(encoding="utf-8")
    except OSError:
        return []
    return [(host, 53) for host in re.findall(r"^nameserver\s+([0-9.]+)\s*$", text, re.MULTILINE) if not host.startswith("127.")]
