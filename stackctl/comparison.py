"""What was seen of several servers of one role beside one another, what follows from it, and how it compares with an earlier time. It looks at no server.

Nothing here is known beforehand: every fact has its evidence, every figure the runs that it comes from.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stackctl.errors import UsageError

SCHEMA = 2
BEFORE, BEFORE_TLS = "before login", "before TLS"  # in the topic of what is announced then
SECTIONS = ("Capabilities", "Logins", "Behaviours", "Replies", "Limits", "Searches", "Folders", "TLS", "On disk", "Configuration")  # of facts, in their order
MANY = ("Capabilities", "Behaviours", "Searches")  # of which those that are the same are only named
NOISY = 0.5  # an interquartile range of more than so much of the median says that the machine had other work


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fact(_Kept):
    """Something that was observed: a word for each server, and what it was taken from."""

    section: str
    topic: str
    values: Mapping[str, str]
    evidence: Mapping[str, str] = {}

    @property
    def same(self) -> bool:
        """Whether every server shows the same."""
        return len(set(self.values.values())) == 1


class Measure(_Kept):
    """Something that was measured, run by run and server by server in turn. `size` is the number of messages that there were, 0 where it does not matter."""

    section: str
    what: str
    unit: str
    better: Literal["less", "more"]
    size: int = 0
    runs: Mapping[str, tuple[float, ...]]

    @property
    def name(self) -> str:
        """What it is called where one is chosen."""
        return f"{self.what} ({self.size:,} messages)" if self.size else self.what

    def median(self, server: str) -> float:
        """The middle one of a server's runs."""
        return statistics.median(self.runs[server])

    def spread(self, server: str) -> tuple[float, float]:
        """The first and the third quartile."""
        runs = self.runs[server]
        if len(runs) < 2:
            return runs[0], runs[0]
        first, _, third = statistics.quantiles(runs, n=4, method="inclusive")
        return first, third

    @property
    def best(self) -> str | None:
        """The server that is ahead of every other one by more than the spread; None where none is."""
        ordered = sorted(self.runs, key=self.median, reverse=self.better == "more")
        first, *others = ordered
        ahead = [self.spread(first)[0] > self.spread(one)[1] if self.better == "more" else self.spread(first)[1] < self.spread(one)[0] for one in others]
        return first if others and all(ahead) else None

    def factor(self, server: str) -> float:
        """How many times as good as the best of the others a server is."""
        others = [self.median(other) for other in self.runs if other != server]
        following, own = (min(others), self.median(server)) if self.better == "less" else (self.median(server), max(others))
        return following / own if own else math.inf

    @property
    def noisy(self) -> bool:
        """Whether the runs of some server differ too much to tell."""
        return any(self.median(server) > 0 and (high - low) / self.median(server) > NOISY for server in self.runs for low, high in [self.spread(server)])


class Comparison(_Kept):
    """All of it, as `compare --json` prints it."""

    schema_version: int = SCHEMA
    made: str
    role: Literal["store", "mta"]
    beside: str = Field(description="What the servers of the other role are")
    quick: bool
    machine: Mapping[str, str]
    servers: Mapping[str, str] = Field(description="Name to server and version")
    facts: tuple[Fact, ...]
    measures: tuple[Measure, ...]

    @property
    def warnings(self) -> list[str]:
        """Why figures may not be trusted."""
        noisy = [measure.name for measure in self.measures if measure.noisy]
        return [f"The machine was too busy to tell for certain: {', '.join(noisy)}"] if noisy else []

    def only(self, server: str) -> list[str]:
        """What this server alone announces, once somebody is logged in."""
        return self._announced(lambda own, others: own and not any(others), server)

    def lacking(self, server: str) -> list[str]:
        """What every other server announces then, and this one does not."""
        return self._announced(lambda own, others: not own and all(others), server)

    def _announced(self, told: Callable[[bool, list[bool]], bool], server: str) -> list[str]:
        """The capabilities for which `told` is true of whether this server has them, and of whether each other one has."""
        facts = [fact for fact in self.facts if fact.section == "Capabilities" and BEFORE not in fact.topic and BEFORE_TLS not in fact.topic]
        where: dict[str, list[str]] = {}
        for fact in facts:
            if told(fact.values[server] == "yes", [value == "yes" for other, value in fact.values.items() if other != server]):
                place, _, word = fact.topic.partition(": ")
                where.setdefault(word, []).append(place)
        words: dict[str, list[str]] = {}
        for word, places in where.items():
            words.setdefault(", ".join(places), []).append(word)
        return [f"{places}: {', '.join(found)}" for places, found in words.items()]

    def ahead(self, server: str) -> list[str]:
        """In what this server is the best by more than the spread, and by how much it is ahead of the next."""
        return list(self._ahead(server))

    def _ahead(self, server: str) -> Iterator[str]:
        best: dict[str, list[Measure]] = {}
        for measure in self.measures:
            if measure.best == server:
                best.setdefault(measure.what, []).append(measure)
        for what, measures in best.items():  # one line for a mailbox of several sizes
            last, factors = measures[-1], [measure.factor(server) for measure in measures]
            low, high = last.spread(server)
            sizes = f" ({' to '.join(f'{size:,}' for size in dict.fromkeys((measures[0].size, last.size)))} messages)" if last.size else ""
            largest = f" with {last.size:,}" if len(measures) > 1 else ""
            far = " to ".join(dict.fromkeys(f"{factor:.1f}" for factor in (min(factors), max(factors))))
            yield f"{what}{sizes}: {shown(last.median(server))} {last.unit}{largest} ({shown(low)} to {shown(high)}), {far} times as good as the next"

    def regressions(self, before: Comparison, factor: float) -> list[str]:
        """What is worse than in an earlier comparison: figures by more than `factor`, and facts that another value has now."""
        earlier = {measure.name: measure for measure in before.measures}
        found = []
        for measure in self.measures:
            was = earlier.get(measure.name)
            for server in measure.runs if was else ():
                if was and server in was.runs and was.median(server) and measure.median(server):
                    ratio = measure.median(server) / was.median(server)
                    worse = ratio if measure.better == "less" else 1 / ratio
                    if worse > factor:
                        now, then = shown(measure.median(server)), shown(was.median(server))
                        found.append(f"{server}: {measure.name}: {now} {measure.unit}, was {then}: {worse:.2f} times as bad")
        known = {(fact.section, fact.topic): fact for fact in before.facts}
        for fact in self.facts:
            before_it = known.get((fact.section, fact.topic))
            if before_it and fact.section in ("Capabilities", "Behaviours"):
                lost = [server for server, value in before_it.values.items() if value in ("yes", "passed") and fact.values.get(server, value) not in ("yes", "passed")]
                found += [f"{server}: {fact.topic}: {fact.values[server]}, was {before_it.values[server]}" for server in lost]
        return found

    def markdown(self) -> str:
        """The same as a page of Markdown."""
        names = list(self.servers)
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        lines = [f"# {' and '.join(names)} side by side", "", f"{self.beside}. Made {self.made} on {machine}.", ""]
        lines += [f"> {warning}" for warning in self.warnings]
        for server in names:
            lines += ["", f"## {server}: {self.servers[server]}", ""]
            lines.append(f"- alone announces: {'; '.join(self.only(server)) or 'nothing'}")
            if len(names) > 2:  # of two, it is what the other one has alone
                lines.append(f"- lacks what the others announce: {'; '.join(self.lacking(server)) or 'nothing'}")
            lines += [f"- ahead in {line}" for line in self.ahead(server)]
        lines += ["", "## Figures", "", f"| what | unit | {' | '.join(names)} |", f"| --- | --- |{' ---: |' * len(names)}"]
        for measure in self.measures:
            cells = [f"{shown(measure.median(server))} ({shown(measure.spread(server)[0])}–{shown(measure.spread(server)[1])})" for server in names]
            lines.append(f"| {measure.name} | {measure.unit} | {' | '.join(cells)} |")
        for section in self.sections:
            lines += ["", f"## {section}", "", f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
            facts = [fact for fact in self.facts if fact.section == section]
            same: dict[str, list[str]] = {}
            for fact in facts:
                if fact.same and section in MANY:
                    same.setdefault(fact.values[names[0]], []).append(fact.topic)
                else:
                    lines.append(f"| {_cell(fact.topic)} | {' | '.join(_cell(fact.values[server]) for server in names)} |")
            for value, topics in same.items():
                lines += ["", f"The same, {value}: {', '.join(topics)}"]
        return "\n".join(lines) + "\n"

    @property
    def sections(self) -> list[str]:
        """Those that facts have, in their order."""
        return list(dict.fromkeys(fact.section for fact in self.facts))


def shown(value: float) -> str:
    """A figure with three digits that count."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def read(text: str, where: str) -> Comparison:
    """An earlier comparison, from its JSON. Raises UsageError for anything else."""
    try:
        raw = json.loads(text)
        schema = raw.get("schema_version", SCHEMA) if isinstance(raw, dict) else SCHEMA
        if schema != SCHEMA:
            raise UsageError(f"{where}: schema {schema}, where this version reads {SCHEMA}", "make it again with this version")
        return Comparison.model_validate_json(text)
    except json.JSONDecodeError as why:
        raise UsageError(f"{where}: no comparison: {why}", "`stackctl compare --json >FILE` writes one") from why
    except ValidationError as why:
        first = why.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}: no comparison: {place + ': ' if place else ''}{first['msg']}", "`stackctl compare --json >FILE` writes one") from why
