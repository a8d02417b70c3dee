"""Logs of servers that run: why a message was refused, the timeline, one message's way, counts. The stack of the session is used, and left as it was."""

from __future__ import annotations

import imaplib
import json
import os
import poplib
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import Demo
from program import docker, until

pytestmark = [pytest.mark.e2e, pytest.mark.feature("B9")]
Cli = Callable[..., subprocess.CompletedProcess[str]]
WITHIN = 30  # seconds until a line is in the log
MAILBOX = "alice@example.test"


@dataclass(frozen=True)
class Sent:
    """A message that was accepted: its Message-ID, and the time before it, for --since."""

    message_id: str
    since: str


@pytest.fixture(scope="session")
def ask(cli: Cli) -> Callable[..., Any]:
    """Runs a command with --json; what it gave."""

    def run(*arguments: str, code: int = 0) -> Any:
        done = cli(*arguments, "--json")
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout if code == 0 else done.stderr)

    return run


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))


def tag(what: str) -> str:
    return f"{what}-{time.monotonic_ns()}"


def deliver(cli: Cli, ask: Callable[..., Any], to: str, what: str, body: str = "x", steps: str = "removed") -> Sent:
    """Sends a message and waits until its trace has this step."""
    sent = Sent(f"{tag(what)}@example.test", now())
    message = f"From: {MAILBOX}\nTo: {to}\nSubject: {what}\nMessage-ID: <{sent.message_id}>\n\n{body}\n"
    done = cli("send", "--to", to, "--from", MAILBOX, "--eml", "/dev/stdin", stdin=message)
    assert done.returncode == 0, done.stderr
    until(lambda: steps in {hop["step"] for hop in traced(cli, sent.message_id)}, WITHIN)
    return sent


def traced(cli: Cli, wanted: str) -> list[dict[str, Any]]:
    done = cli("trace", wanted, "--json")
    return json.loads(done.stdout)["hops"] if done.returncode == 0 else []


@pytest.fixture(scope="session")
def delivered(cli: Cli, ask: Callable[..., Any]) -> Sent:
    """A message that reached alice in every store."""
    return deliver(cli, ask, MAILBOX, "delivered")


# --- Why was it refused?


def test_the_line_that_tells_why_a_message_was_refused_is_found(cli: Cli, ask: Callable[..., Any]) -> None:
    nobody, since = f"{tag('nobody')}@example.test", now()
    assert cli("send", "--to", nobody, "--subject", "x", "--body", "x").returncode == 1
    found = until(lambda: [line for line in ask("logs", "--problems", "--since", since) if nobody in line["text"]], WITHIN)
    assert [line["service"] for line in found] == ["mta"]
    assert all(line["problem"] for line in found)
    for part in ("reject: RCPT from unknown[", "550 5.1.1", "Recipient address rejected: User unknown", f"to=<{nobody}>"):
        assert part in found[0]["text"]


def test_a_delivered_message_shows_no_problem(delivered: Sent, demo: Demo, ask: Callable[..., Any]) -> None:
    """The negative twin."""
    found = ask("trace", delivered.message_id)
    ids = (*found["queue_ids"], *found["message_ids"])
    everything = [line for line in ask("logs", "--since", delivered.since) if any(one in line["text"] for one in ids)]
    assert {line["service"] for line in everything} >= {"mta"}
    assert len(everything) >= 4 + len(demo.endpoints["stores"]), "the lines are there"
    assert not [line for line in ask("logs", "--problems", "--since", delivered.since) if any(one in line["text"] for one in ids)]


def test_a_failed_login_is_a_problem_in_every_store(demo: Demo, ask: Callable[..., Any]) -> None:
    context, who, since = ssl.create_default_context(cafile=demo.endpoints["ca"]), tag("who"), now()
    context.check_hostname = False  # the chain is verified; names are the business of other tests

    def imap(part: dict[str, Any]) -> None:
        host, port = part["imaps"]
        with pytest.raises(imaplib.IMAP4.error), imaplib.IMAP4_SSL(host, port, ssl_context=context) as client:
            client.login(f"imap-{who}@example.test", "wrong")

    def pop3(part: dict[str, Any]) -> None:
        host, port = part["pop3s"]
        client = poplib.POP3_SSL(host, port, context=context)
        client.user(f"pop3-{who}@example.test")
        with pytest.raises(poplib.error_proto):
            client.pass_("wrong")
        client.close()

    with ThreadPoolExecutor() as pool:  # a server may take seconds for its answer
        stores = demo.endpoints["stores"]
        for done in [pool.submit(login, part) for login in (imap, pop3) for part in stores.values()]:
            done.result()
    wanted = {(protocol, store) for protocol in ("imap", "pop3") for store in stores}

    def seen() -> bool:
        lines = ask("logs", "--problems", "--since", since, "--grep", who)
        return {(protocol, line["service"]) for line in lines for protocol in ("imap", "pop3") if f"{protocol}-{who}" in line["text"]} >= wanted

    until(seen, WITHIN)


# --- The timeline


def test_the_timeline_is_in_order_and_names_every_service(delivered: Sent, demo: Demo, cli: Cli, ask: Callable[..., Any]) -> None:
    found = ask("logs")
    assert [line["time"] for line in found] == sorted(line["time"] for line in found)
    services = ["mta", *demo.endpoints["stores"]]
    assert {line["service"] for line in found} == set(services)
    assert set(found[0]) == {"time", "service", "severity", "problem", "text"}
    text = cli("logs", "--since", delivered.since).stdout
    assert "\x1b" not in text, "colours are for terminals"
    assert all(re.match(rf"({'|'.join(services)}) +\d\d:\d\d:\d\d\.\d\d\d  \S", row) for row in text.splitlines())
    assert delivered.message_id in text


def test_lines_are_chosen_by_service_time_text_and_number(delivered: Sent, demo: Demo, ask: Callable[..., Any]) -> None:
    store = next(iter(demo.endpoints["stores"]))
    assert {line["service"] for line in ask("logs", store)} == {store}
    lines = ask("logs", "--grep", re.escape(delivered.message_id))
    assert lines and all(delivered.message_id in line["text"] for line in lines)
    assert ask("logs", "--grep", re.escape(delivered.message_id), "--tail", "2") == lines[-2:]
    assert ask("logs", "--since", lines[-1]["time"], "--until", lines[-1]["time"], "--grep", re.escape(delivered.message_id)) in ([], lines[-1:])
    assert not ask("logs", "--until", delivered.since, "--grep", re.escape(delivered.message_id))
    assert not ask("logs", "--since", "2100-01-01")
    assert ask("logs", "--tail", "0") == []


def test_severities_leave_out_what_is_less_grave(delivered: Sent, ask: Callable[..., Any]) -> None:
    numbers = [len(ask("logs", "--since", delivered.since, "--severity", one)) for one in ("debug", "info", "warning", "crit")]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[1] > numbers[2], "info is there"
    assert {line["severity"] for line in ask("logs", "--severity", "warning")} <= {"warning", "err", "crit"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["logs", "--since", "5x"],
        ["logs", "--until", "never"],
        ["logs", "--severity", "loud"],
        ["logs", "--grep", "(["],
        ["logs", "--follow", "--until", "5m"],
        ["logs", "nobody"],
        ["stats", "--day", "someday"],
        ["stats", "--day", "today", "--since", "5m"],
        ["stats", "--since", "soon"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_is_code_2_with_a_hint(arguments: list[str], ask: Callable[..., Any]) -> None:
    assert ask(*arguments, code=2)["hint"]


def test_new_lines_are_followed_until_an_interrupt(demo: Demo, cli: Cli) -> None:
    who = tag("followed")
    lines: list[dict[str, Any]] = []

    def send(to: str) -> None:
        assert cli("send", "--to", f"{to}@inbox.example.test", "--subject", "x", "--body", "x").returncode == 0

    def delivered_to(address: str) -> bool:
        return any("status=sent" in line["text"] and f"<{address}@" in line["text"] for line in lines)

    send(f"{who}.before")
    argv = [sys.executable, "-m", "stackctl", "logs", "-f", "--json", "--grep", who]
    environment = {**os.environ, **demo.environment, "STACKCTL_NAME": demo.name}
    following = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=demo.path.parent, env=environment, start_new_session=True)
    try:
        assert following.stdout
        reader = threading.Thread(target=lambda: lines.extend(json.loads(row) for row in following.stdout or ()), daemon=True)
        reader.start()
        until(lambda: delivered_to(f"{who}.before"), WITHIN)  # now it follows
        send(f"{who}.after")
        until(lambda: delivered_to(f"{who}.after"), WITHIN)
        os.killpg(following.pid, signal.SIGINT)
        assert following.wait(WITHIN) == 130
        reader.join(WITHIN)
    finally:
        following.kill()
        following.wait()
    assert all(who in line["text"] for line in lines)
    assert len({(line["time"], line["service"], line["text"]) for line in lines}) == len(lines), "none comes twice"


def test_a_paused_stack_and_a_dead_store_still_have_their_logs(delivered: Sent, demo: Demo, cli: Cli, ask: Callable[..., Any]) -> None:
    store = next(iter(demo.endpoints["stores"]))
    before = len(ask("logs", store))
    cli("pause")
    try:
        assert ask("trace", delivered.message_id)["hops"]
        assert ask("stats", "--since", delivered.since)["received"] >= 1
        assert "Grand Totals" in cli("stats").stdout
    finally:
        cli("resume")
    try:
        docker("kill", demo.endpoints["stores"][store]["container"])
        assert len(ask("logs", store)) >= before > 0
        assert ask("trace", delivered.message_id)["hops"]
    finally:
        docker("start", demo.endpoints["stores"][store]["container"])
        until(lambda: cli("inbox", MAILBOX, "--store", store).returncode == 0, WITHIN)


# --- One message's way


def test_a_trace_has_every_hop_up_to_the_first_read(delivered: Sent, demo: Demo, cli: Cli, ask: Callable[..., Any]) -> None:
    stores = set(demo.endpoints["stores"])
    for store in stores:
        assert cli("inbox", MAILBOX, "--store", store, "--show", "-1").returncode == 0
    hops = until(lambda: [hop for hop in [traced(cli, delivered.message_id)] if stores == {one["service"] for one in hop if one["step"] == "read"}], WITHIN)[0]
    steps = [hop["step"] for hop in hops]
    assert steps[:3] == ["accepted", "message-id", "queued"]
    assert {hop["told"]["store"] for hop in hops if hop["step"] == "delivered"} == stores
    accepted = hops[0]["told"]
    assert accepted["login"] == MAILBOX and accepted["tls"].startswith("TLSv1.") and "unknown[" in accepted["client"]
    saved = {hop["service"] for hop in hops if hop["step"] == "saved"}
    assert saved == {store for store in stores if any(hop["told"].get("store") == store and "Saved" in hop["text"] for hop in hops)}
    assert [hop["ms"] for hop in hops] == sorted(hop["ms"] for hop in hops)
    assert hops[0]["ms"] == 0
    text = cli("trace", delivered.message_id).stdout
    assert all(word in text for word in ("STEP", "delivered", "removed", MAILBOX))


def test_a_trace_is_found_by_either_id(delivered: Sent, ask: Callable[..., Any]) -> None:
    found = ask("trace", delivered.message_id)
    assert len(found["queue_ids"]) == 1
    assert ask("trace", f"<{delivered.message_id}>")["hops"] == found["hops"] == ask("trace", found["queue_ids"][0])["hops"]


@pytest.mark.parametrize("wanted", ["no-such-message@example.test", ".*", "([", ""])
def test_an_unknown_message_is_code_1_with_a_hint(wanted: str, ask: Callable[..., Any]) -> None:
    assert "stackctl logs" in ask("trace", wanted, code=1)["hint"]


def test_a_trace_follows_the_bounce(demo: Demo, cli: Cli, ask: Callable[..., Any]) -> None:
    full = f"{tag('full')}@example.test"
    assert cli("user", "add", full, "--generate", "--quota", "2K").returncode == 0
    try:
        sent = deliver(cli, ask, full, "big", body="x" * 70 + "\n" + ("y" * 70 + "\n") * 100, steps="bounced")
        until(lambda: sum(hop["step"] == "removed" for hop in traced(cli, sent.message_id)) == 2, WITHIN)
        found = ask("trace", sent.message_id)
        original, bounce = found["queue_ids"]
        assert any(hop["step"] == "not saved" and "uota" in hop["told"]["failure"] for hop in found["hops"])
        assert [hop["told"]["successor"] for hop in found["hops"] if hop["step"] == "made"] == [bounce]
        assert {hop["told"]["recipient"] for hop in found["hops"] if hop["id"] == bounce and hop["step"] == "delivered"} == {MAILBOX}
        problems = [line["text"] for line in ask("logs", "mta", "--problems", "--since", sent.since)]
        assert any(original in text and "status=bounced" in text for text in problems)
        assert ask("stats", "--since", sent.since)["bounced"] >= 1
    finally:
        cli("user", "delete", full)


# --- Counts


def test_the_numbers_are_those_of_the_report(delivered: Sent, cli: Cli, ask: Callable[..., Any]) -> None:
    until_then = ("--until", ask("logs", "mta", "--tail", "1")[0]["time"])
    text, ours = cli("stats", *until_then, "--top", "1000").stdout, ask("stats", *until_then, "--top", "1000")
    said = {name: (float(number), unit) for number, unit, name in re.findall(r"^ +(\d+)([km ])  ?([a-z][a-z /]+?)(?: +\(.*)?$", text, re.MULTILINE)}
    names = {"received": "received", "delivered": "delivered", "forwarded": "forwarded", "deferred": "deferred", "bounced": "bounced", "rejected": "rejected"}
    names |= {"octets_received": "bytes received", "octets_delivered": "bytes delivered", "held": "held", "discarded": "discarded", "reject_warnings": "reject warnings"}
    for key, name in names.items():
        number, unit = said[name]
        assert int(ours[key] / {" ": 1, "k": 1024, "m": 1024**2}[unit]) == number, name
    assert ours["received"] >= 2
    lists = {"senders": "senders", "sender_domains": "sending hosts/domains", "recipients": "recipients", "recipient_domains": "recipient hosts/domains"}
    for key, name in lists.items():
        assert (len(ours[key]), ours["totals"][key]) == (said[name][0], said[name][0]), name
    senders = text.partition("Senders by message count\n")[2].partition("\n\n")[0]
    assert {name: int(number) for number, name in re.findall(r"^ +(\d+)   (.+)$", senders, re.MULTILINE)} == {one["name"]: one["messages"] for one in ours["senders"]}
    if "Daily Average" not in text:  # the sums: a line at the end of an hour may reach the engine in the next one
        hours = re.findall(r"^    \d{4}-\d{4} +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)", text, re.MULTILINE)
        sums = [sum(map(int, column)) for column in zip(*hours, strict=True)]
        assert sums == [sum(row[key] for row in ours["by_hour"]) for key in ("received", "delivered", "deferred", "bounced", "rejected")]


def test_a_day_without_mail_has_no_numbers(ask: Callable[..., Any], delivered: Sent) -> None:
    assert ask("stats", "--day", "2001-02-03")["received"] == 0
    assert ask("stats", "--day", delivered.since[:10])["received"] >= 1
