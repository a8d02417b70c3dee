"""Every scenario of `stackctl test` under pytest: the same functions, one test for each of their cases.

The cases that pytest selected run side by side in the background; each test waits for its own.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import pytest
import stores_page
from conftest import Demo, store_names

from stackctl import report, scenarios
from stackctl.scenario import Case, Context, NotOffered, Scenario, offered
from stackctl.scenarios import Job, Outcome

WITHIN = 300  # seconds for one case, its turn included
EXTENSIONS = [(scenario, case) for scenario, case in scenarios.plan(store_names()) if report.topic(scenario.name) == "extensions"]
Cli = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.e2e


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each case, marked with the features of its scenario."""
    if "scenario" in metafunc.fixturenames:
        found = [
            pytest.param(scenario, case, id=f"{scenario.name}[{case}]", marks=pytest.mark.feature(*scenario.features))
            for scenario, case in scenarios.plan(store_names())
        ]
        metafunc.parametrize(("scenario", "case"), found)


@pytest.fixture(scope="session")
def outcome_of(demo: Demo, request: pytest.FixtureRequest) -> Iterator[Callable[[Scenario, Case], Outcome]]:
    """Starts all selected cases; gives the outcome of one as soon as it is there. With pytest-xdist this file belongs into one worker: --dist loadfile."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    selected: list[Job] = [
        (cast(Scenario, item.callspec.params["scenario"]), cast(Case, item.callspec.params["case"])) for item in items if "scenario" in item.fixturenames
    ]
    if any("extensions" in item.fixturenames for item in items):
        selected += EXTENSIONS
    todo = list(dict.fromkeys(selected))
    futures: dict[tuple[str, Case], Future[Outcome]] = {(scenario.name, case): Future() for scenario, case in todo}

    over = threading.Event()

    def told(outcome: Outcome) -> None:
        futures[outcome.name, outcome.case].set_result(outcome)
        if over.is_set():
            raise InterruptedError("the session ended early")  # nobody waits for the cases that are left

    def work() -> None:
        try:
            scenarios.run(demo.endpoints, chosen=todo, on_outcome=told, jobs=6)
        except BaseException as why:  # a fault of a scenario's own code: every test that still waits gets it
            for future in futures.values():
                if not future.done():
                    future.set_exception(why)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield lambda scenario, case: futures[scenario.name, case].result(WITHIN)
    over.set()
    thread.join(WITHIN)


def test_scenario(scenario: Scenario, case: Case, outcome_of: Callable[[Scenario, Case], Outcome], record_property: Callable[[str, object], None]) -> None:
    outcome = outcome_of(scenario, case)
    record_property("verdict", outcome.verdict)
    record_property("seconds", f"{outcome.seconds:.3f}")  # without the wait for its turn
    for server in outcome.servers:
        record_property("server", server)
    if outcome.verdict in ("skipped", "not offered"):
        pytest.skip(outcome.reason)
    assert outcome.verdict == "passed", report.failure(outcome)


# --- What each store has: docs/stores.md


@pytest.fixture(scope="module")
def extensions(outcome_of: Callable[[Scenario, Case], Outcome]) -> list[Outcome]:
    """What came of the scenarios about extensions."""
    return [outcome_of(scenario, case) for scenario, case in EXTENSIONS]


@pytest.fixture(scope="module")
def announced(demo: Demo) -> dict[str, dict[str, set[str]]]:
    """What each store announces, by protocol: after a login by IMAP, inside TLS by POP3."""
    found = {}
    for store in demo.endpoints["stores"]:
        context = Context(demo.endpoints, Case(store), os.urandom(4).hex())
        with context.imap(context.fresh()) as imap, context.pop3() as pop3:
            found[store] = {"IMAP": imap.capabilities, "POP3": pop3.capabilities}
    return found


@pytest.mark.feature("D1", "D2")
def test_a_store_provides_what_its_server_announces(demo: Demo, announced: dict[str, dict[str, set[str]]]) -> None:
    """Both ways, for every word of any backend.yaml that is the name of an IMAP extension."""
    others = {"imap", "pop3", "sieve", "quota-enforced", "quota-warning", "idle-prompt", "open-maildirs"}  # listeners, and what is no matter of a protocol
    provided = {store: set(about["provides"]) - others for store, about in demo.endpoints["stores"].items()}
    words = set().union(*provided.values())
    assert provided == {store: words & {name.partition("=")[0].lower() for name in here["IMAP"]} for store, here in announced.items()}


@pytest.mark.feature("D1", "D2")
def test_the_page_about_stores_says_what_was_observed(
    demo: Demo, extensions: list[Outcome], announced: dict[str, dict[str, set[str]]], request: pytest.FixtureRequest
) -> None:
    found = stores_page.text(demo.endpoints, extensions, announced)
    if request.config.getoption("--update-golden"):
        stores_page.PATH.write_text(found, encoding="utf-8")
    assert found == stores_page.PATH.read_text(encoding="utf-8"), "`pytest tests/e2e/test_flow.py -k stores --update-golden`, then read the difference"


@pytest.mark.feature("A5")
def test_what_a_server_does_not_announce_is_not_offered(demo: Demo) -> None:
    """The twin: a name that no server has, asked of each session."""
    context = Context(demo.endpoints, Case(next(iter(demo.endpoints["stores"]))), os.urandom(4).hex())
    with context.imap(context.fresh()) as imap, context.pop3() as pop3:
        offered(imap, "IDLE", "UIDPLUS")
        with pytest.raises(NotOffered, match=r"^not offered: XNONE \(from its CAPABILITY\)$"):
            offered(imap, "IDLE", "XNONE")
        with pytest.raises(NotOffered, match=r"^not offered: XNONE \(from its CAPA\)$"):
            offered(pop3, "XNONE")


@pytest.mark.feature("A5")
def test_the_command_reports_in_every_form(demo: Demo, cli: Cli, tmp_path: Path) -> None:
    junit, written = tmp_path / "junit.xml", tmp_path / "report.json"
    done = cli("test", "--only", "vrfy_and_etrn_answer", "--junit", str(junit), "--report", str(written), "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads(written.read_text())
    assert (printed["passed"], printed["failed"], len(printed["cases"])) == (3, 0, 3)
    assert {case["way_in"] for case in printed["cases"]} == {"smtp", "submission", "submissions"}
    suite = ElementTree.parse(junit).getroot()
    assert suite.get("tests") == "3" and suite.get("failures") == "0" and len(suite.findall(".//testcase")) == 3
    for file in (junit, written):
        rows = {row["feature"]: row for row in json.loads(cli("matrix", str(file), "--json").stdout)["rows"]}
        assert (rows["B1"]["state"], rows["B1"]["cells"][demo.endpoints["mta"]["backend"]]["passed"]) == ("proven", 3)
        assert {row["state"] for name, row in rows.items() if name not in printed["cases"][0]["features"]} == {"not proven"}


@pytest.mark.feature("A5")
def test_the_command_fails_where_nothing_ran(cli: Cli) -> None:
    done = cli("test", "--only", "no such scenario")
    assert done.returncode == 1
    assert "no scenario matches" in done.stderr


@pytest.mark.feature("A5")
def test_a_failing_case_shows_transcript_and_logs(demo: Demo) -> None:
    """The negative twin of all tests above: what is wrong is found, and told with the evidence of both sides."""
    broken = {**demo.endpoints, "disposable": {**demo.endpoints["disposable"], "password": "not-the-password"}}
    outcomes = scenarios.run(broken, only=r"^every_message_comes_out_as_it_went_in\[submission/.*/imaps\]$")
    assert outcomes and {outcome.verdict for outcome in outcomes} == {"failed"}
    text = report.failure(outcomes[0])
    assert "535" in outcomes[0].reason
    assert "C: AUTH PLAIN ***" in text and "S: 535" in text  # the protocol
    assert any("authentication failed" in line for line in outcomes[0].logs["mta"]), outcomes[0].logs  # the server's side
    assert str(demo.endpoints["accounts"][0]["password"]) not in text


def _ticket(place: tuple[str, int], name: str, ca: str) -> bool:
    """Whether a TLS 1.3 session has brought a ticket by the time of the greeting."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with socket.create_connection(place, 10) as plain, context.wrap_socket(plain, server_hostname=name) as secure:
        assert secure.recv(1000)
        return secure.session is not None and secure.session.has_ticket


@pytest.mark.feature("B1")
def test_no_ticket_delays_the_greeting_of_the_mta(demo: Demo) -> None:
    """A ticket before the greeting makes Nagle's algorithm hold that back until the client acknowledges the ticket, 40 ms later."""
    found = demo.endpoints
    assert not _ticket(tuple(found["mta"]["submissions"]), found["tls_name"], found["ca"])
    assert any(_ticket(tuple(store["imaps"]), found["tls_name"], found["ca"]) for store in found["stores"].values()), "this test would see one"
