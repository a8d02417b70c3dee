"""What was seen of several stores beside one another, what follows from it, and how it compares with an earlier time. It looks at no server.

Nothing here is known beforehand: every fact has its evidence, every figure the runs that it comes from.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stackctl.errors import UsageError

SCHEMA = 1
BEFORE = "before login"  # in the topic of what is announced then
MANY = ("Capabilities", "Behaviours")  # of which those that are the same are only named
NOISY = 0.5  # an interquartile range of more than so much of the median says that the machine had other work


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fact(_Kept):
    """Something that was observed: a word for each store, and what it was taken from."""

    section: str
    topic: str
    values: Mapping[str, str]
    evidence: Mapping[str, str] = {}

    @property
    def same(self) -> bool:
        """Whether every store shows the same."""
        return len(set(self.values.values())) == 1


class Measure(_Kept):
    """Something that was measured, run by run and store by store in turn. `size` is the number of messages that there were, 0 where it does not matter."""

    section: str
    what: str
    unit: str
    better: Literal["less", "more"]
    size: int = 0
    runs: Mapping[str, tuple[float, ...]]

    @property
    def name(self) -> str:
        """What it is called where one is chosen."""
        return f"{self.what} ({self.size} messages)" if self.size else self.what

    def median(self, store: str) -> float:
        """The middle one of a store's runs."""
        return statistics.median(self.runs[store])

    def spread(self, store: str) -> tuple[float, float]:
        """The first and the third quartile."""
        runs = self.runs[store]
        if len(runs) < 2:
            return runs[0], runs[0]
        first, _, third = statistics.quantiles(runs, n=4, method="inclusive")
        return first, third

    @property
    def best(self) -> str | None:
        """The store that is ahead of every other one by more than the spread; None where none is."""
        ordered = sorted(self.runs, key=self.median, reverse=self.better == "more")
        first, *others = ordered
        ahead = [self.spread(first)[0] > self.spread(one)[1] if self.better == "more" else self.spread(first)[1] < self.spread(one)[0] for one in others]
        return first if others and all(ahead) else None

    @property
    def noisy(self) -> bool:
        """Whether the runs of some store differ too much to tell."""
        return any(self.median(store) > 0 and (high - low) / self.median(store) > NOISY for store in self.runs for low, high in [self.spread(store)])


class Comparison(_Kept):
    """All of it, as `compare --json` prints it."""

    schema_version: int = SCHEMA
    made: str
    quick: bool
    machine: Mapping[str, str]
    stores: Mapping[str, str]  # name to server and version
    facts: tuple[Fact, ...]
    measures: tuple[Measure, ...]

    @property
    def warnings(self) -> list[str]:
        """Why figures may not be trusted."""
        noisy = [measure.name for measure in self.measures if measure.noisy]
        return [f"The machine was too busy to tell for certain: {', '.join(noisy)}"] if noisy else []

    def only(self, store: str) -> list[str]:
        """What this store alone announces, once somebody is logged in."""
        return self._announced(lambda own, others: own and not any(others), store)

    def lacking(self, store: str) -> list[str]:
        """What every other store announces then, and this one does not."""
        return self._announced(lambda own, others: not own and all(others), store)

    def _announced(self, told: Callable[[bool, list[bool]], bool], store: str) -> list[str]:
        """The capabilities for which `told` is true of whether this store has them, and of whether each other one has."""
        facts = [fact for fact in self.facts if fact.section == "Capabilities" and BEFORE not in fact.topic]
        return [fact.topic for fact in facts if told(fact.values[store] == "yes", [value == "yes" for other, value in fact.values.items() if other != store])]

    def ahead(self, store: str) -> list[str]:
        """In what this store is the best by more than the spread, and by how much it is ahead of the next."""
        return list(self._ahead(store))

    def _ahead(self, store: str) -> Iterator[str]:
        for measure in self.measures:
            if measure.best == store:
                medians = sorted(measure.median(other) for other in measure.runs if other != store)
                following, own = (medians[0] if measure.better == "less" else medians[-1]), measure.median(store)
                factor = following / own if measure.better == "less" else own / following
                low, high = measure.spread(store)
                yield f"{measure.name}: {shown(own)} {measure.unit} ({shown(low)} to {shown(high)}), {factor:.1f} times as good as the next"

    def regressions(self, before: Comparison, factor: float) -> list[str]:
        """What is worse than in an earlier comparison: figures by more than `factor`, and facts that another value has now."""
        earlier = {measure.name: measure for measure in before.measures}
        found = []
        for measure in self.measures:
            was = earlier.get(measure.name)
            for store in measure.runs if was else ():
                if was and store in was.runs and was.median(store) and measure.median(store):
                    ratio = measure.median(store) / was.median(store)
                    worse = ratio if measure.better == "less" else 1 / ratio
                    if worse > factor:
                        found.append(f"{store}: {measure.name}: {shown(measure.median(store))} {measure.unit}, was {shown(was.median(store))}: {worse:.2f} times as bad")
        known = {(fact.section, fact.topic): fact for fact in before.facts}
        for fact in self.facts:
            then = known.get((fact.section, fact.topic))
            if then and fact.section in ("Capabilities", "Behaviours"):
                lost = [store for store, value in then.values.items() if value in ("yes", "passed") and fact.values.get(store, value) not in ("yes", "passed")]
                found += [f"{store}: {fact.topic}: {fact.values[store]}, was {then.values[store]}" for store in lost]
        return found

    def markdown(self) -> str:
        """The same as a page of Markdown."""
        names = list(self.stores)
        lines = [f"# {' and '.join(names)} side by side", "", f"Made {self.made} on {', '.join(f'{key} {value}' for key, value in self.machine.items())}.", ""]
        lines += [f"> {warning}" for warning in self.warnings]
        for store in names:
            lines += ["", f"## {store}: {self.stores[store]}", ""]
            lines.append(f"- alone announces: {', '.join(self.only(store)) or 'nothing'}")
            if len(names) > 2:  # of two, it is what the other one has alone
                lines.append(f"- lacks what the others announce: {', '.join(self.lacking(store)) or 'nothing'}")
            lines += [f"- ahead in {line}" for line in self.ahead(store)]
        lines += ["", "## Figures", "", f"| what | unit | {' | '.join(names)} |", f"| --- | --- |{' ---: |' * len(names)}"]
        for measure in self.measures:
            cells = [f"{shown(measure.median(store))} ({shown(measure.spread(store)[0])}–{shown(measure.spread(store)[1])})" for store in names]
            lines.append(f"| {measure.name} | {measure.unit} | {' | '.join(cells)} |")
        for section in self.sections:
            lines += ["", f"## {section}", "", f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
            facts = [fact for fact in self.facts if fact.section == section]
            same = [fact.topic for fact in facts if fact.same and section in MANY]
            lines += [f"| {_cell(fact.topic)} | {' | '.join(_cell(fact.values[store]) for store in names)} |" for fact in facts if fact.topic not in same]
            lines += ["", f"The same: {', '.join(same)}"] if same else []
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
        found = Comparison.model_validate_json(text)
    except ValidationError as why:
        first = why.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}: no comparison: {place + ': ' if place else ''}{first['msg']}", "`stackctl compare --json >FILE` writes one") from why
    if found.schema_version != SCHEMA:
        raise UsageError(f"{where}: schema {found.schema_version}, where this version reads {SCHEMA}", "make it again with this version")
    return found
