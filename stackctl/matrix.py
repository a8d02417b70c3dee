"""The feature report: which feature was proven on which server, by which test, when, and how long it took. It runs no test and trusts none that did not run.

What came of tests is read from three forms: that of `Results`, the JSON of `stackctl test`, and JUnit XML whose cases have the properties of
`report.junit` (a property `feature` and `server` for each, `real`, `verdict`, `began`).
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stackctl import features
from stackctl.backends import all_backends
from stackctl.errors import CheckFailed, UsageError
from stackctl.scenario import Case

SCHEMA = 1
TESTED = 1  # the schema of `stackctl test --json` that is read
ALONE = "no server"  # in place of one, for a test that drives none
ROLES = ("mta", "store")  # whose servers come first
Verdict = Literal["passed", "failed", "skipped", "not offered"]
State = Literal["failed", "proven", "not proven"]
_NEXT = "`pytest --feature-results FILE` and `stackctl test --json >FILE` write such a file"


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tried(_Kept):
    """What came of one test, or of one case of a scenario. `servers` are backends, `real` says whether servers ran at all, `began` is ISO 8601."""

    name: str
    features: tuple[str, ...]
    servers: tuple[str, ...] = ()
    real: bool
    verdict: Verdict
    seconds: float
    began: str
    reason: str = ""


class Results(_Kept):
    """A run of tests, as `pytest --feature-results` writes it."""

    kind: Literal["feature results"] = "feature results"
    schema_version: int = SCHEMA
    made: str
    by: str
    tests: tuple[Tried, ...]


class Group(_Kept):
    """All cases of one test for a feature. `left_out`: each reason for which some were not tried, with how often; `failures` the same by case."""

    name: str
    passed: int
    of: int
    seconds: float
    began: str
    servers: tuple[str, ...]
    failures: Mapping[str, str] = {}
    left_out: Mapping[str, int] = {}


class Cell(_Kept):
    """What came of the tests of a feature on one server."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    not_offered: int = 0

    @property
    def word(self) -> str:
        """One word for all of it."""
        return "failed" if self.failed else "proven" if self.passed else "not offered" if self.not_offered else "left out" if self.skipped else "none"

    def __str__(self) -> str:
        if self.failed:
            return f"{self.failed} failed of {self.failed + self.passed}"
        return str(self.passed) if self.passed else "" if self.word == "none" else self.word


class Row(_Kept):
    """One feature. It is proven where a test with real servers passed and none failed."""

    feature: str
    area: str
    sentence: str
    state: State
    seconds: float
    cells: Mapping[str, Cell]
    tests: tuple[Group, ...]

    @property
    def left_out(self) -> bool:
        """Whether something was not tried."""
        return any(group.left_out for group in self.tests)


class Matrix(_Kept):
    """All of it, as `matrix --json` prints it."""

    schema_version: int = SCHEMA
    name: str
    made: str = Field(description="When the latest of the tests began")
    sources: tuple[str, ...]
    servers: tuple[str, ...]
    tests: int
    seconds: float
    rows: tuple[Row, ...]

    def count(self, state: State) -> int:
        """How many features are so."""
        return sum(row.state == state for row in self.rows)

    @property
    def verdict(self) -> str:
        """The whole in one sentence."""
        proven, failed, missing = self.count("proven"), self.count("failed"), self.count("not proven")
        return f"{proven} of {len(self.rows)} features are proven on real servers, {failed} failed, {missing} are not proven."

    def rows_of(self, state: State) -> list[Row]:
        """The features that are so."""
        return [row for row in self.rows if row.state == state]

    def areas(self) -> dict[str, list[Row]]:
        """The rows by their area."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.area, []).append(row)
        return found

    def markdown(self) -> str:
        """The same as a page of Markdown."""
        lines = [f"# What is proven of {self.name}, and on which server", "", self.verdict, ""]
        lines.append(f"{self.tests:,} cases of {' and '.join(self.sources)}; the latest began {self.made}.")
        for area, rows in self.areas().items():
            lines += ["", f"## {area}", "", f"| id | the user can | | {' | '.join(self.servers)} |", f"| --- | --- | --- |{' ---: |' * len(self.servers)}"]
            lines += [f"| {row.feature} | {_text(row.sentence)} | {row.state} | {' | '.join(str(row.cells[server]) for server in self.servers)} |" for row in rows]
        for title, found in (("Failures", _failures), ("Left out, with the reason", _left_out)):
            if rows := [row for row in self.rows if any(True for _ in found(row))]:
                lines += ["", f"## {title}", ""]
                lines += [f"- {row.feature}: {_text(line)}" for row in rows for line in found(row)]
        lines += ["", "## The tests", ""]
        for row in self.rows:
            lines += [f"- {row.feature} {row.sentence}"]
            lines += [f"  - `{group.name}`: {group.passed} of {group.of} in {group.seconds:.1f} s ({', '.join(group.servers)})" for group in row.tests]
        return "\n".join(lines) + "\n"


def _failures(row: Row) -> Iterator[str]:
    return (f"{case}: {reason}" for group in row.tests for case, reason in group.failures.items())


def _left_out(row: Row) -> Iterator[str]:
    return (f"{group.name}: {reason}" + (f" ({times} cases)" if times > 1 else "") for group in row.tests for reason, times in group.left_out.items())


def _text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def matrix(sources: Mapping[str, Results], name: str = "stackctl") -> Matrix:
    """The report of some runs, by what each is called; `name` is for its title.

    Raises UsageError for a feature that there is not, CheckFailed where nothing was executed.
    """
    tests = [test for results in sources.values() for test in results.tests]
    if wrong := features.unknown(name for test in tests for name in test.features):
        raise UsageError(f"no feature has the id {', '.join(wrong)}", "the results are of another version: run the tests again with this one")
    if not any(test.verdict in ("passed", "failed") for test in tests):
        raise CheckFailed(f"nothing was executed: of {len(tests)} tests none passed or failed", "run tests that drive servers: one that tries nothing proves nothing")
    servers = _ordered({server for test in tests for server in test.servers or (ALONE,) if test.features})
    rows = tuple(_row(one, [test for test in tests if one.id in test.features], servers) for one in features.all_features().values())
    return Matrix(
        name=name,
        made=max(test.began for test in tests),
        sources=tuple(f"{results.by} ({name})" for name, results in sources.items()),
        servers=servers,
        tests=len(tests),
        seconds=round(sum(test.seconds for test in tests), 3),
        rows=rows,
    )


def _ordered(servers: Iterable[str]) -> tuple[str, ...]:
    """Servers by their roles, MTAs first; those that are unknown here after them."""
    known = all_backends()

    def place(server: str) -> tuple[int, bool, str]:
        role = known[server].role if server in known else ""
        return ROLES.index(role) if role in ROLES else len(ROLES) + (server not in known) + (server == ALONE), server in known and not known[server].default, server

    return tuple(sorted(servers, key=place))


def _row(feature: features.Feature, tests: Sequence[Tried], servers: Sequence[str]) -> Row:
    verdicts = {server: Counter(test.verdict.replace(" ", "_") for test in tests if server in (test.servers or (ALONE,))) for server in servers}
    state: State = "not proven"
    if any(test.verdict == "failed" for test in tests):
        state = "failed"
    elif any(test.verdict == "passed" and test.real for test in tests):
        state = "proven"
    by_name: dict[str, list[Tried]] = {}
    for test in tests:
        by_name.setdefault(_of(test.name), []).append(test)
    return Row(
        feature=feature.id,
        area=feature.area,
        sentence=feature.sentence,
        state=state,
        seconds=round(sum(test.seconds for test in tests), 3),
        cells={server: Cell(**counted) for server, counted in verdicts.items()},
        tests=tuple(_group(name, cases) for name, cases in by_name.items()),
    )


def _of(case: str) -> str:
    """The test that a case is of: what stands before the brackets, in a test that has cases of scenarios the scenario too: `test[scenario[case]]`."""
    return case.rpartition("[")[0] + "]" if case.endswith("]]") else case.partition("[")[0]


def _group(name: str, cases: Sequence[Tried]) -> Group:
    return Group(
        name=name,
        passed=sum(case.verdict == "passed" for case in cases),
        of=len(cases),
        seconds=round(sum(case.seconds for case in cases), 3),
        began=min(case.began for case in cases),
        servers=_ordered({server for case in cases for server in case.servers or (ALONE,)}),
        failures={case.name: case.reason for case in cases if case.verdict == "failed"},
        left_out=Counter(case.reason or "no reason given" for case in cases if case.verdict in ("skipped", "not offered")),
    )


# --- Reading what came of tests


def read(content: bytes, where: str) -> Results:
    """The results that a file holds, in whichever of the forms. Raises UsageError for anything else."""
    try:
        if content.lstrip()[:1] == b"<":
            return _junit(ElementTree.fromstring(content))
        found = json.loads(content)
        return _tested(found, where) if isinstance(found, dict) and "cases" in found else _results(found, where)
    except ValidationError as why:
        first = why.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}: no results of tests: {place + ': ' if place else ''}{first['msg']}", _NEXT) from why
    except (ValueError, ElementTree.ParseError) as why:  # no JSON, no UTF-8, a number that is none, no XML
        raise UsageError(f"{where}: no results of tests: {why}", _NEXT) from why
    except (KeyError, TypeError) as why:
        raise UsageError(f"{where}: no results of tests: {why} is missing or of another kind", _NEXT) from why


def _results(found: Any, where: str) -> Results:
    if isinstance(found, dict):
        _check(found.get("schema_version", SCHEMA), SCHEMA, where)
    return Results.model_validate_json(json.dumps(found))


def _check(schema: object, wanted: int, where: str) -> None:
    if schema != wanted:
        raise UsageError(f"{where}: schema {schema}, where this version reads {wanted}", "make it again with this version")


def _tested(found: dict[str, Any], where: str) -> Results:
    """What `stackctl test --json` prints."""
    _check(found.get("schema"), TESTED, where)
    tests = tuple(
        Tried(
            name=f"{case['scenario']}[{Case(case['store'], case['way_in'], case['way_out'])}]",
            features=tuple(case["features"]),
            servers=tuple(case["servers"]),
            real=True,
            verdict=case["verdict"],
            seconds=case["seconds"],
            began=case["began"],
            reason=case["reason"].partition("\n")[0],
        )
        for case in found["cases"]
    )
    return Results(made=max((test.began for test in tests), default=""), by=f"stackctl test of the stack {found['stack']}", tests=tests)


def _junit(root: ElementTree.Element) -> Results:
    """JUnit XML, of `stackctl test --junit` or of pytest."""
    if root.tag not in ("testsuites", "testsuite"):
        raise ValueError(f"the root of the XML is {root.tag}, not testsuites")
    tests = []
    for case in root.iter("testcase"):
        said: dict[str, list[str]] = {}
        for one in case.iter("property"):
            said.setdefault(one.get("name", ""), []).append(one.get("value", ""))
        problem = next((part for part in case if part.tag in ("failure", "error")), None)
        skipped = case.find("skipped")
        verdict = "failed" if problem is not None else "skipped" if skipped is not None else "passed"
        if verdict == "skipped" and "not offered" in said.get("verdict", ()):
            verdict = "not offered"
        reason = next((part.get("message", "") for part in (problem, skipped) if part is not None), "")
        test = {"verdict": verdict, "seconds": float(case.get("time", 0)), "began": said.get("began", [""])[0], "reason": reason.partition("\n")[0]}
        name = case.get("name", "") if case.get("classname", "").startswith("stackctl.") else f"{case.get('classname', '')}::{case.get('name', '')}"
        features, servers = (tuple(dict.fromkeys(said.get(key, ()))) for key in ("feature", "server"))
        tests.append(Tried.model_validate({"name": name, "features": features, "servers": servers, "real": "real" in said, **test}))
    return Results(made=max((test.began for test in tests), default=""), by=root.get("name") or "JUnit XML", tests=tuple(tests))
