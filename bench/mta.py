"""Each MTA beside the same one in a bare container: until it greets, and with mail for the default store. It tunes nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from bench import bare
from bench.figures import Figure, interleaved, median
from bench.mail import CONNECTIONS, MESSAGES, WHO, Reader, Side, one_at_a_time, rates
from bench.stacks import Bench, since
from stackctl import engine, images, inventory
from stackctl.backends import Backend, find
from stackctl.errors import TimedOut
from stackctl.labels import LABEL
from stackctl.model import Debian, Stack

WITHIN = 20.0  # seconds for a greeting, which takes a tenth of one


def mta(bench: Bench, runs: int, backend: Backend) -> Iterator[Figure]:
    """One message, a thousand, and the start of the container."""
    store = find("store", Stack().stores[0].backend)
    with (
        bench.up(f"mta-{backend.name}", (store.family, store.version), mta={"backend": backend.family}) as found,
        bare.pair(bench, store, backend) as twin,
        bench.removed(bench.name(f"senders-{backend.name}")) as name,
    ):
        ours, [at] = found["mta"], found["stores"]
        stack = Side(
            (ours["smtp"][0], ours["smtp"][1]),
            bare.Container(ours["container"]),
            bare.Container(found["stores"][at]["container"]),
            Reader.of(found, at),
            sender=_sender(name, ours["container"]),
        )
        other = Side(
            twin.smtp, twin.mta, twin.store, Reader(*twin.imaps, twin.context(), WHO, bare.PASSWORD), sender=_sender(name, twin.ids[0])
        )
        with contextlib.closing(stack.reader), contextlib.closing(other.reader):
            yield from one_at_a_time(stack, other, backend.name, "bare")
            yield from rates(stack, other, runs, f"{backend.name}: {MESSAGES} messages, {CONNECTIONS} at once", Side.many)
        mine, its = interleaved(runs, lambda: _greets(ours["container"]), lambda: _greets(twin.ids[0]))
    yield Figure("mta", f"{backend.name}: start of the container until it greets", "ms", median(mine), median(its), "bare")


def _sender(name: str, container: str) -> bare.Container:
    """What has smtp-source, in the network of a container: the default MTA's image, in which nothing else runs."""
    image = images.build([bare.default_mta()], Debian())[bare.default_mta().name]
    api = inventory.client().api
    beside = api.create_host_config(network_mode=f"container:{container}")
    made: str = api.create_container(image, entrypoint=["sleep", "infinity"], labels={LABEL: name}, host_config=beside)["Id"]
    api.start(made)
    return bare.Container(made)


def _greets(container: str) -> float:
    """Ends a container at once and starts it again; from then until it greets, in milliseconds. Raises TimedOut."""
    api = inventory.client().api
    api.kill(container)
    api.wait(container)
    start = time.perf_counter()
    api.start(container)
    while since(start) < 1000 * WITHIN:
        if engine.last_words(container) is None and bare.greets(bare.published(container, 25), b"220"):
            return since(start)
        time.sleep(0.002)
    raise TimedOut(f"no greeting within {WITHIN:g} s\n{engine.logs(container)}")
