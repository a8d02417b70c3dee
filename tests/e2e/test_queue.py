"""Driving the MTA and its queue, on real servers: what is stopped, aborted, held or waits for a store is never lost, and never there twice without reason."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from program import Program, containers, docker, ended, tokens, until

from stackctl.cli.app import run
from stackctl.clients.imap import Imap
from stackctl.clients.smtp import Smtp
from stackctl.clients.where import Where
from stackctl.errors import StackctlError

pytestmark = [pytest.mark.e2e]

NAME = f"queue{os.getpid()}"
ALICE, BOB = "alice@example.test", "bob@example.test"
FILE = f"""\
name: {NAME}
stores: [{{backend: dovecot}}, {{backend: courier}}]
limits: {{auth_failure_delay: 0}}
"""
SOON = 30  # seconds: much less than the 300 that a server waits by default, much more than it takes
Said = Callable[..., str]
MTA = ("status", "stop", "reload", "abort", "flush", "check")
QUEUE = (["list"], ["show", "ABCDEF12345"], ["flush"], ["hold", "ALL"], ["release", "ALL"], ["requeue", "ALL"], ["delete", "ALL"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack whose MTA hands mail to one store by LMTP, and writes it into the Maildirs of the other itself."""
    program = Program.below(tmp_path_factory.mktemp("queue"), NAME)
    program.write(FILE)
    with program.up():
        yield program


@pytest.fixture
def alone(tmp_path: Any) -> Program:
    return Program.below(tmp_path, f"{NAME}-a")


@pytest.fixture(scope="module")
def found(here: Program) -> dict[str, Any]:
    endpoints: dict[str, Any] = here("endpoints", "--json", "--secrets").json
    return endpoints


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """What a command that must fail says to the terminal; in this process, which is quicker for many of them."""

    def fail(program: Program, *words: str, code: int) -> str:
        monkeypatch.chdir(program.work)
        monkeypatch.delenv("STACKCTL_NAME", raising=False)
        for key in ("STACKCTL_STATE", "CAROOT"):
            monkeypatch.setenv(key, program.env[key])
        assert run(words) == code, words
        return capsys.readouterr().err

    return fail


@pytest.fixture
def address() -> str:
    """A mailbox of its own for each test."""
    return f"q-{time.monotonic_ns()}@inbox.example.test"


@pytest.fixture(autouse=True)
def everything_runs_again(request: pytest.FixtureRequest) -> Iterator[None]:
    if "here" not in request.fixturenames:
        yield
        return
    program: Program = request.getfixturevalue("here")
    yield
    for id_ in containers(NAME, "--filter", "status=paused"):
        docker("unpause", id_)
    if len(containers(NAME)) < 3:
        program("up", "--name", NAME)
    docker("exec", *containers(NAME, "--filter", "label=org.stackctl.service=mta"), "postsuper", "-d", "ALL")


def send(found: dict[str, Any], address: str, *subjects: str, sender: str = "joe@foreign.example") -> None:
    with Smtp(Where.of(found, "mta", "smtp")) as smtp:
        for subject in subjects:
            smtp.send(sender, [address], f"Subject: {subject}\r\n\r\nText.\r\n".encode())


def arrived(found: dict[str, Any], address: str, store: str) -> Counter[str]:
    """How often each subject is in a mailbox."""
    with Imap(Where.of(found, store, "imaps")) as imap:
        imap.login(address, tokens(found).get(address) or tokens(found)[""])
        imap.select(readonly=True)
        return Counter(one.subject for one in imap.summaries(imap.uids()))


def comes(found: dict[str, Any], address: str, store: str, *subjects: str, within: float = SOON) -> Counter[str]:
    """Waits until all subjects are in a mailbox, also where its store is just starting; how often each is."""
    last: Counter[str] = Counter()

    def there() -> bool:
        nonlocal last
        with suppress(StackctlError):
            last = arrived(found, address, store)
        return set(subjects) <= set(last)

    until(there, within, f"{sorted(set(subjects) - set(last))[:5]} in {store}")
    return last


def queue(here: Program, address: str = "") -> list[dict[str, Any]]:
    """What is in the queue for an address."""
    return [row for row in here("queue", "list", "--json").json if not address or any(to["address"] == address for to in row["recipients"])]


def queued(here: Program, address: str, number: int, state: Callable[[dict[str, Any]], bool] = lambda _: True) -> list[dict[str, Any]]:
    """Waits until so many messages for an address are in the queue, all of them as `state` says."""
    rows: list[dict[str, Any]] = until(lambda: len(rows := queue(here, address)) == number and all(map(state, rows)) and rows, SOON, f"{number} in the queue")
    return rows


def has_reason(row: dict[str, Any]) -> bool:
    return all(to["delay_reason"] for to in row["recipients"])


@contextmanager
def without(found: dict[str, Any], store: str, how: str = "stop") -> Iterator[None]:
    """A store that is stopped, or only frozen: then what is handed to it is under way until it wakes."""
    container = found["stores"][store]["container"]
    docker(*(["pause"] if how == "pause" else ["stop", "-t", "5"]), container)
    try:
        yield
    finally:
        docker("unpause" if how == "pause" else "start", container)


# --- Start, stop, abort


@pytest.mark.feature("B5")
def test_stop_finishes_what_is_being_delivered(here: Program, found: dict[str, Any], address: str) -> None:
    before = here("endpoints", "--json").json
    with without(found, "dovecot", "pause"):
        send(found, address, "one", "two")
        queued(here, address, 2, lambda row: row["queue_name"] == "active")
        stopping = here.start("mta", "stop", "--timeout", "60", "--json")

        def refused() -> bool:
            try:
                send(found, address, "late")
            except StackctlError:
                return True
            return False

        until(refused, SOON, "no new client gets in")
        assert stopping.poll() is None, "deliveries are under way"
    assert ended(stopping, SOON).json == {"name": NAME, "done": "has stopped", "changed": True}
    assert docker("inspect", "--format", "{{.State.ExitCode}}", found["mta"]["container"]).strip() == "0"
    assert set(comes(found, address, "dovecot", within=5)) >= {"one", "two"}, "they came while it was stopping, not at the next start"
    stopped = here("mta", "status", "--json", code=1)
    assert (stopped.json["running"], stopped.json["state"]) == (False, "exited")
    assert "`stackctl mta start`" in stopped.err
    assert here("mta", "start", "--json").json == {"name": NAME, "done": "runs", "changed": True}
    assert here("mta", "start", "--json").json["changed"] is False
    assert here("endpoints", "--json").json == before
    assert {row["state"] for row in here("status", "--json").json} == {"running"}
    assert here("up", "--name", NAME, "--json").json["changed"] is False
    assert comes(found, address, "dovecot", "one", "two")["one"] == 1, "not again after the start"


@pytest.mark.feature("B5")
def test_stop_that_takes_too_long_changes_nothing(here: Program, found: dict[str, Any], address: str) -> None:
    with without(found, "dovecot", "pause"):
        send(found, address, "one")
        queued(here, address, 1, lambda row: row["queue_name"] == "active")
        ran = here("mta", "stop", "--timeout", "3", code=4)  # by then the idle processes of earlier tests have ended, on a busy machine too
        assert "runs on: after 3 s it was still at work (1 lmtp)" in ran.err
        assert "`stackctl mta abort`" in ran.err
        until(lambda: here("mta", "status", code=None).code == 0)

        def accepted() -> bool:
            try:
                send(found, address, "two")
            except StackctlError:
                return False
            return True

        until(accepted, SOON, "the MTA takes mail again")
    comes(found, address, "dovecot", "one", "two")


class Sender(threading.Thread):
    """Sends messages until it is told to end; remembers those that were answered with 250."""

    def __init__(self, found: dict[str, Any], address: str) -> None:
        super().__init__(daemon=True)
        self.found, self.address, self.over = found, address, threading.Event()
        self.answered: list[str] = []
        self.failed = 0

    def run(self) -> None:
        number = 0
        while not self.over.is_set():
            try:
                with Smtp(Where.of(self.found, "mta", "smtp"), timeout=20) as smtp:
                    while not self.over.is_set():
                        number += 1
                        smtp.send("joe@foreign.example", [self.address], f"Subject: m{number}\r\n\r\nText.\r\n".encode())
                        self.answered.append(f"m{number}")
                        self.over.wait(0.02)
            except StackctlError:
                self.failed += 1
                self.over.wait(0.02)


@pytest.mark.feature("B5")
@pytest.mark.parametrize(("how", "store_is"), [("stop", "stop"), ("abort", "stop"), ("abort", "pause")], ids=["stop", "abort", "abort while it delivers"])
def test_no_accepted_message_is_lost(how: str, store_is: str, here: Program, found: dict[str, Any], address: str) -> None:
    sender = Sender(found, address)
    with without(found, "dovecot", store_is):
        sender.start()
        try:
            until(lambda: len(sender.answered) > 20, SOON, "20 messages are accepted")
            here("mta", how)
            here("mta", "status", code=1)
            seen = len(sender.answered)
            here("mta", "start")
            until(lambda: len(sender.answered) > seen + 5, SOON, "it takes mail again")
        finally:
            sender.over.set()
            sender.join(SOON)
        assert sender.failed, "nobody noticed that the MTA was away"
        if store_is == "stop":
            assert len(queue(here, address)) >= len(sender.answered)
    for store in ("dovecot", "courier"):
        comes(found, address, store, *sender.answered, within=60)
    until(lambda: not queue(here, address), SOON, "nothing is left in the queue")


@pytest.mark.feature("B5")
def test_up_starts_a_stopped_mta(here: Program, found: dict[str, Any], address: str) -> None:
    here("mta", "stop")
    assert [row["service"] for row in here("status", "--json", code=1).json if row["state"] != "running"] == ["mta"]
    here("up", "--name", NAME)
    send(found, address, "after")
    comes(found, address, "dovecot", "after")
    assert here("endpoints", "--json", "--secrets").json == found


# --- Reload and check


@pytest.mark.feature("B5")
def test_reload_and_check_tell_a_fault_and_the_mta_goes_on(here: Program, found: dict[str, Any], address: str) -> None:
    assert "content" in here("mta", "check").out
    assert here("mta", "check", "--json").json == {"ok": True, "said": []}
    here("mta", "reload")
    here.write(FILE + "mta: {settings: {main_cf: {qmgr_message_active_limit: many}}}\n")
    try:
        here("up", "--name", NAME, code=3)
        words = "qmgr_message_active_limit = many: a number is due"
        assert words in here("mta", "check", code=1).out
        assert words in here("mta", "reload", code=1).err
        send(found, address, "goes on")
        comes(found, address, "dovecot", "goes on")
    finally:
        here.write(FILE)
        here("up", "--name", NAME)
    assert here("mta", "check", "--json").json["ok"] is True


@pytest.mark.feature("B5")
def test_status_tells_processes_and_queues(here: Program, found: dict[str, Any], address: str) -> None:
    with without(found, "dovecot"):
        send(found, address, "waits")
        queued(here, address, 1, has_reason)
        told = here("mta", "status", "--json").json
        assert (told["running"], told["state"], told["processes"]["master"]) == (True, "running", 1)
        assert told["since"].endswith("Z")
        assert set(told["queue"]) == {"maildrop", "incoming", "active", "deferred", "hold"}
        assert sum(told["queue"].values()) == 1
    assert "the MTA runs since" in here("mta", "status").out


# --- Where there is nothing to drive


@pytest.mark.feature("B5", "B10")
def test_a_stack_that_is_down_is_code_2(alone: Program, said: Said) -> None:
    for words in [*(["mta", one] for one in (*MTA, "start")), *(["queue", *one] for one in QUEUE)]:
        words_said = said(alone, *words, code=2)
        assert "is not up" in words_said, words
        assert "`stackctl up` starts it" in words_said


@pytest.mark.feature("B5", "B10")
def test_a_stopped_mta_is_told_with_the_next_step(here: Program, said: Said) -> None:
    here("mta", "abort")
    for words in [*(["mta", one] for one in MTA), *(["queue", *one] for one in QUEUE)]:
        words_said = said(here, *words, code=1)
        assert "does not run (exited)" in words_said, words
        assert "`stackctl mta start`" in words_said
    here("mta", "start")


@pytest.mark.feature("B5", "B10")
def test_a_paused_stack_is_told_with_the_next_step(here: Program) -> None:
    here("pause")
    try:
        for words in (["mta", "status"], ["mta", "start"], ["mta", "stop"], ["queue", "list"]):
            assert "`stackctl resume`" in here(*words, code=1).err
    finally:
        here("resume")
    here("mta", "status")


# --- The queue


@pytest.mark.feature("B10")
def test_mail_for_a_store_that_is_down_waits_and_comes_within_seconds(here: Program, found: dict[str, Any], address: str) -> None:
    with without(found, "dovecot"):
        send(found, address, "waits")
        comes(found, address, "courier", "waits")  # the other store has nothing to do with it
        (row,) = queued(here, address, 1, has_reason)
        assert (row["sender"], row["queue_name"] in ("deferred", "active")) == ("joe@foreign.example", True)
        assert row["message_size"] > 30
        assert row["arrival_time"].endswith("Z")
        (to,) = row["recipients"]
        assert (to["address"], to["store"]) == (address, "dovecot")
        assert "dovecot" in to["delay_reason"]
        words = (row["queue_id"], row["arrival_time"], address, "joe@foreign.example", "dovecot", to["delay_reason"])
        until(lambda: any(all(word in line for word in words) for line in here("queue", "list").out.splitlines()), SOON, "the table says it too")
    back = time.monotonic()
    assert comes(found, address, "dovecot", "waits")["waits"] == 1
    assert time.monotonic() - back < SOON
    until(lambda: not queue(here, address), SOON)
    assert arrived(found, address, "courier") == Counter(["waits"])


@pytest.mark.feature("B10")
def test_messages_are_held_released_requeued_deleted_and_shown(here: Program, found: dict[str, Any], address: str) -> None:
    with without(found, "dovecot"):
        send(found, address, "held", "requeued", "deleted", "untouched")
        ids = {}
        for row in queued(here, address, 4, has_reason):
            shown = here("queue", "show", row["queue_id"], "--json").json
            assert {key: shown[key] for key in ("queue_id", "sender")} == {"queue_id": row["queue_id"], "sender": "joe@foreign.example"}
            ids[shown["message"].partition("Subject: ")[2].split("\n")[0]] = row["queue_id"]
        assert set(ids) == {"held", "requeued", "deleted", "untouched"}
        text = here("queue", "show", ids["held"]).out
        assert "Subject: held" in text and f"recipient: {address}" in text and "sender: joe@foreign.example" in text

        assert here("queue", "hold", ids["held"], "--json").json == {"done": "hold", "messages": 1}
        assert here("queue", "hold", ids["held"]).out == "0 messages put on hold.\n"
        assert here("queue", "release", ids["untouched"], "--json").json["messages"] == 0, "it was not on hold"
        here("queue", "requeue", ids["requeued"])
        here("queue", "delete", ids["deleted"])
        rows = {row["queue_id"]: row["queue_name"] for row in queued(here, address, 3)}
        assert rows[ids["held"]] == "hold"
        assert ids["untouched"] in rows and ids["deleted"] not in rows and ids["requeued"] not in rows
    comes(found, address, "dovecot", "requeued", "untouched")
    here("queue", "flush")
    until(lambda: [row["queue_name"] for row in queue(here, address)] == ["hold"], SOON, "only what is on hold stays")
    assert set(arrived(found, address, "dovecot")) == {"requeued", "untouched"}
    assert here("queue", "release", "ALL").out == "1 message released.\n"
    comes(found, address, "dovecot", "held")
    until(lambda: here("queue", "list").out == "The queue is empty.\n", SOON)


@pytest.mark.feature("B10")
def test_an_id_that_is_none_changes_nothing(here: Program, found: dict[str, Any], address: str, said: Said) -> None:
    with without(found, "dovecot"):
        send(found, address, "stays")
        (row,) = queued(here, address, 1, has_reason)
        good = row["queue_id"]
        for action in ("hold", "release", "requeue", "delete"):
            unknown = said(here, "queue", action, good, "ABCDEF12345", code=2)
            assert "not in the queue: ABCDEF12345" in unknown and "nothing was changed" in unknown
            for bad in ("all", "*", "$(touch /tmp/x)", "A;B", "../../etc", "-r", "", f"{good}\n", "ALL "):
                assert "no queue id" in said(here, "queue", action, "--", bad, good, code=2), bad
            assert "ALL stands alone" in said(here, "queue", action, good, "ALL", code=2)
            assert said(here, "queue", action, code=2)
        assert "not in the queue" in said(here, "queue", "show", "ABCDEF12345", "--json", code=2)
        assert "no queue id" in said(here, "queue", "show", "ALL", code=2)
        (after,) = queue(here, address)
        assert (after["queue_id"], after["queue_name"] == "hold") == (good, False)


@pytest.mark.feature("B5", "B10")
def test_flush_delivers_what_would_wait_longer(here: Program, found: dict[str, Any], address: str) -> None:
    here.write(FILE + "mta: {settings: {main_cf: {minimal_backoff_time: 600s, maximal_backoff_time: 600s}}}\n")
    try:
        here("up", "--name", NAME)
        with without(found, "dovecot"):
            send(found, address, "waits", "waits too")
            queued(here, address, 2, has_reason)
        until(lambda: _answers(found), SOON)
        time.sleep(3)  # three runs of the queue: with the back-off of a usual server nothing happens in them
        assert arrived(found, address, "dovecot") == Counter(), "it would not come by itself"
        one, other = queue(here, address)
        here("queue", "hold", other["queue_id"])
        here("queue", "flush")
        until(lambda: sum(arrived(found, address, "dovecot").values()) == 1, SOON, "what is not on hold")
        here("queue", "release", other["queue_id"])
        here("mta", "flush")
        comes(found, address, "dovecot", "waits", "waits too")
        assert one["queue_id"] != other["queue_id"]
    finally:
        here.write(FILE)
        here("up", "--name", NAME)


def _answers(found: dict[str, Any]) -> bool:
    try:
        arrived(found, ALICE, "dovecot")
    except StackctlError:
        return False
    return True


# --- The programs that people know


@pytest.mark.feature("B10")
def test_mailq_sendmail_and_newaliases_work_in_the_container(here: Program, found: dict[str, Any], address: str) -> None:
    with without(found, "dovecot"):
        sent = here("shell", "mta", "sendmail", "-t", "-i", "-f", BOB, stdin=f"From: {BOB}\nTo: {address}\nSubject: by sendmail\n\nText.\n".encode())
        assert sent.out == ""
        (row,) = queued(here, address, 1)
        for words in (["mailq"], ["sendmail", "-bp"], ["postqueue", "-p"]):
            out = here("shell", "mta", *words).out
            assert row["queue_id"] in out and BOB in out and "in 1 Request." in out, words
    comes(found, address, "dovecot", "by sendmail")
    until(lambda: not queue(here), SOON)
    assert here("shell", "mta", "mailq").out == "Mail queue is empty\n"
    here("shell", "mta", "newaliases")
    assert here("shell", "--json", "mta", "sendmail", "-bp").json["output"] == "Mail queue is empty\n"


@pytest.mark.feature("B10")
def test_a_user_without_privileges_needs_the_group_postdrop(here: Program, found: dict[str, Any], address: str) -> None:
    """no-new-privileges takes the set-group-id bit from postdrop(1) and postqueue(1)."""
    container = found["mta"]["container"]
    refused = docker("exec", "-u", "5000:5000", container, "sh", "-c", "mailq 2>&1 || true")
    assert "Permission denied" in refused
    docker("exec", "-u", "5000:103", container, "sh", "-c", f"printf 'Subject: by nobody\\n\\nText.\\n' | sendmail -f {BOB} {address}")
    comes(found, address, "dovecot", "by nobody")


@pytest.mark.feature("B10")
def test_a_store_without_a_name_is_no_reason_to_bounce(here: Program) -> None:
    """Where the engine's resolver reaches another one, that says that there is no such host: for good, as Postfix sees it."""
    script = 'postmap -q "$1" "$(postconf -xh "$2")"'
    lost = "5.4.4 unable to look up host dovecot: Name or service not known"
    for agent in ("lmtp", "smtp"):
        assert here("shell", "mta", "sh", "-c", script, "sh", lost, f"{agent}_delivery_status_filter").out == f"4{lost[1:]}\n"
    here("shell", "mta", "sh", "-c", script, "sh", "5.1.1 no such user", "lmtp_delivery_status_filter", code=1)  # the negative twin
