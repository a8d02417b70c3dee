"""What came of the tests that are marked with a feature, as `stackctl matrix` reads it: `pytest --feature-results FILE`, `--feature-report`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stackctl import features
from stackctl.matrix import Results, Tried, Verdict, matrix

_reports: dict[str, list[pytest.TestReport]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--feature-report", action="store_true", help="print each row of the feature table with the tests that prove it")
    parser.addoption("--feature-results", metavar="FILE", help="write what came of the tests that are marked with a feature, for `stackctl matrix FILE`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("feature"):
            if wrong := features.unknown(map(str, marker.args)):
                raise pytest.UsageError(f"{item.nodeid}: no feature has the id {', '.join(wrong)}; {features.FILE} lists them")
            item.user_properties += [("feature", str(feature)) for feature in marker.args]  # they travel with reports, from pytest-xdist's workers too


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if any(key == "feature" for key, _ in report.user_properties):
        _reports.setdefault(report.nodeid, []).append(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption("--feature-results")
    if file and not hasattr(session.config, "workerinput"):  # the workers of pytest-xdist have told it all to the one process that writes
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(results().model_dump_json(indent=1) + "\n", encoding="utf-8")


def results() -> Results:
    """What came of the tests so far."""
    return Results(made=_time(datetime.now().timestamp()), by="pytest", tests=tuple(_test(name, reports) for name, reports in _reports.items()))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _test(name: str, reports: list[pytest.TestReport]) -> Tried:
    """One test, of the reports of its set-up, its call and its teardown: the worst of them counts."""
    worst = next((one for outcome in ("failed", "skipped", "passed") for one in reports if one.outcome == outcome), reports[0])
    said = {key: [str(value) for one, value in worst.user_properties if one == key] for key, _ in worst.user_properties}
    for report in reports:  # what it drove is in the reports of its call and teardown
        for key, value in report.user_properties:
            if str(value) not in said.setdefault(key, []):
                said[key].append(str(value))
    verdict: Verdict = "not offered" if "not offered" in said.get("verdict", ()) and worst.skipped else worst.outcome
    return Tried(
        name=name,
        features=tuple(dict.fromkeys(said["feature"])),
        servers=tuple(said.get("server", ())),
        real="real" in said,
        verdict=verdict,
        seconds=float(said["seconds"][0]) if "seconds" in said else round(sum(report.duration for report in reports), 3),
        began=_time(min(report.start for report in reports)),
        reason=_reason(worst),
    )


def _reason(report: pytest.TestReport) -> str:
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ").partition("\n")[0]
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)).partition("\n")[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--feature-report") and _reports:
        terminalreporter.section("features")
        for row in matrix({"this run": results()}).rows:
            terminalreporter.write_line(f"{row.feature}: {sum(one.passed for one in row.tests)} of {sum(one.of for one in row.tests)} passed: {row.state}")
            for one in row.tests:
                terminalreporter.write_line(f"    {one.name} ({one.passed}/{one.of})")
