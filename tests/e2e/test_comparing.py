"""`stackctl compare` on real servers, once for all of these tests; its page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, QUIET
from conftest import NAME, Demo
from program import Program, Ran, containers, left

from stackctl import comparison
from stackctl.comparison import Comparison, Fact, Measure

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A7")]

STACK = f"{NAME}-compare"
STORES = {"dovecot": "", "courier": ""}
# Before, all was better: a session took no time, and both had an extension that nobody has.
BEFORE = Comparison(
    made="2026-01-01",
    quick=True,
    machine={},
    stores=STORES,
    facts=(Fact(section="Capabilities", topic="IMAP: CONDSTORE", values=dict.fromkeys(STORES, "yes")),),
    measures=(
        Measure(section="Speed", what="a session: TLS, login, INBOX, logout", unit="ms", better="less", runs=dict.fromkeys(STORES, (0.001,))),
        Measure(section="Resources", what="memory, idle", unit="MiB", better="less", runs=dict.fromkeys(STORES, (1e6,))),
    ),
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program.below(tmp_path_factory.mktemp("compare"), STACK)


@pytest.fixture(scope="module")
def ran(program: Program) -> Iterator[Ran]:
    """One comparison, held against a better one."""
    program.write(BEFORE.model_dump_json(), "before.json")
    options = ("--quick", "--html", "page.html", "--markdown", "page.md", "--json", "--baseline", "before.json", "--name", STACK)
    try:
        yield program("compare", *STORES, *options, code=1)
    finally:
        program.destroy()


@pytest.fixture(scope="module")
def found(ran: Ran) -> Comparison:
    return comparison.read(ran.out, "its own output")


def test_every_section_is_there_and_nothing_of_the_stack_is_left(found: Comparison) -> None:
    assert found.sections == ["Capabilities", "Behaviours", "Folders", "TLS", "On disk", "Configuration"]
    assert list(found.stores) == list(STORES) and all(re.search(r"\d\.\d", server) for server in found.stores.values())
    assert left(STACK) == []


def test_capabilities_are_what_the_servers_said(found: Comparison) -> None:
    facts = [fact for fact in found.facts if fact.section == "Capabilities"]
    assert {"yes", "no"} == {value for fact in facts for value in fact.values.values()}
    for fact in facts:
        word = fact.topic.partition(": ")[2]
        for store, value in fact.values.items():
            answers = "\n".join(line for line in fact.evidence[store].splitlines() if "S: " in line)
            said = re.search(rf"(?<![\w=-]){re.escape(word)}(?![\w=-])", answers, re.IGNORECASE)
            assert bool(said) == (value == "yes"), f"{fact.topic} of {store}: {value}\n{fact.evidence[store]}"


def test_behaviours_have_their_transcripts_and_none_failed(found: Comparison) -> None:
    facts = {fact.topic: fact for fact in found.facts if fact.section == "Behaviours"}
    assert len(facts) > 30
    assert not [fact for fact in facts.values() for value in fact.values.values() if value.startswith("failed")]
    assert not facts["imap moves messages"].same
    assert all("C: " in text for text in facts["imap moves messages"].evidence.values())
    assert "S: " in facts["a login with the right password may read"].evidence["courier"]


def test_figures_come_from_runs_in_every_store(found: Comparison) -> None:
    names = [measure.name for measure in found.measures]
    assert len(set(names)) == len(names) and {"SORT by subject (100 messages)", "memory, idle", "delivery: from 250 until a client sees it"} <= set(names)
    for measure in found.measures:
        assert set(measure.runs) == set(STORES) and all(run > 0 for runs in measure.runs.values() for run in runs), measure.name


def test_what_was_better_before_is_told_by_the_exit_code(ran: Ran) -> None:
    assert "a session: TLS, login, INBOX, logout" in ran.err and "courier: IMAP: CONDSTORE: no, was yes" in ran.err
    assert "memory" not in ran.err and "dovecot: IMAP: CONDSTORE" not in ran.err


def test_the_page_of_markdown_has_a_line_for_each_figure(program: Program, found: Comparison) -> None:
    page = (program.work / "page.md").read_text(encoding="utf-8")
    assert all(f"| {measure.name} | {measure.unit} |" in page for measure in found.measures)


def test_the_page_works_in_a_browser_without_a_network(program: Program, ran: Ran, found: Comparison) -> None:
    path: Path = program.work / "page.html"
    assert not re.search(r"""(?:src|href)=|@import|url\(""", path.read_text(encoding="utf-8").partition("<main>")[0]), "it needs nothing from elsewhere"
    if not CHROMIUM.exists():
        pytest.skip("no browser here: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        page, complaints = browser.new_page(), list[Any]()
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda why: complaints.append(str(why)))
        page.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        assert page.locator("svg[role=img]").count() == len(found.measures)
        search = page.get_by_role("searchbox")
        everything = page.locator(".row:visible").count()
        page.get_by_label("only what differs").check()
        assert 0 < page.locator(".row:visible").count() < everything
        search.fill("condstore")
        assert page.locator(".row:visible").count() == sum("condstore" in fact.topic.lower() or "CONDSTORE" in str(fact.values) for fact in found.facts if not fact.same)
        search.fill("no such words anywhere")
        assert page.locator(".row:visible").count() == 0
        assert complaints == []
        browser.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dovecot", "cyrus"), "no store cyrus"),
        (("dovecot",), "can be compared with nothing"),
        (("--baseline", "none.json"), "none.json: No such file"),
        (("--baseline", "bad.json"), "bad.json: no comparison"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(arguments: tuple[str, ...], words: str, program: Program) -> None:
    program.write("{", "bad.json")
    assert words in program("compare", *arguments, "--name", f"{STACK}-no", code=2).err
    assert left(f"{STACK}-no") == []


def test_a_stack_that_is_there_is_left_alone(demo: Demo, program: Program) -> None:
    before = sorted(containers(demo.name))
    assert f"a stack {demo.name} is there already" in program("compare", "--name", demo.name, code=2).err
    assert sorted(containers(demo.name)) == before
