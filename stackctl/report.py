"""Outcomes as people and machines read them: a live table, a summary with the evidence of failures, JUnit XML, JSON. Pure: it prints nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from stackctl.scenario import AXES
from stackctl.scenarios import Job, Outcome, Verdict, all_scenarios, count

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = 1
# What XML 1.0 cannot carry, not even escaped (section 2.2, Char); a terminal must not get it either.
_NOT_TEXT = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SHOWN_FAILURES = 8  # in the live table
_LAST = 12  # log lines of a service in the summary


def topic(name: str) -> str:
    """What a scenario is about: the module that it is written in."""
    found = all_scenarios().get(name)
    return found.function.__module__.rpartition(".")[2] if found else "other"


class Board:
    """The state of a run while it goes on."""

    def __init__(self, todo: Sequence[Job]) -> None:
        self.outcomes: list[Outcome] = []
        self._topics = Counter(topic(scenario.name) for scenario, _ in todo)
        self._left = Counter(scenario.name for scenario, _ in todo)
        self.total = len(todo)

    def add(self, outcome: Outcome) -> str | None:
        """Takes an outcome; a line about its scenario, when that was the last of its cases."""
        self.outcomes.append(outcome)
        self._left[outcome.name] -= 1
        if self._left[outcome.name]:
            return None
        mine = [one for one in self.outcomes if one.name == outcome.name]
        worst = next((verdict for verdict in ("failed", "passed", "not offered", "skipped") if any(one.verdict == verdict for one in mine)), "skipped")
        return f"[{len(self.outcomes):4}/{self.total}] {worst:11} {count(mine, 'passed'):3} of {len(mine):3}  {outcome.name.replace('_', ' ')}"

    def table(self) -> RenderableType:
        """What is done of each topic, what servers do not offer, and the latest failures."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("ABOUT", "PASSED", "FAILED", "SKIPPED", "NOT OFFERED", "OF"):
            table.add_column(column, justify="left" if column == "ABOUT" else "right")
        table.add_column("", width=24)
        for name, of in self._topics.items():
            mine = [one for one in self.outcomes if topic(one.name) == name]
            failed = count(mine, "failed")
            style = "red" if failed else "green" if len(mine) == of else ""
            cells = (str(count(mine, "passed")), str(failed), str(count(mine, "skipped")), str(count(mine, "not offered")), str(of))
            table.add_row(Text(name, style), *cells, ProgressBar(total=of, completed=len(mine), width=24))
        failures = [one for one in self.outcomes if one.verdict == "failed"][-_SHOWN_FAILURES:]
        missing = dict.fromkeys(f"{one.case} {one.reason}" for one in self.outcomes if one.verdict == "not offered")
        return Group(table, *map(Text, missing), *(Text(f"FAILED {one.id}: {_first_line(one.reason)}", "red", no_wrap=True, overflow="ellipsis") for one in failures))


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """The run as text: the matrix, every failure with its evidence, what was skipped and why, and the count."""
    parts = [_matrix(outcomes)]
    parts += [failure(one) for one in outcomes if one.verdict == "failed"]
    if skipped := Counter((one.name, one.reason) for one in outcomes if one.verdict == "skipped"):
        parts.append("\n".join(f"skipped {times:3}  {name.replace('_', ' ')}: {reason}" for (name, reason), times in skipped.items()))
    if missing := [one for one in outcomes if one.verdict == "not offered"]:
        parts.append("\n".join(f"{one.case}: {one.name.replace('_', ' ')}: {one.reason}" for one in missing))
    if failed := [one.id for one in outcomes if one.verdict == "failed"]:
        parts.append("\n".join(f"failed  {name}" for name in failed))
    numbers = ", ".join(f"{count(outcomes, verdict)} {verdict}" for verdict in get_args(Verdict))
    parts.append(f"{len({one.name for one in outcomes})} scenarios, {len(outcomes)} cases: {numbers} in {seconds:.1f} s.")
    return "\n\n".join(part for part in parts if part)


def _matrix(outcomes: Sequence[Outcome]) -> str:
    """Store and way in against way out: how many cases of the matrix passed."""
    cells: dict[tuple[str, str], dict[str, list[Outcome]]] = {}
    for one in outcomes:
        if all(getattr(one.case, axis) for axis in AXES):
            cells.setdefault((str(one.case.store), str(one.case.way_in)), {}).setdefault(str(one.case.way_out), []).append(one)
    if not cells:
        return ""
    ways = list(dict.fromkeys(way for row in cells.values() for way in row))
    rows = [("STORE", "WAY IN", *(way.upper() for way in ways))]
    for (store, way_in), row in sorted(cells.items()):
        rows.append((store, way_in, *(f"{count(row.get(way, []), 'passed')}/{len(row.get(way, []))}" for way in ways)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def failure(outcome: Outcome) -> str:
    """A failed case with its evidence: the reason, what was said on its connections, what each service logged meanwhile."""
    parts = [f"FAILED {outcome.id} after {outcome.seconds:.2f} s", outcome.reason]
    if outcome.transcript:
        parts.append(f"--- what was said\n{outcome.transcript}")
    for service, lines in outcome.logs.items():
        shown = "\n".join(lines[-_LAST:]) or "(nothing)"
        parts.append(f"--- what {service} logged\n{shown}")
    return _clean("\n".join(parts))


def junit(outcomes: Sequence[Outcome], stack: str, seconds: float) -> bytes:
    """JUnit XML as CI systems read it: a suite per topic, a case per case."""
    root = ElementTree.Element("testsuites", _numbers(outcomes, seconds) | {"name": f"stackctl test {stack}"})
    for about in dict.fromkeys(topic(one.name) for one in outcomes):
        mine = [one for one in outcomes if topic(one.name) == about]
        suite = ElementTree.SubElement(root, "testsuite", {"name": about} | _numbers(mine, sum(one.seconds for one in mine)))
        for one in mine:
            case = ElementTree.SubElement(suite, "testcase", {"classname": f"stackctl.{about}", "name": one.id, "time": f"{one.seconds:.3f}"})
            properties = ElementTree.SubElement(case, "properties")
            for name, value in _properties(one):
                ElementTree.SubElement(properties, "property", {"name": name, "value": value})
            if one.verdict == "failed":
                found = ElementTree.SubElement(case, "failure", {"message": _first_line(one.reason), "type": "Failed"})
                found.text = failure(one)
            elif one.verdict != "passed":
                ElementTree.SubElement(case, "skipped", {"message": _clean(one.reason)})
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _properties(outcome: Outcome) -> list[tuple[str, str]]:
    """What `stackctl matrix` wants to know of a case."""
    found = [("feature", feature) for feature in _features(outcome)] + [("server", server) for server in outcome.servers]
    return [*found, ("real", "yes"), ("verdict", outcome.verdict), ("began", _time(outcome.began))]


def _features(outcome: Outcome) -> list[str]:
    return list(all_scenarios()[outcome.name].features) if outcome.name in all_scenarios() else []


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _numbers(outcomes: Sequence[Outcome], seconds: float) -> dict[str, str]:
    numbers = {"tests": len(outcomes), "failures": count(outcomes, "failed"), "errors": 0, "skipped": count(outcomes, "skipped") + count(outcomes, "not offered")}
    return {key: str(number) for key, number in numbers.items()} | {"time": f"{seconds:.3f}"}


def _clean(text: str) -> str:
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def _first_line(text: str) -> str:
    return _clean(text.partition("\n")[0])


def as_dict(outcomes: Sequence[Outcome], stack: str, seconds: float) -> dict[str, Any]:
    """The run for programs; the shape is fixed by `schema`."""
    return {
        "schema": SCHEMA,
        "stack": stack,
        "seconds": round(seconds, 3),
        "passed": count(outcomes, "passed"),
        "failed": count(outcomes, "failed"),
        "skipped": count(outcomes, "skipped"),
        "not_offered": count(outcomes, "not offered"),
        "cases": [
            {
                "scenario": one.name,
                "about": topic(one.name),
                "features": _features(one),
                "servers": list(one.servers),
                "began": _time(one.began),
                **{axis: getattr(one.case, axis) for axis in AXES},
                "verdict": one.verdict,
                "seconds": round(one.seconds, 3),
                "reason": _clean(one.reason),
                "transcript": _clean(one.transcript),
                "logs": {service: [_clean(line) for line in lines] for service, lines in one.logs.items()},
            }
            for one in outcomes
        ],
    }
