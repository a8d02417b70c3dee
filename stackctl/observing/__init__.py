"""Looks at running servers beside one another: what they announce, do, write and take. It judges nothing, and starts no stack."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from stackctl.comparison import SECTIONS, Comparison, Fact, Measure
from stackctl.observing import limits, mtas, stores
from stackctl.observing.contest import FULL, QUICK, Contest, Contestant, Extent
from stackctl.steps import Report

__all__ = ["FULL", "QUICK", "Contestant", "Extent", "look"]


def look(contestants: Sequence[Contestant], role: Literal["store", "mta"], extent: Extent, report: Report) -> Comparison:
    """Compares running servers of one role: stores of one stack, or the MTAs of several. Raises EngineError, TimedOut, StackctlError where one does not do its part."""
    contest = Contest(contestants, extent)
    about, looked_at, measured = (_stores if role == "store" else _mtas)(contest, report)
    measures: list[Measure] = [contest.images()]
    report("memory, while nothing is asked …")
    measures += contest.resources("idle")
    facts: list[Fact] = []
    for what, look_at in (*looked_at, ("TLS", contest.tls), ("configuration", contest.configuration)):
        report(f"{what} …")
        facts += look_at()
    for what, measure in measured:
        report(f"{what} …")
        measures += measure()
    measures += contest.resources("after all of this")
    facts += contest.behaviours(stores.jobs if role == "store" else lambda one: mtas.jobs(one, extent.alone), report)
    report("starts …")
    measures.append(contest.starts())
    facts.sort(key=lambda fact: SECTIONS.index(fact.section))
    return Comparison(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        role=role,
        beside=about,
        quick=extent == QUICK,
        machine={"processors": str(os.cpu_count()), "architecture": platform.machine(), "kernel": platform.release(), "load": f"{os.getloadavg()[0]:.1f}"},
        servers={one.name: f"{one.part['backend']} {one.part['version']}" for one in contestants},
        facts=tuple(facts),
        measures=tuple(measures),
    )


_Look = tuple[str, Callable[[], Iterable[Fact]]]
_Measured = tuple[str, Callable[[], Iterable[Measure]]]


def _stores(contest: Contest, report: Report) -> tuple[str, list[_Look], list[_Measured]]:
    first = contest.contestants[contest.names[0]]
    looked_at: list[_Look] = [
        ("what is announced", lambda: stores.capabilities(contest)),
        ("logins", lambda: stores.logins(contest)),
        ("folders", lambda: stores.folders(contest)),
        ("files", lambda: stores.disk(contest)),
        ("limits", lambda: limits.of_stores(contest)),
    ]
    measured: list[_Measured] = [
        ("delivery", lambda: stores.delivery(contest)),
        ("sessions", lambda: [stores.whole(contest)]),
        ("reading", lambda: stores.reading(contest, report)),
    ]
    return f"All behind one MTA, {first.endpoints['mta']['backend']}", looked_at, measured


def _mtas(contest: Contest, _: Report) -> tuple[str, list[_Look], list[_Measured]]:
    first = contest.contestants[contest.names[0]]
    looked_at: list[_Look] = [
        ("what is announced", lambda: mtas.capabilities(contest)),
        ("logins", lambda: mtas.logins(contest)),
        ("replies", lambda: mtas.replies(contest)),
        ("limits", lambda: limits.of_mtas(contest)),
    ]
    measured: list[_Measured] = [("delivery", lambda: mtas.delivery(contest)), ("sessions", lambda: mtas.whole(contest))]
    return f"Each in front of the same stores, {', '.join(first.endpoints['stores'])}; mail is looked for in {mtas.store(first)}", looked_at, measured
