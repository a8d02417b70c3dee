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
from stackctl.backends import TOPICS
from stackctl.comparison import Comparison, Fact, Measure

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A7")]

STACK = f"{NAME}-compare"
STORES = {"dovecot": "", "courier": ""}
# Before, all was better: a session took no time, and both had an extension that nobody has.
BEFORE = Comparison(
    made="2026-01-01",
    role="store",
    beside="",
    quick=True,
    machine={},
    servers=STORES,
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
    assert found.sections == ["Capabilities", "Logins", "Behaviours", "Limits", "Searches", "Folders", "TLS", "On disk", "Configuration"]
    assert list(found.servers) == list(STORES) and all(re.search(r"\d\.\d", server) for server in found.servers.values())
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


def test_limits_are_where_a_server_said_no(found: Comparison) -> None:
    facts = {fact.topic: fact for fact in found.facts if fact.section == "Limits"}
    words = facts["the longest word of a command, in octets"]
    assert not words.same and all("is not: " in said for said in words.evidence.values())
    assert facts["the longest keyword, in octets"].values["dovecot"] == "50"  # mail_max_keyword_length
    searches = {fact.topic: fact.values for fact in found.facts if fact.section == "Searches"}
    assert set(searches["SEARCH ALL"].values()) == {"yes"} and set(searches["SEARCH NOSUCHKEY"].values()) == {"no"}
    assert searches["SEARCH OLDER 60 (RFC 5032)"] == {"dovecot": "yes", "courier": "no"}


def test_each_port_has_its_mechanisms_versions_and_suites(found: Comparison) -> None:
    logins = {fact.topic: fact.values for fact in found.facts if fact.section == "Logins"}
    assert set(logins) == {"imap, before TLS", "imap", "imaps", "pop3, before TLS", "pop3", "pop3s"}
    assert all("LOGINDISABLED" in word and "PLAIN" not in word for word in logins["imap, before TLS"].values())
    assert all("PLAIN" in word for word in logins["imaps"].values())
    tls = {fact.topic: fact.values for fact in found.facts if fact.section == "TLS"}
    for listener in ("imap", "imaps", "pop3", "pop3s"):
        assert set(tls[f"{listener}: TLS 1.0"].values()) == {"no"}
        assert all(len(word.split(", ")) > 1 for word in tls[f"{listener}: TLS 1.2"].values())
        assert all(word.startswith("TLS_") for word in tls[f"{listener}: TLS 1.3"].values())


def test_configurations_stand_beside_each_other_by_topic(found: Comparison) -> None:
    facts = {fact.topic: fact for fact in found.facts if fact.section == "Configuration"}
    assert set(TOPICS) - {"delivery"} < set(facts)
    assert "ssl_min_protocol = TLSv1.2" in facts["TLS"].evidence["dovecot"] and "TLS_PRIORITY=" in facts["TLS"].evidence["courier"]
    assert "passdb passwd-file {" in facts["accounts and logins"].evidence["dovecot"] and "ssl_" not in facts["mail location"].evidence["dovecot"]


def test_behaviours_have_their_transcripts_and_none_failed(found: Comparison) -> None:
    facts = {fact.topic: fact for fact in found.facts if fact.section == "Behaviours"}
    assert len(facts) > 30
    assert not [fact for fact in facts.values() for value in fact.values.values() if value.startswith("failed")]
    assert not facts["imap moves messages"].same
    assert all("C: " in text for text in facts["imap moves messages"].evidence.values())
    assert "S: " in facts["a login with the right password may read"].evidence["courier"]


def test_figures_come_from_runs_in_every_store(found: Comparison) -> None:
    names = [measure.name for measure in found.measures]
    assert len(set(names)) == len(names) and {
        "SORT by subject (100 messages)",
        "memory, idle",
        "delivery: from 250 until a client sees it",
        "start of the container until imap greets",
    } <= set(names)
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


# --- MTAs


MTAS = ("postfix", "exim")


@pytest.fixture(scope="module")
def ran_mtas(program: Program) -> Iterator[Comparison]:
    """A comparison of two MTAs, each in front of the same stores."""
    try:
        ran = program("compare", "--mta", *MTAS, "--quick", "--html", "mtas.html", "--markdown", "mtas.md", "--json", "--name", STACK)
        yield comparison.read(ran.out, "its own output")
    finally:
        for one in MTAS:
            program("down", "--volumes", "--name", f"{STACK}-{one}", code=None)


@pytest.mark.feature("B2")
def test_mtas_are_compared_and_nothing_of_their_stacks_is_left(ran_mtas: Comparison) -> None:
    assert ran_mtas.sections == ["Capabilities", "Logins", "Behaviours", "Replies", "Limits", "TLS", "Configuration"]
    assert list(ran_mtas.servers) == list(MTAS) and "the same stores" in ran_mtas.beside
    assert all(left(f"{STACK}-{one}") == [] for one in MTAS)


def test_what_ehlo_is_answered_with_is_what_was_said(ran_mtas: Comparison) -> None:
    facts = {fact.topic: fact for fact in ran_mtas.facts if fact.section == "Capabilities"}
    assert set(facts["smtp before TLS: STARTTLS"].values.values()) == {"yes"} and "smtp: STARTTLS" not in facts
    assert set(facts["submission: AUTH"].values.values()) == {"yes"} and "submission before TLS: AUTH" not in facts
    for fact in facts.values():
        word = fact.topic.partition(": ")[2]
        for mta, value in fact.values.items():
            last = fact.evidence[mta].rpartition("C: EHLO")[2]  # the answer within TLS, where there are two
            assert bool(re.search(rf"S: 250[ -]{word}\b", last)) == (value == "yes"), f"{fact.topic} of {mta}\n{fact.evidence[mta]}"


def test_mtas_have_figures_limits_and_behaviours_of_their_own(ran_mtas: Comparison) -> None:
    names = {measure.name for measure in ran_mtas.measures}
    assert {"delivery: from 250 until a client sees it", "taken from 4 clients at once, 50 messages", "start of the container until smtp greets"} <= names
    assert all(run > 0 for measure in ran_mtas.measures for runs in measure.runs.values() for run in runs)
    facts = {fact.topic: fact for fact in ran_mtas.facts}
    assert set(facts["the largest message that MAIL may announce, in octets"].values.values()) == {"about 52,428,800"}
    assert facts["RCPT TO:<x@elsewhere.example>"].section == "Replies" and all(said.startswith("503 ") for said in facts["RCPT TO:<x@elsewhere.example>"].values.values())
    behaviours = [fact for fact in ran_mtas.facts if fact.section == "Behaviours"]
    assert len(behaviours) > 20 and not [fact.topic for fact in behaviours for value in fact.values.values() if value.startswith("failed")]
    assert all("smtpd_tls" in text or "tls_" in text for text in facts["TLS"].evidence.values())


def test_the_pages_about_mtas_name_them(program: Program, ran_mtas: Comparison) -> None:
    for page in ("mtas.html", "mtas.md"):
        text = (program.work / page).read_text(encoding="utf-8")
        assert all(server in text for server in ran_mtas.servers.values()) and "Each in front of the same stores" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dovecot", "cyrus"), "no store cyrus"),
        (("dovecot",), "can be compared with nothing"),
        (("--baseline", "none.json"), "none.json: No such file"),
        (("--baseline", "bad.json"), "bad.json: no comparison"),
        (("--mta", "dovecot", "exim"), "no mta dovecot"),
        (("--mta", "--sizes", "100"), "--sizes is about the mailboxes of stores"),
        (("--mta", "--baseline", "before.json"), "of the role store, not mta"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(arguments: tuple[str, ...], words: str, program: Program) -> None:
    program.write("{", "bad.json")
    program.write(BEFORE.model_dump_json(), "before.json")
    assert words in program("compare", *arguments, "--name", f"{STACK}-no", code=2).err
    assert left(f"{STACK}-no") == []


def test_a_stack_that_is_there_is_left_alone(demo: Demo, program: Program) -> None:
    before = sorted(containers(demo.name))
    assert f"a stack {demo.name} is there already" in program("compare", "--name", demo.name, code=2).err
    assert sorted(containers(demo.name)) == before
