"""Looks at the stores of a running stack beside one another: what they announce, do, write and take. It judges nothing.

Every figure is measured in each store in turn, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from stackctl import engine, inventory, preload, preview, running, scenarios, state
from stackctl.clients.imap import Imap
from stackctl.clients.message import compose
from stackctl.clients.pop3 import Pop3
from stackctl.clients.smtp import Smtp
from stackctl.clients.transcript import Transcript
from stackctl.clients.where import Where
from stackctl.comparison import BEFORE, Comparison, Fact, Measure
from stackctl.errors import StackctlError
from stackctl.scenario import FOREIGN_SENDER
from stackctl.steps import Report

MIB = 1024 * 1024
OCTETS = 4096  # of each message of a mailbox that is measured
READ = 100  # messages that one FETCH reads, in a mailbox of any size
WITHIN = 60.0  # seconds for a message to arrive


@dataclass(frozen=True)
class Extent:
    """How much is looked at: runs of each figure, messages that are sent one by one and at once, and the mailboxes that are read."""

    runs: int
    singles: int
    burst: int
    sizes: tuple[int, ...]
    behaviours: Callable[[scenarios.Job], bool]


def _once(job: scenarios.Job) -> bool:
    """Whether a case is about stores, by one way in and one way out."""
    case = job[1]
    return case.store is not None and case.way_in in (None, "smtp") and case.way_out in (None, "imaps")


QUICK = Extent(5, 10, 50, (100,), lambda job: _once(job) and not job[0].alone)
FULL = Extent(9, 40, 500, (100, 1000, 10_000), _once)


class _Looking:
    """One comparison of a running stack."""

    def __init__(self, known: state.State, stack_file: Path, extent: Extent) -> None:
        self.known, self.stack_file, self.extent = known, stack_file, extent
        self.endpoints = running.endpoints(known, secrets=True)
        self.stores = list(self.endpoints["stores"])
        self.password: str = self.endpoints["disposable"]["password"]
        self.domain: str = self.endpoints["disposable"]["domain"]

    def address(self, what: str) -> str:
        return f"{what}@{self.domain}"

    def imap(self, store: str, who: str = "") -> Imap:
        """A session, logged in where it is said as whom."""
        session = Imap(Where.of(self.endpoints, store, "imaps"), transcript=Transcript(whole=True))
        if who:
            session.login(who, self.password)
        return session

    def each(self, word: Callable[[str], tuple[str, str]], section: str, topic: str) -> Fact:
        """A fact from what `word` finds in each store: a word and its evidence."""
        found = {store: word(store) for store in self.stores}
        values = {store: value for store, (value, _) in found.items()}
        return Fact(section=section, topic=topic, values=values, evidence={store: text for store, (_, text) in found.items()})

    def in_turn(self, runs: int, measured: Callable[[str], float]) -> dict[str, list[float]]:
        """What is measured in each store, in turn, so often."""
        found: dict[str, list[float]] = {store: [] for store in self.stores}
        for _ in range(runs):
            for store, values in found.items():
                values.append(measured(store))
        return found

    # --- Facts

    def capabilities(self) -> Iterator[Fact]:
        """What each store announces, by word."""
        who = self.address("capabilities")
        for what, announced in (
            (f"IMAP {BEFORE}", {store: self._imap_words(store, "") for store in self.stores}),
            ("IMAP", {store: self._imap_words(store, who) for store in self.stores}),
            ("POP3", {store: self._pop3_words(store) for store in self.stores}),
        ):
            for word in sorted(set().union(*(words for words, _ in announced.values()))):
                values = {store: "yes" if word in words else "no" for store, (words, _) in announced.items()}
                yield Fact(section="Capabilities", topic=f"{what}: {word}", values=values, evidence={store: said for store, (_, said) in announced.items()})

    def _imap_words(self, store: str, who: str) -> tuple[set[str], str]:
        with self.imap(store, who) as session:
            found = session.capabilities
            said = [line for line in session.transcript.lines if re.match(r"S: (\* |.*\[)CAPABILITY ", line)]
            return found, said[-1]

    def _pop3_words(self, store: str) -> tuple[set[str], str]:
        with Pop3(Where.of(self.endpoints, store, "pop3s")) as session:
            return session.capabilities, str(session.transcript)

    def tls(self) -> Iterator[Fact]:
        """The version and cipher that a client of today gets on each port."""
        for listener in ("imaps", "imap", "pop3s", "pop3"):

            def agreed(store: str, listener: str = listener) -> tuple[str, str]:
                opened = Imap if listener.startswith("imap") else Pop3
                with opened(Where.of(self.endpoints, store, listener)) as session:
                    said = str(session.transcript)
                found = re.search(r"TLS [\d.]+, [\w-]+", said)
                return found[0] if found else "none", said

            if all(self.endpoints["stores"][store].get(listener) for store in self.stores):
                yield self.each(agreed, "TLS", listener)

    def folders(self) -> Iterator[Fact]:
        """What a new mailbox looks like."""
        who = self.address("folders")

        def namespace(store: str) -> tuple[str, str]:
            with self.imap(store, who) as session:
                found = session.ask("NAMESPACE").get("NAMESPACE", [b""])
                return found[0].decode("utf-8", "replace"), str(session.transcript)

        def made(store: str) -> tuple[str, str]:
            with self.imap(store, who) as session:
                return ", ".join(sorted(name for _, _, name in session.listed())), str(session.transcript)

        def deepest(store: str) -> tuple[str, str]:
            with self.imap(store, self.address("depth")) as session:
                separator = next((mark for _, mark, _ in session.listed() if mark), "/")
                name, depth = session.prefix + "a", 1
                try:
                    while depth < _DEEP:
                        session.create(name)
                        name, depth = f"{name}{separator}a", depth + 1
                except StackctlError as why:
                    return f"{depth - 1}", why.message
                return f"at least {depth}", ""

        yield self.each(namespace, "Folders", "NAMESPACE (RFC 2342)")
        yield self.each(made, "Folders", "of a new mailbox")
        yield self.each(deepest, "Folders", "how deep they can be")

    def disk(self) -> Iterator[Fact]:
        """The files that one message makes."""
        who = self.address("disk")
        with Smtp(Where.of(self.endpoints, "mta", "smtp")) as smtp:
            smtp.send(FOREIGN_SENDER, [who], _message(who, "one message"))
        for store in self.stores:
            with self.imap(store, who) as session:
                session.select()
                session.wait(subject="one message", timeout=WITHIN)

        def files(store: str) -> tuple[str, str]:
            places = list(_writable(self.known.containers[store]))
            _, said = engine.execute(self.known.containers[store], ["find", *places, "-path", "*disk*", "-type", "f"])
            found = sorted(line for line in said.splitlines() if line.startswith("/"))
            return f"{len(found)} files", "\n".join(found)

        yield self.each(files, "On disk", "a mailbox with one message")

    def configuration(self) -> Iterator[Fact]:
        """The files of each store, as they were rendered."""
        plan = preview.preview(self.stack_file, self.known.name)
        topics = sorted({path for store in self.stores for path in plan.files[store]})
        for topic in topics:
            texts = {store: plan.files[store][topic].content.decode("utf-8", "replace") if topic in plan.files[store] else "" for store in self.stores}
            values = {store: f"{len(text.splitlines())} lines" if text else "none" for store, text in texts.items()}
            yield Fact(section="Configuration", topic=topic, values=values, evidence=texts)

    def behaviours(self, report: Report) -> Iterator[Fact]:
        """What came of each sentence of the suite, in each store."""
        todo = [job for job in scenarios.plan(self.stores) if self.extent.behaviours(job)]
        report(f"{len(todo)} cases of the suite …")
        outcomes = scenarios.run(self.endpoints, chosen=todo, transcripts=True)
        by_topic: dict[str, dict[str, scenarios.Outcome]] = {}
        for outcome in outcomes:
            by_topic.setdefault(outcome.name.replace("_", " "), {})[str(outcome.case.store)] = outcome
        for topic, found in sorted(by_topic.items()):
            values = {store: one.reason if one.verdict == "not offered" else f"{one.verdict}: {one.reason}".rstrip(": ") for store, one in found.items()}
            if set(found) == set(self.stores):
                yield Fact(section="Behaviours", topic=topic, values=values, evidence={store: one.transcript for store, one in found.items()})

    # --- Figures

    def resources(self, when: str) -> Iterator[Measure]:
        """What each container holds in memory, without file pages that the kernel could drop at once, and how many processes it has."""
        api = inventory.client().api
        memory = self.in_turn(3, lambda store: inventory.working_set(self.known.containers[store]) / MIB)
        processes = self.in_turn(3, lambda store: float(len(api.top(self.known.containers[store])["Processes"])))
        yield _measure("Resources", f"memory, {when}", "MiB", "less", memory)
        yield _measure("Resources", f"processes, {when}", "", "less", processes)

    def images(self) -> Measure:
        """How large the image of each store is, with the base that it may share."""
        api: Any = inventory.client().api
        sizes = {store: [api.inspect_image(self.known.images[self.endpoints["stores"][store]["backend"]])["Size"] / 1e6] for store in self.stores}
        return _measure("Resources", "image, with its base", "MB", "less", sizes)

    def delivery(self) -> Iterator[Measure]:
        """From the MTA's 250 until a NOOP on an open connection tells of the message; and many at once, until each store has them all."""
        who = self.address("delivery")
        sessions = {store: self.imap(store, who) for store in self.stores}
        came: dict[str, list[float]] = {store: [] for store in self.stores}
        rates: dict[str, list[float]] = {store: [] for store in self.stores}
        message = _message(who, "delivery")
        try:
            here = {store: session.select()["EXISTS"] for store, session in sessions.items()}
            with Smtp(Where.of(self.endpoints, "mta", "smtp")) as smtp:
                for _ in range(self.extent.singles):
                    smtp.send(FOREIGN_SENDER, [who], message)
                    for store, seconds in self._arrivals(sessions, here, 1).items():
                        came[store].append(1000 * seconds)
                for _ in range(3):
                    for _ in range(self.extent.burst):
                        smtp.send(FOREIGN_SENDER, [who], message)
                    for store, seconds in self._arrivals(sessions, here, self.extent.burst).items():
                        rates[store].append(1000 * seconds)
        finally:
            for session in sessions.values():
                session.close()
        yield _measure("Speed", "delivery: from 250 until a client sees it", "ms", "less", came)
        yield _measure("Speed", f"{self.extent.burst} messages in a row: from the last 250 until a client sees them all", "ms", "less", rates)

    def _arrivals(self, sessions: dict[str, Imap], here: dict[str, int], more: int) -> dict[str, float]:
        """Seconds until each store has so many more messages; each is asked in turn."""
        start, found = time.perf_counter(), {}
        waiting = list(sessions)
        while waiting:
            for store in list(waiting):
                with sessions[store].transcript.muted():
                    said = sessions[store].ask("NOOP").get("EXISTS")
                here_now = int(said[-1]) if said else 0
                if here_now >= here[store] + more:
                    found[store] = time.perf_counter() - start
                    here[store] = here_now
                    waiting.remove(store)
            if time.perf_counter() - start > WITHIN:
                raise StackctlError(f"{', '.join(waiting)}: {more} messages did not arrive within {WITHIN:g} s", "`stackctl logs` shows more")
        return found

    def sessions(self) -> Measure:
        """A whole session: TLS, login, INBOX opened, logout."""
        who = self.address("sessions")

        def whole(store: str) -> None:
            with self.imap(store, who) as session:
                session.select()

        return _measure("Speed", "a session: TLS, login, INBOX, logout", "ms", "less", self.in_turn(self.extent.runs * 3, lambda store: _took(lambda: whole(store))))

    def reading(self, report: Report) -> Iterator[Measure]:
        """FETCH, SEARCH and SORT in mailboxes that grow."""
        for size in self.extent.sizes:
            who = self.address(f"size-{size}")
            report(f"mailboxes of {size} messages …")
            preload.put(self.known, _messages(size), who)
            sessions = {store: self.imap(store, who) for store in self.stores}
            try:
                for session in sessions.values():
                    session.select()
                    session.uids("BODY", "nowhere")  # both have read it once, and made the index that they want
                step = max(1, size // READ)
                chosen = ",".join(str(number) for number in range(1, size + 1, step))
                works: list[tuple[str, Callable[[Imap], object]]] = [
                    (f"FETCH of {min(size, READ)} whole messages", lambda one, chosen=chosen: one.ask("FETCH", chosen, "(BODY.PEEK[])")),  # type: ignore[misc]
                    ("FETCH of flags and sizes of all", lambda one: one.ask("FETCH", "1:*", "(UID FLAGS RFC822.SIZE)")),
                    ("SEARCH by subject", lambda one: one.uids("SUBJECT", "number 42")),
                    ("SEARCH in the text", lambda one: one.uids("BODY", "needle")),
                ]
                if all("SORT" in session.capabilities for session in sessions.values()):
                    works.append(("SORT by subject", lambda one: one.ask("SORT", "(SUBJECT)", "UTF-8", "ALL")))
                for what, work in works:
                    found = self.in_turn(self.extent.runs, partial(_worked, sessions, work))
                    yield _measure("Speed", what, "ms", "less", found, size)
            finally:
                for session in sessions.values():
                    session.close()


_DEEP = 40  # folders in one another, beyond which nobody goes


def _writable(container: str) -> Iterator[str]:
    """Where a container has its volumes that it may write to."""
    return (mount["Destination"] for mount in inventory.inspect(container)["Mounts"] if mount["RW"])


def _took(work: Callable[[], object]) -> float:
    """Milliseconds that some work takes."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def _worked(sessions: Mapping[str, Imap], work: Callable[[Imap], object], store: str) -> float:
    """The same of work in one of several sessions, of which no transcript is kept."""
    with sessions[store].transcript.muted():
        return _took(lambda: work(sessions[store]))


def _message(to: str, subject: str) -> bytes:
    return compose(FOREIGN_SENDER, [to], [], subject, ("x" * 70 + "\n") * (OCTETS // 71), ())


def _measure(section: str, what: str, unit: str, better: Any, runs: dict[str, list[float]], size: int = 0) -> Measure:
    return Measure(section=section, what=what, unit=unit, better=better, size=size, runs={store: tuple(round(one, 3) for one in found) for store, found in runs.items()})


def _messages(count: int) -> Iterator[preload.Kept]:
    for number in range(count):
        text = f"From: writer-{number % 97}@elsewhere.example\nSubject: number {number * 7919 % count}\nMessage-ID: <{number}@elsewhere.example>\n\n"
        body = ("x" * 70 + "\n") * (OCTETS // 71) + ("needle\n" if number % 50 == 0 else "")
        yield preload.Kept((text + body).encode(), ("\\Seen",) if number % 2 else (), 1_700_000_000.0 + number)


def look(known: state.State, stack_file: Path, quick: bool, report: Report) -> Comparison:
    """Compares the stores of a running stack. Raises EngineError, TimedOut, StackctlError where one does not do its part."""
    looking = _Looking(known, stack_file, QUICK if quick else FULL)
    measures: list[Measure] = [looking.images()]
    report("memory, while nothing is asked …")
    measures += looking.resources("idle")
    facts: list[Fact] = []
    for what, look_at in (
        ("what is announced", looking.capabilities),
        ("TLS", looking.tls),
        ("folders", looking.folders),
        ("files", looking.disk),
        ("configuration", looking.configuration),
    ):
        report(f"{what} …")
        facts += look_at()
    for what, measured in (("delivery", looking.delivery), ("sessions", lambda: [looking.sessions()]), ("reading", lambda: looking.reading(report))):
        report(f"{what} …")
        measures += measured()
    measures += looking.resources("after all of this")
    facts += looking.behaviours(report)
    order: Sequence[str] = ("Capabilities", "Behaviours", "Folders", "TLS", "On disk", "Configuration")
    facts.sort(key=lambda fact: order.index(fact.section))
    machine = {"processors": str(os.cpu_count()), "architecture": platform.machine(), "kernel": platform.release(), "load": f"{os.getloadavg()[0]:.1f}"}
    named = {store: f"{part['backend']} {part['version']}" for store, part in looking.endpoints["stores"].items()}
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Comparison(made=made, quick=quick, machine=machine, stores=named, facts=tuple(facts), measures=tuple(measures))
