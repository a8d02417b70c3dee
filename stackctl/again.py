"""Brings a stack up again that was only taken down and of which nothing changed. It renders nothing.

The containers start while this program still loads what proves that they work. Where anything is not as it was, it starts nothing and
leaves all to `stack.up`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stackctl import inventory, ports, start, state
from stackctl.clients.where import open_listeners
from stackctl.errors import PortTaken
from stackctl.labels import PEER, config_volume, volume_name
from stackctl.steps import Report, Up


def up(known: state.State, report: Report = lambda _: None) -> Up | None:
    """Starts what `known`, an unchanged stack, consists of, and waits until mail flows; None where that cannot be told to be right.

    Raises EngineError, and TimedOut where another command holds the stack or a server does not answer. A failure leaves nothing running.
    """
    if known.containers or known.hindered or "directory" in known.endpoints:  # the others would look up in vain until it answers
        return None
    volumes = [volume_name(known.name, config_volume(service)) for service in known.pushed]
    with state.lock(known.name), ThreadPoolExecutor(3) as pool:
        under_way: list[Future[Any]] = []
        done = Up(known, report)
        try:
            if not _is_as_it_was(known, volumes):
                return None
            started = {service: threading.Event() for service in known.pushed}
            under_way.append(starting := pool.submit(start.containers, done, started))
            start.prove(done, starting, started, lambda _: "")  # its files have been good before
        except BaseException as why:
            start.end(under_way)
            start.abandon(known.name, volumes, why)
            if isinstance(why, PortTaken):
                return None
            raise
        state.save(known)
        return done


def _is_as_it_was(known: state.State, volumes: Sequence[str]) -> bool:
    """Whether no other command changed the stack while this one waited for its turn, its project meets no other stack, all is there and its ports are free."""
    file = start.project(known.name)
    project = file.read_bytes() if file.is_file() else b""
    return (
        state.load(known.name) == known
        and hashlib.sha256(project).hexdigest() == known.compose_digest
        and PEER.encode() not in project
        and not inventory.wanted_by(known.name)
        and set(volumes) <= set(inventory.volumes(known.name))
        and set(known.images.values()) <= set(inventory.images())
        and all(ports.is_free(*place) for part in state.parts(known.endpoints).values() for place in open_listeners(part).values())
    )
