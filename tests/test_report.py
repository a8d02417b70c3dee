"""Outcomes as JUnit XML, JSON, a live table and a summary; and the exit codes of `stackctl test`."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stackctl import report, running, scenarios
from stackctl.cli import app
from stackctl.scenario import Case
from stackctl.scenarios import Outcome

pytestmark = pytest.mark.feature("A5")

PASSED = Outcome("every_message_comes_out_as_it_went_in", Case("one", "smtp", "imaps"), "passed", 0.25)
FAILED = Outcome(
    "every_message_comes_out_as_it_went_in",
    Case("one", "smtp", "pop3s"),
    "failed",
    1.5,
    "2 differences:\ndots: body differs <&> \x00\x1b[31m\ud800\ufffe",
    "== smtp of mta\n  0.1ms C: EHLO x\n  0.2ms S: 250 ok\x07",
    {"mta": ["postmaster saw it"], "one": []},
)
SKIPPED = Outcome("imap_searches", Case("one", None, "imap"), "skipped", 0.0, "one has no open listener imap")
MISSING = Outcome("imap_moves_messages", Case("one"), "not offered", 0.1, "not offered: MOVE (from its CAPABILITY)")
ALL = [PASSED, FAILED, SKIPPED, MISSING]


def test_junit_parses_and_says_everything() -> None:
    octets = report.junit(ALL, "demo", 2.0)
    root = ElementTree.fromstring(octets)
    assert root.tag == "testsuites" and root.attrib == {
        "tests": "4", "failures": "1", "errors": "0", "skipped": "2", "time": "2.000", "name": "stackctl test demo",
    }  # fmt: skip
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("skipped")) for suite in root.findall("testsuite")] == [
        ("flow", "2", "1", "0"),
        ("reading", "1", "0", "1"),
        ("extensions", "1", "0", "1"),
    ]
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert set(cases) == {outcome.id for outcome in ALL}
    assert [part.tag for part in cases[PASSED.id]] == ["properties"] and cases[PASSED.id].get("time") == "0.250"
    said = [(one.get("name"), one.get("value")) for one in cases[MISSING.id].iter("property")]
    assert {("feature", "D2"), ("real", "yes"), ("verdict", "not offered")} < set(said)
    failure = cases[FAILED.id].find("failure")
    assert failure is not None and failure.get("message") == "2 differences:" and failure.text
    for part in ("dots: body differs <&> \ufffd\ufffd[31m\ufffd\ufffd", "C: EHLO x", "S: 250 ok\ufffd", "what mta logged\npostmaster saw it", "what one logged"):
        assert part in failure.text
    for outcome in (SKIPPED, MISSING):
        skipped = cases[outcome.id].find("skipped")
        assert skipped is not None and skipped.get("message") == outcome.reason


def test_junit_of_nothing_is_valid_too() -> None:
    assert ElementTree.fromstring(report.junit([], "demo", 0)).get("tests") == "0"


def test_json_has_every_case() -> None:
    found = json.loads(json.dumps(report.as_dict(ALL, "demo", 2.0), default=None, ensure_ascii=True))
    assert (found["schema"], found["stack"], found["passed"], found["failed"], found["skipped"], found["not_offered"]) == (1, "demo", 1, 1, 1, 1)
    assert (found["cases"][3]["verdict"], found["cases"][3]["reason"]) == ("not offered", MISSING.reason)
    case = found["cases"][1]
    assert (case["scenario"], case["store"], case["way_in"], case["way_out"], case["verdict"]) == (FAILED.name, "one", "smtp", "pop3s", "failed")
    assert case["logs"] == {"mta": ["postmaster saw it"], "one": []} and case["transcript"] == FAILED.transcript.replace("\x07", "\ufffd")
    assert case["features"] and case["about"] == "flow"


def test_the_summary_shows_the_evidence_of_failures_alone() -> None:
    text = report.summary(ALL, 2.0)
    assert "STORE  WAY IN  IMAPS  POP3S\none    smtp    1/1    0/1" in text
    assert f"FAILED {FAILED.id} after 1.50 s" in text and "C: EHLO x" in text and "postmaster saw it" in text
    assert "skipped   1  imap searches: one has no open listener imap" in text
    assert "one: imap moves messages: not offered: MOVE (from its CAPABILITY)" in text
    assert text.endswith("3 scenarios, 4 cases: 1 passed, 1 failed, 1 skipped, 1 not offered in 2.0 s.")
    good = report.summary([PASSED], 0.3)
    assert "FAILED" not in good and "failed  " not in good and good.endswith("1 scenarios, 1 cases: 1 passed, 0 failed, 0 skipped, 0 not offered in 0.3 s.")


def test_the_live_table_counts_and_names_failures() -> None:
    todo = [job for job in scenarios.plan(["one"]) if job[0].name in {outcome.name for outcome in ALL}]
    board = report.Board(todo)
    lines = [board.add(outcome) for outcome in ALL]
    assert lines[:3] == [None, None, None]  # 24 cases of two scenarios are not over yet
    assert lines[3] == f"[   4/{len(todo)}] not offered   0 of   1  imap moves messages"
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(board.table())
    text = console.export_text()
    assert "NOT OFFERED" in text and f"one {MISSING.reason}" in text
    assert "flow" in text and "reading" in text and f"FAILED {FAILED.id}: 2 differences:" in text


def test_a_log_gets_a_line_when_a_scenario_is_over() -> None:
    todo = scenarios.plan(["one"], "^imap_searches$")
    board = report.Board(todo)
    outcomes = [Outcome(one.name, case, "passed" if case.way_out == "imap" else "skipped", 0.1) for one, case in todo]
    lines = [board.add(outcome) for outcome in outcomes]
    assert lines[:-1] == [None] * (len(lines) - 1)
    assert lines[-1] == f"[   {len(todo)}/{len(todo)}] passed        1 of   {len(todo)}  imap searches"


# --- The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `stackctl test` on a stack that is not there, with these outcomes."""

    def run(outcomes: list[Outcome], *arguments: str) -> tuple[int, str, str]:
        endpoints: dict[str, Any] = {"name": "demo", "stores": {"one": {}}}

        def pretend(endpoints: Any, *, chosen: Any, on_outcome: Callable[[Outcome], None], jobs: int) -> list[Outcome]:
            for outcome in outcomes:
                on_outcome(outcome)
            return outcomes

        monkeypatch.setattr(running, "named", lambda name, file: None)
        monkeypatch.setattr(running, "endpoints", lambda known, secrets: endpoints)
        monkeypatch.setattr(scenarios, "run", pretend)
        status = app.run(["test", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


Command = Callable[..., tuple[int, str, str]]


def test_exit_code_0_when_all_passed(command: Command) -> None:
    status, out, _ = command([PASSED, SKIPPED])
    assert status == 0 and "1 passed, 0 failed, 1 skipped" in out


def test_exit_code_1_when_one_failed(command: Command) -> None:
    status, out, err = command(ALL)
    assert status == 1 and "1 of 4 cases failed" in err and "C: EHLO x" in out
    assert "\x1b" not in out  # nothing of what servers say reaches the terminal as a command


def test_exit_code_1_when_nothing_ran(command: Command) -> None:
    status, _, err = command([], "--only", "no such scenario")
    assert status == 1 and "no scenario matches" in err
    status, _, err = command([SKIPPED])
    assert status == 1 and "all were skipped" in err


def test_exit_code_2_for_a_choice_that_is_none(command: Command) -> None:
    for arguments, saying in ((("--only", "("), "no regular expression"), (("--store", "two"), "no store two")):
        status, _, err = command(ALL, *arguments)
        assert status == 2 and saying in err


def test_json_is_all_that_is_printed(command: Command, tmp_path: Path) -> None:
    status, out, err = command([PASSED], "--json", "--junit", str(tmp_path / "j.xml"), "--report", str(tmp_path / "r.json"))
    assert status == 0 and err == ""
    assert json.loads(out) == json.loads((tmp_path / "r.json").read_text())
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("tests") == "1"


def test_a_file_that_cannot_be_written_is_named(command: Command, tmp_path: Path) -> None:
    status, _, err = command([PASSED], "--junit", str(tmp_path / "none" / "j.xml"))
    assert status == 1 and "j.xml: No such file or directory" in err


def test_the_list_needs_no_stack(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["test", "--list", "--only", "relays"]) == 0
    out = capsys.readouterr().out
    assert "port_25_relays_for_nobody" in out and "imap_searches" not in out
    assert app.run(["test", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["scenario"] for row in rows} == set(scenarios.all_scenarios())
