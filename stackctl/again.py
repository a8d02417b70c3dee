"""Brings a stack up again that was only taken down and of which nothing changed. It renders nothing.

The containers start while this program still loads what proves that they work. Where anything is not as it was, it starts nothing and
leaves all to `stack.up`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stackctl import command, engine, ports, start, state
from stackctl.clients.where import open_listeners
from stackctl.labels import NETWORK, config_volume, volume_name
from stackctl.steps import Report, Up


def up(known: state.State, report: Report = lambda _: None) -> Up | None:
    """Starts what `known`, an unchanged stack, consists of, and waits until mail flows; None where that cannot be told to be right.

    Raises EngineError, and TimedOut where another command holds the stack or a server does not answer. A failure leaves nothing running.
    """
    if known.containers or "directory" in known.endpoints:  # the others would look up in vain until it answers
        return None
    with state.lock(known.name), ThreadPoolExecutor(4) as pool:
        looked = pool.submit(engine.look, known.name)
        under_way: list[Future[Any]] = [looked]
        done = Up(known, report)
        try:
            if not _is_as_it_was(known, looked, pool, under_way):
                return None
            started = {service: threading.Event() for service in known.pushed}
            starting = pool.submit(start.containers, done, started)
            under_way.append(starting)
            start.prove(done, starting, started, lambda _: "")  # its files have been good before
        except BaseException as why:
            start.clear_up(known.name, looked, under_way, why)
            raise
        state.save(known)
        return done


def _is_as_it_was(known: state.State, looked: Future[engine.Found], pool: ThreadPoolExecutor, under_way: list[Future[Any]]) -> bool:
    file = start.project(known.name)
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != known.compose_digest:
        return False
    images = pool.submit(command.run, ["docker", "image", "inspect", "--format", "{{.Id}}", *known.images.values()], check=False)
    network = pool.submit(_network, known, looked)
    under_way += [images, network]
    return (
        state.load(known.name) == known  # another command may have had its turn in between
        and all(ports.is_free(*place) for part in state.parts(known.endpoints).values() for place in open_listeners(part).values())
        and not looked.result().containers
        and {volume_name(known.name, config_volume(service)) for service in known.pushed} <= set(looked.result().volumes)
        and images.result().status == 0
        and network.result()
    )


def _network(known: state.State, looked: Future[engine.Found]) -> bool:
    """Makes the network as the project has it, 60 ms that Compose would take; False where other stacks are to be met, or something runs."""
    import yaml

    networks: Mapping[str, Any] = yaml.load(start.project(known.name).read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["networks"]
    if set(networks) != {NETWORK} or engine.wanted_by(known.name) or looked.result().containers:
        return False
    engine.make_network(known.name, NETWORK, networks[NETWORK]["labels"], networks[NETWORK]["driver_opts"])
    return True
