"""Servers of one role beside one another, each looked at in the same way: what every comparison has. It judges nothing.

Every figure is measured in each server in turn, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackctl import engine, inventory, preview, scenarios, state
from stackctl.backends import TOPICS, Backend, all_backends
from stackctl.clients import offer
from stackctl.clients.imap import Imap
from stackctl.clients.message import compose
from stackctl.clients.pop3 import Pop3
from stackctl.clients.probe import probe
from stackctl.clients.smtp import Smtp
from stackctl.clients.transcript import Transcript
from stackctl.clients.where import Where
from stackctl.comparison import Fact, Measure
from stackctl.scenario import FOREIGN_SENDER
from stackctl.steps import Report

MIB = 1024 * 1024
OCTETS = 4096  # of each message
WITHIN = 120.0  # seconds for messages to arrive
_UP = 60.0  # seconds for a server to greet
_LEAST = 2  # runs of a figure, below which there is no spread
_JOBS = 6  # cases at once on each stack
_SESSIONS: Mapping[str, Callable[..., Imap | Pop3 | Smtp]] = {"imap": Imap, "pop3": Pop3, "smtp": Smtp}


@dataclass(frozen=True)
class Extent:
    """How much is looked at: runs of each figure, messages that are sent one by one and at once, the mailboxes that are read, starts, and which cases of the suite."""

    runs: int
    singles: int
    burst: int
    sizes: tuple[int, ...]
    starts: int
    alone: bool  # whether cases are tried that nothing else may run beside, and every way in


QUICK = Extent(runs=5, singles=10, burst=50, sizes=(100,), starts=3, alone=False)
FULL = Extent(runs=9, singles=40, burst=500, sizes=(100, 10_000, 100_000), starts=7, alone=True)


@dataclass(frozen=True)
class Contestant:
    """One server: what it is called in the comparison, the service that it is, and its stack."""

    name: str
    service: str
    known: state.State
    stack_file: Path
    endpoints: Mapping[str, Any]

    @property
    def backend(self) -> Backend:
        """What it can do."""
        return all_backends()[self.part["backend"]]

    @property
    def part(self) -> dict[str, Any]:
        """What the endpoints say of it."""
        found: dict[str, Any] = state.parts(self.endpoints)[self.service]
        return found

    @property
    def container(self) -> str:
        """Where it runs."""
        return self.known.containers[self.service]

    @property
    def password(self) -> str:
        """That of every address of the disposable domain."""
        return str(self.endpoints["disposable"]["password"])

    def address(self, what: str) -> str:
        """A mailbox that nobody else uses."""
        return f"{what}@{self.endpoints['disposable']['domain']}"

    def where(self, listener: str, service: str = "") -> Where:
        """A listener, its own or another service's of its stack."""
        return Where.of(self.endpoints, service or self.service, listener)

    def imap(self, who: str = "", store: str = "") -> Imap:
        """A session with a store, itself unless another one is named, logged in where it is said as whom."""
        session = Imap(self.where("imaps", store), transcript=Transcript(whole=True))
        if who:
            session.login(who, self.password)
        return session


class Contest:
    """One comparison of running servers."""

    def __init__(self, contestants: Sequence[Contestant], extent: Extent) -> None:
        self.contestants = {one.name: one for one in contestants}
        self.names = list(self.contestants)
        self.extent = extent

    def each(self, word: Callable[[Contestant], tuple[str, str]], section: str, topic: str) -> Fact:
        """A fact from what `word` finds in each server: a word and its evidence."""
        found = {name: word(one) for name, one in self.contestants.items()}
        values = {name: value for name, (value, _) in found.items()}
        return Fact(section=section, topic=topic, values=values, evidence={name: text for name, (_, text) in found.items()})

    def in_turn(self, runs: int, measured: Callable[[Contestant], float], within: float = math.inf) -> dict[str, list[float]]:
        """What is measured in each server, in turn, so often; twice at least, and no more than that once so many seconds are over."""
        found: dict[str, list[float]] = {name: [] for name in self.names}
        over = time.monotonic() + within
        for number in range(runs):
            if number >= _LEAST and time.monotonic() > over:
                break
            for name, values in found.items():
                values.append(measured(self.contestants[name]))
        return found

    def words(self, what: str, announced: Mapping[str, tuple[set[str], str]]) -> Iterator[Fact]:
        """A fact for each word that some server announces: in `announced` the words of each, and what it said."""
        for word in sorted(set().union(*(words for words, _ in announced.values()))):
            values = {name: "yes" if word in words else "no" for name, (words, _) in announced.items()}
            yield Fact(section="Capabilities", topic=f"{what}: {word}", values=values, evidence={name: said for name, (_, said) in announced.items()})

    def listeners(self) -> Iterator[tuple[str, str]]:
        """The listeners that all of the servers have open, each with its protocol; those in whose protocol a session can be had."""
        for listener, about in self.contestants[self.names[0]].backend.listeners.items():
            if about.protocol in _SESSIONS and all(one.part.get(listener) for one in self.contestants.values()):
                yield listener, about.protocol

    # --- Facts

    def tls(self) -> Iterator[Fact]:
        """What each port offers, by version, and what a client of today gets."""
        for listener, protocol in self.listeners():

            def agreed(one: Contestant, listener: str = listener, protocol: str = protocol) -> tuple[str, str]:
                with _SESSIONS[protocol](one.where(listener)) as session:
                    said = str(session.transcript)
                found = re.search(r"TLS [\d.]+, [\w-]+", said)
                return found[0] if found else "none", said

            yield self.each(agreed, "TLS", f"{listener}: a client of today gets")
            orders = dict.fromkeys(self.names, "cannot be told")
            for version in offer.VERSIONS:
                found = {name: offer.offered(one.where(listener), protocol, version) for name, one in self.contestants.items()}
                orders |= {name: one.order for name, one in found.items() if one.order}
                values = {name: ", ".join(sorted(one.suites)) or "no" for name, one in found.items()}
                evidence = {name: f"taken in this order: {', '.join(one.suites)}" if one.suites else "every suite was refused" for name, one in found.items()}
                yield Fact(section="TLS", topic=f"{listener}: {version}", values=values, evidence=evidence)
            yield Fact(section="TLS", topic=f"{listener}: whose preference counts", values=orders)

    def configuration(self) -> Iterator[Fact]:
        """What each server was told, by topic, and the files as they were rendered."""
        files = {one.name: _files(one) for one in self.contestants.values()}
        sorted_out = {one.name: _by_topic(one.backend, files[one.name]) for one in self.contestants.values()}
        for topic in TOPICS:
            if any(found[topic] for found in sorted_out.values()):
                values = {name: f"{len(found[topic])} settings" if found[topic] else "none" for name, found in sorted_out.items()}
                yield Fact(section="Configuration", topic=topic, values=values, evidence={name: "\n".join(found[topic]) for name, found in sorted_out.items()})
        for path in sorted(set().union(*files.values())):
            texts = {name: found.get(path, "") for name, found in files.items()}
            values = {name: f"{len(text.splitlines())} lines" if text else "none" for name, text in texts.items()}
            yield Fact(section="Configuration", topic=f"the file {path}", values=values, evidence=texts)

    def behaviours(self, jobs: Callable[[Contestant], list[scenarios.Job]], report: Report) -> Iterator[Fact]:
        """What came of each sentence of the suite, with each server; all stacks at once, the servers of one stack in one run."""
        todo: dict[str, list[scenarios.Job]] = {}
        for one in self.contestants.values():
            todo.setdefault(one.known.name, []).extend(job for job in jobs(one) if self.extent.alone or not job[0].alone)
        report(f"{sum(map(len, todo.values()))} cases of the suite …")
        endpoints = {one.known.name: one.endpoints for one in self.contestants.values()}
        with ThreadPoolExecutor(len(todo)) as pool:
            runs = {name: pool.submit(scenarios.run, endpoints[name], chosen=chosen, jobs=_JOBS, transcripts=True) for name, chosen in todo.items()}
        found: dict[str, dict[str, scenarios.Outcome]] = {}
        ways = Counter((job.name, case.way_in) for jobs_of in todo.values() for job, case in jobs_of)
        for one in self.contestants.values():
            for outcome in runs[one.known.name].result():
                if outcome.case.store in (None, one.service) or one.service not in one.endpoints["stores"]:
                    way = f" ({outcome.case.way_in})" if outcome.case.way_in and sum(name == outcome.name for name, _ in ways) > 1 else ""
                    found.setdefault(outcome.name.replace("_", " ") + way, {})[one.name] = outcome
        for topic, outcomes in sorted(found.items()):
            values = {name: one.reason if one.verdict == "not offered" else f"{one.verdict}: {one.reason}".rstrip(": ") for name, one in outcomes.items()}
            if set(outcomes) == set(self.names):
                yield Fact(section="Behaviours", topic=topic, values=values, evidence={name: one.transcript or one.reason for name, one in outcomes.items()})

    # --- Figures

    def resources(self, when: str) -> Iterator[Measure]:
        """What each container holds in memory, without file pages that the kernel could drop at once, and how many processes it has."""
        api = inventory.client().api
        memory = self.in_turn(3, lambda one: inventory.working_set(one.container) / MIB)
        processes = self.in_turn(3, lambda one: float(len(api.top(one.container)["Processes"])))
        yield measure("Resources", f"memory, {when}", "MiB", "less", memory)
        yield measure("Resources", f"processes, {when}", "", "less", processes)

    def images(self) -> Measure:
        """How large the image of each server is, with the base that it may share."""
        api: Any = inventory.client().api
        sizes = {one.name: [api.inspect_image(one.known.images[one.backend.name])["Size"] / 1e6] for one in self.contestants.values()}
        return measure("Resources", "image, with its base", "MB", "less", sizes)

    def starts(self) -> Measure:
        """From the start of a stopped container to the first greeting, TLS verified where it comes first."""
        listener, protocol = next(self.listeners())

        def started(one: Contestant) -> float:
            known = [found for found in inventory.containers(one.known.name) if found.id == one.container]
            engine.each("kill", known)  # a stop can wait for seconds for what is open

            def start() -> None:
                engine.each("start", known)
                probe(one.where(listener), protocol, time.monotonic() + _UP, lambda: engine.last_words(one.container), one.name)

            return took(start)

        return measure("Resources", f"start of the container until {listener} greets", "ms", "less", self.in_turn(self.extent.starts, started))


def _files(one: Contestant) -> dict[str, str]:
    plan = preview.preview(one.stack_file, one.known.name)
    return {path: file.content.decode("utf-8", "replace") for path, file in plan.files[one.service].items()}


def _by_topic(backend: Backend, files: Mapping[str, str]) -> dict[str, list[str]]:
    """The settings of all files by topic: each belongs to the first whose expression its first line begins with."""
    found: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for path, text in files.items():
        for setting in settings(text):
            topic = next((topic for topic, begins in backend.topics.items() if re.match(begins, setting)), None)
            if topic:
                found[topic].append(f"{path}: {setting}")
    return found


def settings(text: str) -> Iterator[str]:
    """The settings of a file without comments: a line with those that belong to it, which are indented or stand between its braces."""
    lines: list[str] = []
    depth = 0
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if lines and not depth and line[0] not in " \t":
            yield "\n".join(lines)
            lines = []
        lines.append(line)
        depth = max(0, depth + line.rstrip().endswith("{") - (line.strip() == "}"))
    if lines:
        yield "\n".join(lines)


def took(work: Callable[[], object]) -> float:
    """Milliseconds that some work takes."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def message(to: str, subject: str) -> bytes:
    """One of the usual size."""
    return compose(FOREIGN_SENDER, [to], [], subject, ("x" * 70 + "\n") * (OCTETS // 71), ())


def measure(section: str, what: str, unit: str, better: Any, runs: Mapping[str, list[float]], size: int = 0) -> Measure:
    """A figure from its runs in each server."""
    return Measure(section=section, what=what, unit=unit, better=better, size=size, runs={name: tuple(round(one, 3) for one in found) for name, found in runs.items()})


def limit(taken: Callable[[int], str], ceiling: int, least: int = 1) -> tuple[str, str]:
    """The largest size that is taken, found by doubling and then halving to a hundredth; and what is said of the next. `taken` is "" for a size that is.

    A refusal counts where it is repeated: another one may be about the moment.
    """
    good, bad, said = 0, 0, ""
    size = least
    while size <= ceiling:
        if answer := taken(size) and taken(size):
            bad, said = size, answer
            break
        good, size = size, size * 2
    if not bad:
        return f"at least {good:,}", "every size that was tried was taken"
    while bad - good > max(1, good // 100):
        middle = (good + bad) // 2
        if answer := taken(middle) and taken(middle):
            bad, said = middle, answer
        else:
            good = middle
    near = "" if bad - good == 1 else "about "
    return f"{near}{good:,}", f"{good:,} is taken, {bad:,} is not: {said}"
