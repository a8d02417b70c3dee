"""What tests have proven, as a report: reading what came of them in each form, what follows from it, and the page in a real browser."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import feature_results
import pytest

sys.path.append(str(Path(__file__).parent / "e2e"))
from browsing import CHROMIUM, QUIET

from stackctl import features, page, report, scenarios
from stackctl.cli import app
from stackctl.errors import CheckFailed, UsageError
from stackctl.matrix import ALONE, Matrix, Results, Tried, matrix, read
from stackctl.scenario import Case
from stackctl.scenarios import Outcome

pytestmark = pytest.mark.feature("A5")
ROOT = Path(__file__).parents[1]
PASSED = Tried(name="t.py::test_a[1]", features=("B1", "B8"), servers=("exim", "courier"), real=True, verdict="passed", seconds=1.5, began="2026-01-01T00:00:00+00:00")
AGAIN = PASSED.model_copy(update={"name": "t.py::test_a[2]", "servers": ("postfix",)})
FAILED = PASSED.model_copy(update={"name": "t.py::test_b", "features": ("B8",), "servers": ("postfix",), "verdict": "failed", "reason": "552 & <none>"})
MISSING = PASSED.model_copy(update={"name": "t.py::test_c[x]", "features": ("D2",), "servers": ("courier",), "verdict": "not offered", "reason": "not offered: MOVE"})
PURE = PASSED.model_copy(update={"name": "t.py::test_d", "features": ("A2",), "servers": (), "real": False})


def results(*tests: Tried) -> Results:
    return Results(made="2026-01-02", by="pytest", tests=tests)


def made(*tests: Tried) -> Matrix:
    return matrix({"a.json": results(*tests)})


def test_a_feature_is_proven_by_real_servers_alone_and_by_no_failure() -> None:
    rows = {row.feature: row for row in made(PASSED, AGAIN, FAILED, MISSING, PURE).rows}
    assert list(rows) == list(features.all_features())
    assert {name: row.state for name, row in rows.items() if row.state != "not proven"} == {"B1": "proven", "B8": "failed"}
    assert [str(rows["B8"].cells[server]) for server in ("postfix", "exim", "courier")] == ["1 failed of 2", "1", "1"]
    assert (str(rows["D2"].cells["courier"]), rows["D2"].tests[0].left_out) == ("not offered", {"not offered: MOVE": 1})
    assert (rows["A2"].cells[ALONE].passed, str(rows["A1"].cells["exim"])) == (1, "")
    assert [(one.name, one.passed, one.of, one.seconds) for one in rows["B1"].tests] == [("t.py::test_a", 2, 2, 3.0)]


def test_servers_stand_in_the_order_of_their_roles() -> None:
    assert made(PASSED, AGAIN, PURE, PASSED.model_copy(update={"servers": ("dovecot-2.3", "dovecot", "unheard")})).servers == (
        *("exim", "postfix", "courier", "dovecot", "dovecot-2.3"),
        *("unheard", ALONE),
    )


def test_cases_of_scenarios_are_told_apart_by_their_scenario() -> None:
    names = ["f.py::test_scenario[mail_flows[smtp/courier]]", "f.py::test_scenario[mail_flows[smtp/dovecot]]", "f.py::test_scenario[other[stack]]"]
    (row,) = [row for row in made(*(PASSED.model_copy(update={"name": name}) for name in names)).rows if row.feature == "B1"]
    assert [(one.name, one.of) for one in row.tests] == [("f.py::test_scenario[mail_flows]", 2), ("f.py::test_scenario[other]", 1)]


def test_where_nothing_was_executed_there_is_no_report() -> None:
    for tests in ((), (MISSING,)):
        with pytest.raises(CheckFailed, match="nothing was executed"):
            made(*tests)


def test_an_id_that_is_no_features_is_named() -> None:
    with pytest.raises(UsageError, match="Z9"):
        made(PASSED.model_copy(update={"features": ("B1", "Z9")}))


# --- The forms that are read


OUTCOMES = [
    Outcome("imap_searches", Case("one", None, "imaps"), "passed", 0.25, servers=("courier",), began=1.0),
    Outcome("imap_moves_messages", Case("one"), "not offered", 0.1, "not offered: MOVE", servers=("courier",), began=2.0),
    Outcome("port_25_relays_for_nobody", Case(), "failed", 0.5, "it did\nand more", servers=("exim",), began=3.0),
]


def test_the_json_and_the_junit_of_the_suite_say_the_same() -> None:
    from_json = read(json.dumps(report.as_dict(OUTCOMES, "demo", 1)).encode(), "r.json")
    from_junit = read(report.junit(OUTCOMES, "demo", 1), "j.xml")
    assert sorted(from_json.tests, key=lambda one: one.name) == sorted(from_junit.tests, key=lambda one: one.name)
    assert {(one.verdict, one.reason, one.servers) for one in from_json.tests} == {
        ("passed", "", ("courier",)),
        ("not offered", "not offered: MOVE", ("courier",)),
        ("failed", "it did", ("exim",)),
    }
    assert matrix({"r.json": from_json}).rows_of("failed")[0].feature in scenarios.all_scenarios()["port_25_relays_for_nobody"].features


def test_results_are_read_as_they_were_written() -> None:
    assert read(results(PASSED, FAILED).model_dump_json().encode(), "f.json") == results(PASSED, FAILED)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no results of tests"),
        (b"{", "no results of tests"),
        (b"\xff\xfe\x00", "no results of tests"),
        (b"[]", "no results of tests"),
        (b'{"tests": []}', "made: Field required"),
        (b'{"schema_version": 7}', "schema 7, where this version reads 1"),
        (b'{"cases": [], "schema": 3}', "schema 3"),
        (b'{"cases": [{}], "schema": 1}', "'scenario' is missing"),
        (b'{"cases": 5, "schema": 1}', "no results of tests"),
        (b"<html/>", "the root of the XML is html"),
        (b"<testsuites><testcase time='x'/></testsuites>", "no results of tests"),
        (b"<testsuites>", "no results of tests"),
    ],
)
def test_what_is_no_result_is_refused_with_a_next_step(content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r"
    file.write_bytes(content)
    assert app.run(["matrix", str(file)]) == 2
    said = capsys.readouterr().err
    assert words in said and "next: " in said and "Traceback" not in said


# --- pytest writes them


RUN = """\
import pytest
from stackctl.backends import all_backends

@pytest.fixture
def broken():
    yield
    assert not "torn down"

@pytest.mark.feature("B1")
@pytest.mark.parametrize("store", ["dovecot-2-3", "nobody"])
def test_good(store): pass

@pytest.mark.feature("B8", "B9")
@pytest.mark.e2e
def test_bad(): assert 1 == 2

@pytest.mark.feature("D1")
def test_skip(): pytest.skip("no such thing here")

@pytest.mark.feature("D2")
def test_late(broken): pass

def test_of_no_feature(): pass
"""


def test_pytest_writes_what_came_of_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pytest-xdist, whose workers have to send it all to one process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    pytester.makeini("[pytest]\nmarkers =\n    feature(id): one\n    e2e: one\n")
    pytester.makepyfile(RUN)
    pytester.runpytest_subprocess("-p", "drove", "-p", "feature_results", "--feature-results", "out/f.json", "--junitxml", "out/j.xml", "-n", "1")
    found = {one.name.partition("::")[2]: one for one in read((pytester.path / "out/f.json").read_bytes(), "f.json").tests}
    assert {name: (one.verdict, one.features, one.servers, one.real) for name, one in found.items()} == {
        "test_good[dovecot-2-3]": ("passed", ("B1",), ("dovecot-2.3",), False),
        "test_good[nobody]": ("passed", ("B1",), (), False),
        "test_bad": ("failed", ("B8", "B9"), (), True),
        "test_skip": ("skipped", ("D1",), (), False),
        "test_late": ("failed", ("D2",), (), False),
    }
    said = {one.name.partition("::")[2]: one for one in read((pytester.path / "out/j.xml").read_bytes(), "j.xml").tests if one.features}
    assert {name: (one.verdict, one.features, one.servers, one.real) for name, one in said.items()} == {
        name: (one.verdict, one.features, one.servers, one.real) for name, one in found.items()
    }
    assert found["test_skip"].reason == "no such thing here" and "1 == 2" in found["test_bad"].reason and "torn down" in found["test_late"].reason


def test_an_unknown_id_stops_a_test_run(pytester: pytest.Pytester) -> None:
    item = pytester.getitem("import pytest\n\n@pytest.mark.feature('Z1')\ndef test_func(): pass\n")
    with pytest.raises(pytest.UsageError, match="no feature has the id Z1"):
        feature_results.pytest_collection_modifyitems([item])


def test_every_feature_is_named_by_tests_and_no_other() -> None:
    """In the decorators and marks of the tests, and in the scenarios."""
    marked = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
    named = {one for line in re.findall(r"feature\(([^)]*)\)", marked) for one in re.findall(r'"([A-Z]\d+)"', line)}
    named |= {one for scenario in scenarios.all_scenarios().values() for one in scenario.features}
    assert features.unknown(named) == []
    assert set(features.all_features()) - named == set()


# --- The command and the page


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `stackctl matrix` on these results."""

    def run(found: Results, *arguments: str) -> tuple[int, str, str]:
        (tmp_path / "f.json").write_text(found.model_dump_json(), encoding="utf-8")
        status = app.run(["matrix", str(tmp_path / "f.json"), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_the_exit_code_says_whether_all_is_well(command: Callable[..., tuple[int, str, str]]) -> None:
    assert command(results(PASSED, MISSING))[0] == 0
    status, _, err = command(results(PASSED, MISSING), "--complete")
    assert status == 1 and "D2" in err and "B1," not in err
    status, out, err = command(results(PASSED, FAILED))
    assert status == 1 and "B8: a test failed: t.py::test_b: 552" in err and "1 of 36 features are proven" in out
    status, _, err = command(results(MISSING))
    assert status == 1 and "nothing was executed" in err


def test_every_form_is_written(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    files = ("--html", str(tmp_path / "m.html"), "--markdown", str(tmp_path / "m.md"), "--json")
    status, out, err = command(results(PASSED, AGAIN, MISSING, PURE), *files)
    found = Matrix.model_validate_json(out)
    assert (status, err, found.schema_version) == (0, "", 1)
    text = (tmp_path / "m.md").read_text(encoding="utf-8")
    assert f"| B1 | {features.all_features()['B1'].sentence} | proven | 1 | 1 | 1 |  |" in text and "- D2: t.py::test_c: not offered: MOVE" in text
    assert "Failures" not in text and "`t.py::test_a`: 2 of 2 in 3.0 s (exim, postfix, courier)" in text
    assert "No such file" in command(results(PASSED), "--html", str(tmp_path / "none/m.html"))[2]


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["matrix", str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err


def test_the_page_works_in_a_browser_without_a_network(tmp_path: Path) -> None:
    path = tmp_path / "m.html"
    path.write_text(page.matrix(made(PASSED, AGAIN, FAILED, MISSING, PURE)), encoding="utf-8")
    assert not re.search(r"""(?:src|href)=|@import|url\(""", path.read_text(encoding="utf-8")), "it needs nothing from elsewhere"
    if not CHROMIUM.exists():
        pytest.skip("no browser here: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        tab, complaints = browser.new_page(), list[Any]()
        tab.on("console", lambda said: complaints.append(said.text))
        tab.on("pageerror", lambda why: complaints.append(str(why)))
        tab.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
        tab.goto(path.as_uri())
        assert tab.locator("#failures + ul > li").all_inner_texts() == ["B8 t.py::test_b: 552 & <none>"]

        def rows() -> list[str]:
            return tab.locator(".row:visible > th").all_inner_texts()

        assert rows() == list(features.all_features())
        tab.get_by_label("State").select_option("failed")
        assert rows() == ["B8"]
        tab.get_by_label("State").select_option("all")
        tab.get_by_label("Server").select_option("courier")
        assert rows() == ["B1", "B8", "D2"]
        tab.get_by_label("only where something was left out").check()
        assert rows() == ["D2"]
        tab.get_by_role("searchbox").fill("no such words anywhere")
        assert rows() == []
        tab.get_by_role("searchbox").fill("test_c")  # the names of tests are found, too
        assert rows() == ["D2"]
        tab.locator(".row:visible summary").click()
        assert "left out: not offered: MOVE" in tab.locator(".row:visible").inner_text()
        assert complaints == []
        browser.close()
