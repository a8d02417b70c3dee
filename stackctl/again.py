"""Brings a stack up again that was only taken down and of which nothing changed. It renders nothing.

The containers start while this program still loads what proves that they work. Where anything is not as it was, it starts nothing and
leaves all to `stack.up`.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stackctl import command, engine, ports, start, state
from stackctl.clients.where import open_listeners
from stackctl.labels import PEER, config_volume, volume_name
from stackctl.steps import Report, Up


def up(known: state.State, report: Report = lambda _: None) -> Up | None:
    """Starts what `known`, an unchanged stack, consists of, and waits until mail flows; None where that cannot be told to be right.

    Raises EngineError, and TimedOut where another command holds the stack or a server does not answer. A failure leaves nothing running.
    """
    if known.containers or "directory" in known.endpoints:  # the others would look up in vain until it answers
        return None
    volumes = [volume_name(known.name, config_volume(service)) for service in known.pushed]
    with state.lock(known.name), ThreadPoolExecutor(2) as pool:
        # One question for all that must be there: each program that is started costs 30 ms of a processor.
        there = pool.submit(command.run, ["docker", "inspect", "--format", "there", *volumes, *known.images.values()], check=False)
        under_way: list[Future[Any]] = [there]
        done = Up(known, report)
        try:
            if not _is_as_it_was(known):
                return None
            started = {service: threading.Event() for service in known.pushed}
            under_way.append(starting := pool.submit(start.containers, done, started))
            if there.result().status != 0:  # hardly ever; Compose, which is just being loaded, need not wait for the answer
                start.end(under_way)
                engine.remove(known.name, volumes=False)
                known.pushed = {}  # a volume that Compose made is empty
                state.save(known)
                return None
            start.prove(done, starting, started, lambda _: "")  # its files have been good before
        except BaseException as why:
            start.end(under_way)
            start.abandon(known.name, volumes, why)
            raise
        state.save(known)
        return done


def _is_as_it_was(known: state.State) -> bool:
    """Whether no other command changed the stack while this one waited for its turn, it and other stacks do not meet, and its ports are free."""
    projects = {name: file.read_bytes() for name in state.names() if (file := start.project(name)).is_file()}
    own = projects.pop(known.name, b"")
    return (
        state.load(known.name) == known
        and hashlib.sha256(own).hexdigest() == known.compose_digest
        and PEER.encode() not in own
        and not any(f"{PEER}: {known.name}\n".encode() in other for other in projects.values())
        and all(ports.is_free(*place) for part in state.parts(known.endpoints).values() for place in open_listeners(part).values())
    )
