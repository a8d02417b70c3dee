"""Every MTA but the default: the scenarios that are about it, its queue, what it is allowed, and mail to a next hop."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAME
from program import docker, left, until
from test_mechanisms import client, submission

from stackctl import contents, load, logbook, mta, queue, report, running, scenarios, stack, state, trace, traffic
from stackctl.backends import all_backends, choices, directory, find
from stackctl.cli import app
from stackctl.clients.imap import Imap
from stackctl.clients.smtp import Refused, Smtp
from stackctl.clients.where import Where
from stackctl.errors import BadStack, StackctlError, TimedOut, UsageError
from stackctl.model import Stack
from stackctl.scenario import Case, Context

pytestmark = pytest.mark.e2e
OTHERS = [family for family in choices("mta") if family != Stack().mta.backend]
WITHIN = 60  # seconds
PASSWORD = "relay ^password 5 $x"
MAILDROP = """
if (/^Subject:.*work/)
{
  `test -d "$HOME/Maildir/.Work" || maildirmake -f Work "$HOME/Maildir"`
  to "$HOME/Maildir/.Work/"
}
if (/^Subject:.*onward/)
  cc "!bob@example.test"
"""
ALICE, BOB, FULL = "alice@example.test", "bob@example.test", "full@example.test"


@dataclass
class Front:
    """A stack, and the default MTA's stack that it exchanges mail with."""

    path: Path
    state: state.State
    endpoints: dict[str, Any]

    def send(self, sender: str, to: str, subject: str, login: str | None = None) -> None:
        with Smtp(Where.of(self.endpoints, "mta", "submission" if login else "smtp")) as smtp:
            if login:
                smtp.login(login, self.password(login))
            smtp.send(sender, [to], f"From: {sender}\r\nTo: {to}\r\nMessage-ID: <{subject.replace(' ', '.')}@x.example>\r\nSubject: {subject}\r\n\r\nhello\r\n".encode())

    def password(self, who: str) -> str:
        return str(next(one["password"] for one in [*self.endpoints["accounts"], self.endpoints["catch_all"]] if one["address"] == who))

    def message(self, who: str, subject: str, store: str = "dovecot", within: float = WITHIN) -> Message:
        with Imap(Where.of(self.endpoints, store, "imaps")) as imap:
            imap.login(who, self.password(who))
            (found, *_) = imap.wait(subject=f"^{subject}$", timeout=within)
            return message_from_bytes(imap.fetch(found.uid))

    def bounced(self, who: str, saying: str) -> bool:
        """Whether a delivery report in somebody's mailbox says this, a regular expression."""
        with Imap(Where.of(self.endpoints, "dovecot", "imaps")) as imap:
            imap.login(who, self.password(who))
            imap.select(readonly=True)
            reports = [imap.fetch(uid).decode(errors="replace") for uid in imap.uids("HEADER", "Content-Type", "multipart/report")]
        return any(re.search(saying, report, re.DOTALL) for report in reports)

    def delayed(self, count: int) -> tuple[queue.Message, ...]:
        """What waits in the queue, once so many messages do; () until then."""
        found = queue.messages(self.state)
        return found if len(found) == count and all(who.delay_reason for one in found for who in one.recipients) else ()

    @contextmanager
    def without(self, store: str) -> Iterator[None]:
        """While a store is down; with an empty queue at first, and the store's answers at the end."""
        queue.change(self.state, "delete", ["ALL"])
        docker("stop", "-t", "2", self.state.containers[store])
        try:
            yield
        finally:
            docker("start", self.state.containers[store])
            until(lambda: self.answers(store), WITHIN, f"{store} answers")

    def answers(self, store: str) -> bool:
        with suppress(StackctlError), Imap(Where.of(self.endpoints, store, "imaps")):
            return True
        return False

    def lines(self) -> list[logbook.Line]:
        return logbook.read({"mta": self.state.containers["mta"]})

    @property
    def rules(self) -> logbook.Rules:
        return logbook.rules({"mta": self.endpoints["mta"]["backend"]})["mta"]


def up(path: Path, file: dict[str, Any], mta: str | None = None) -> Front:
    path.write_text(yaml.safe_dump(file), encoding="utf-8")
    known = stack.up(path, mta=mta).state
    return Front(path, known, running.endpoints(known, secrets=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mtas")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACKCTL_STATE", str(folder / "state"))
        patch.setenv("CAROOT", str(folder / "ca"))
        patch.delenv("STACKCTL_NAME", raising=False)
        yield folder


def relay_password(family: str) -> str:
    """A password that has all that could mean something to the MTA's files, but what it cannot have."""
    return PASSWORD if "next-hop-passwords-with-spaces" in find("mta", family).provides else PASSWORD.replace(" ", "")


def by_password(family: str) -> list[str]:
    """The mechanisms of an MTA that prove a password."""
    return [name for name, one in find("mta", family).mechanisms.items() if one.verifier not in ("certificate", "token", "ticket")]


@pytest.fixture(scope="module", params=OTHERS)
def pair(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Front, Front]]:
    """A stack with another MTA, of every way that it delivers, and one with the default MTA; each hands the domain of the other to it."""
    name, peer = f"{NAME}-{request.param}", f"{NAME}-peer"
    stores: list[dict[str, Any]] = [{"backend": "dovecot"}, {"backend": "courier"}, {"name": "old", "backend": "dovecot", "mailbox": "mbox", "delivery": "mbox"}]
    if "maildrop" in find("mta", request.param).delivers:
        stores.append({"name": "filed", "backend": "courier", "delivery": "maildrop"})
    stores = [{**store, "auth": {"mechanisms": ["PLAIN"]}} for store in stores]
    (folder / "full.maildrop").write_text(MAILDROP, encoding="utf-8")
    full = {"address": FULL, "quota": {"storage": "40K"}, "filters": {"maildrop": "full.maildrop"} if len(stores) > 3 else {}}
    common: dict[str, Any] = {"limits": {"auth_failure_delay": 0}}
    here: dict[str, Any] = {
        **common,
        "name": NAME,
        "stores": stores,
        "auth": {"mechanisms": by_password(request.param)},
        "users": [{"address": ALICE, "aliases": ["al@example.test"]}, {"address": "bob@example.test"}, full],
        "aliases": {"team@example.test": [ALICE, "bob@example.test"]},
        "system_aliases": {"ops": [ALICE, "night"], "night": ["/dev/null"]},
        "message_size_limit": "12M",
        "routes": {"b.test": {"stack": peer}},
    }
    there = {
        **common,
        "name": peer,
        "domain": "b.test",
        "stores": [{"backend": "dovecot"}],
        "users": [{"address": "bea@b.test"}, {"address": "relay@b.test", "any_sender": True, "password": relay_password(request.param)}],
        "routes": {"example.test": {"stack": name, "host": "mail.example.test"}},
    }
    try:
        other = up(folder / "peer.yaml", there)
        yield up(folder / f"{request.param}.yaml", here, request.param), other
    finally:
        for one in (name, peer):
            running.down(one, volumes=True)


@pytest.mark.feature("B2", "B1", "B7", "B8", "A9")
def test_the_suite_passes_and_what_is_left_out_has_its_reason(pair: tuple[Front, Front]) -> None:
    """Whatever a scenario about the MTA says; of the ways out one does, for what a store does with its mail other tests are about."""
    front, _ = pair
    todo = [
        (one, case)
        for one, case in scenarios.plan([store for store in front.endpoints["stores"] if store != "filed"])
        if report.topic(one.name) in ("flow", "protocol", "rules", "isolation", "access") and case.way_out in (None, "imaps") and (case.way_in or case.way_out is None)
    ]
    outcomes = scenarios.run(front.endpoints, chosen=todo, jobs=4)
    failed = [report.failure(one) for one in outcomes if one.verdict == "failed"]
    assert not failed, "\n".join(failed[:3])
    provided = set(all_backends()[front.endpoints["mta"]["backend"]].provides)
    lacking = {one.name for one, _ in todo if one.of_mta - provided}
    left_out = {one.name: one.reason for one in outcomes if one.verdict == "skipped"}
    assert lacking <= set(left_out) and all(left_out.values())
    assert all("does not provide" in left_out[name] for name in lacking)


@pytest.mark.feature("B2", "B1")
def test_the_suite_fails_with_a_wrong_password(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    broken = {**front.endpoints, "disposable": {**front.endpoints["disposable"], "password": "not-the-password"}}
    outcomes = scenarios.run(broken, only=r"^a_login_with_the_right_password_may_send\[")
    assert {one.verdict for one in outcomes} == {"failed"} and "535" in outcomes[0].reason


@pytest.mark.feature("B2", "B1", "D4")
def test_every_mechanism_lets_in_who_has_the_password_and_nobody_else(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    disposable = front.endpoints["disposable"]
    anybody = f"anybody@{disposable['domain']}"
    everybody = {ALICE: front.password(ALICE), "bob@example.test": front.password("bob@example.test"), anybody: disposable["password"]}
    chosen = by_password(all_backends()[front.endpoints["mta"]["backend"]].family)
    for mechanism in chosen:
        for who, password in everybody.items():
            assert log_in(front.endpoints, "submissions", mechanism, who, password) == 235, (mechanism, who)
    # At once, for a server may take seconds to say no.
    wrong = [(mechanism, who) for mechanism in chosen for who in (ALICE, anybody)]
    with ThreadPoolExecutor(len(wrong)) as pool:
        said = pool.map(lambda one: log_in(front.endpoints, "submission", one[0], one[1], everybody["bob@example.test"]), wrong)
        assert set(said) == {535}


def log_in(endpoints: dict[str, Any], port: str, mechanism: str, who: str, password: str) -> int:
    """The code of the reply to a login within TLS."""
    with submission(endpoints, port) as session:
        session.ehlo()
        assert set(session.esmtp_features["auth"].split()) == set(by_password(all_backends()[endpoints["mta"]["backend"]].family))
        answer = client(mechanism, who, password)
        code, said = session.docmd(f"AUTH {mechanism}", base64.b64encode(first).decode() if (first := answer(b"")) else "")
        while code == 334:
            code, said = session.docmd(base64.b64encode(answer(base64.b64decode(said))).decode())
        return code


@pytest.mark.feature("B5", "B6")
def test_nobody_smuggles_another_recipient_into_an_address(pair: tuple[Front, Front]) -> None:
    """What is inside an address is text, whatever it would mean to the MTA's own files; and the inner name of a mailbox is no address."""
    front, _ = pair
    context = Context(front.endpoints, Case(), "smuggle")
    wanted = context.fresh("victim")
    for local in (f'"x, {wanted}"', '"|touch /tmp/x"', '"${run{/bin/false}}"', '"store.internal=dovecot=x"', "store.internal=dovecot=x", '"/tmp/x"', '":fail: x"'):
        with context.raw_smtp("smtp") as smtp:
            smtp.expect("MAIL FROM:<writer@elsewhere.example>", 250)
            if smtp.ask(f"RCPT TO:<{local}@{context.disposable}>")[0] == 250:
                smtp.expect("DATA", 354)
                smtp.say(context.message("writer@elsewhere.example", wanted, "smuggled") + b".\r\n")
                assert smtp.reply()[0] == 250
    context.send(wanted, context.message(context.sender("smtp"), wanted, "marker"), way="smtp")
    assert b"Subject: marker" in context.mailbox(wanted, 1, way="imaps")[0]
    volumes = all_backends()[front.endpoints["mta"]["backend"]].container.volumes.values()
    assert not docker("exec", front.state.containers["mta"], "sh", "-c", 'find /tmp "$@" -name x 2>/dev/null || true', "-", *volumes)


@pytest.mark.feature("B6")
def test_a_system_alias_reaches_people_and_what_is_thrown_away_makes_no_bounce(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    for subject, to in (("to nobody", "night@example.test"), ("to people", "ops@example.test")):
        front.send(ALICE, to, subject, login=ALICE)
    assert front.message(ALICE, "to people")
    until(lambda: not queue.messages(front.state), WITHIN, "an empty queue")
    assert not front.bounced(ALICE, "ops@|night@")
    with pytest.raises(TimedOut):
        front.message(ALICE, "to nobody", within=0.5)


@pytest.mark.feature("B10", "B9")
def test_the_queue_is_shown_held_released_and_emptied(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    mark = front.lines()[-1].time
    with front.without("dovecot"):
        for number in range(3):
            front.send("joe@foreign.example", ALICE, f"waits {number}")
        waiting = until(lambda: front.delayed(3), WITHIN, "three messages that wait")
        assert {(one.sender, *[(who.address, who.store) for who in one.recipients]) for one in waiting} == {("joe@foreign.example", (ALICE, "dovecot"))}
        first, second, third = (one.queue_id for one in waiting)
        assert queue.change(front.state, "hold", [first, second]) == 2
        assert queue.change(front.state, "hold", [first]) == 0
        assert queue.change(front.state, "delete", [second]) == 1
        assert {one.queue_id: one.queue_name for one in queue.messages(front.state)}[first] == queue.HOLD
        assert mta.status(front.state).queue["hold"] == 1
        assert "Subject: waits" in queue.text(front.state, first) and queue.text(front.state, first, content=True)
        with pytest.raises(UsageError, match="not in the queue"):
            queue.change(front.state, "delete", ["1xAAAA-00000000000-0000"])
    assert queue.flush(front.state) >= 1
    until(lambda: {one.queue_id for one in queue.messages(front.state)} == {first}, WITHIN, "what is not on hold goes")
    assert queue.change(front.state, "release", ["ALL"]) == 1
    until(lambda: not queue.messages(front.state), WITHIN, "an empty queue")
    assert {str(front.message(ALICE, "waits .")["Subject"])} and third
    found = traffic.count([line for line in front.lines() if line.time > mark], front.rules)
    assert (found.received, found.deferred > 0, found.bounced) == (3, True, 0)


@pytest.mark.feature("B10")
def test_it_stops_when_its_work_is_done_and_starts_again(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    with Smtp(Where.of(front.endpoints, "mta", "submission")):  # who says nothing does not hold it up
        mta.stop(front.state, 20)
    with pytest.raises(StackctlError):
        front.send("joe@foreign.example", ALICE, "too late")
    assert mta.start(front.state)
    front.send("joe@foreign.example", ALICE, "after the stop")
    front.message(ALICE, "after the stop")
    mta.reload(front.state)
    assert mta.check(front.state) == (True, "")
    mta.abort(front.state)
    assert mta.start(front.state) and mta.status(front.state).running


@pytest.mark.feature("B2", "B8", "C4")
def test_maildrop_files_sends_on_and_keeps_a_mailbox_to_its_quota(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    if "filed" not in front.endpoints["stores"]:
        pytest.skip(f"{front.endpoints['mta']['backend']} does not deliver by maildrop")
    for subject in ("for work", "goes onward"):
        front.send(BOB, FULL, subject, login=BOB)
    front.message(FULL, "goes onward", store="filed")
    front.message(BOB, "goes onward", store="filed")
    with Imap(Where.of(front.endpoints, "filed", "imaps")) as imap:
        imap.login(FULL, front.password(FULL))
        assert len(imap.wait(subject="^for work$", mailbox="INBOX.Work")) == 1
    for number in range(2):
        with Smtp(Where.of(front.endpoints, "mta", "submission")) as smtp:
            smtp.login(BOB, front.password(BOB))
            smtp.send(BOB, [FULL], f"From: {BOB}\r\nTo: {FULL}\r\nSubject: large {number}\r\n\r\n".encode() + (b"x" * 78 + b"\r\n") * 350)
        front.message(FULL, "large 0", store="filed")
    until(lambda: front.bounced(BOB, r"<full@example\.test>.*552 5\.2\.2 <full@example\.test>: Quota exceeded"), WITHIN, "a bounce")
    with Imap(Where.of(front.endpoints, "filed", "imaps")) as imap:
        imap.login(FULL, front.password(FULL))
        imap.select()
        assert not imap.uids("SUBJECT", "large 1") and imap.uids("SUBJECT", "large 0")


@pytest.mark.feature("B9")
def test_one_messages_way_is_told(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    front.send("joe@foreign.example", "al@example.test", "the way")
    front.message(ALICE, "the way")
    wanted = "the.way@x.example"

    def told() -> list[tuple[str, str | None]]:
        hops = trace.trace(wanted, front.lines(), {"mta": front.rules}).hops
        return [(hop.step, hop.told.get("store")) for hop in hops]

    until(lambda: "removed" in [step for step, _ in told()], WITHIN, "the end of its way")
    assert {("accepted", None), ("message-id", None), ("queued", None), ("delivered", "dovecot"), ("delivered", "old"), ("removed", None)} <= set(told())
    if "stats" in all_backends()[front.endpoints["mta"]["backend"]].verbs:
        many, one = (traffic.report(front.state, front.lines(), top) for top in (20, 1))
        assert len(many.splitlines()) > len(one.splitlines()) and "example.test" in many
    with pytest.raises(Refused):
        front.send("joe@foreign.example", "nobody@example.test", "refused")
    until(lambda: any(front.rules.is_problem(line.text) and "nobody@example.test" in line.text for line in front.lines()), WITHIN, "a refusal in the log")


@pytest.mark.feature("B6")
def test_the_queue_is_part_of_a_snapshot(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    with front.without("dovecot"):
        front.send("joe@foreign.example", ALICE, "kept")
        (kept,) = until(lambda: front.delayed(1), WITHIN, "a message that waits")
        assert queue.change(front.state, "hold", [kept.queue_id]) == 1
    contents.save(front.state, "before")
    contents.empty(front.state, "messages")
    assert not queue.messages(front.state)
    contents.restore(front.state, "before")
    assert [one.queue_id for one in queue.messages(front.state)] == [kept.queue_id]
    assert queue.change(front.state, "delete", ["ALL"]) == 1
    contents.delete(front.state, "before")


@pytest.mark.feature("B2", "B11")
def test_a_next_hop_must_show_who_it_is_and_know_the_login(pair: tuple[Front, Front]) -> None:
    """What it cannot hand over waits with the reason, and goes on once that is put right."""
    front, peer = pair
    mta_name, file = all_backends()[front.endpoints["mta"]["backend"]].family, yaml.safe_load(front.path.read_text(encoding="utf-8"))
    login, password = {"stack": peer.state.name, "username": "relay@b.test"}, relay_password(mta_name)
    wrong = {"routes": {"b.test": {"stack": peer.state.name, "host": "mail.wrong.test"}}, "relayhost": {**login, "password": "wrong"}}
    try:
        again = up(front.path, {**file, **wrong}, mta_name)
        queue.change(again.state, "delete", ["ALL"])
        again.send(ALICE, "bea@b.test", "unverified", login=ALICE)
        again.send(ALICE, "joe@foreign.example", "no login", login=ALICE)
        retried = "next-hop-login-retried" in find("mta", mta_name).provides
        until(lambda: again.delayed(2 if retried else 1), WITHIN, "a reason in the queue")
        for who, subject in (("bea@b.test", "unverified"), ("catch-all@b.test", "no login")):
            with pytest.raises(TimedOut):
                peer.message(who, subject, within=0.5)
        up(front.path, {**file, "relayhost": {**login, "password": password}}, mta_name)
        assert peer.message("bea@b.test", "unverified")
        if not retried:  # it came back
            until(lambda: again.bounced(ALICE, r"joe@foreign\.example.*\b535\b"), WITHIN, "a bounce with the reason")
            again.send(ALICE, "joe@foreign.example", "no login", login=ALICE)
        relayed = peer.message("catch-all@b.test", "no login")
        assert "with ESMTPSA" in next(" ".join(line.split()) for line in relayed.get_all("Received", []) if "by mail.b.test" in line)
        assert not [line for line in [*front.lines(), *peer.lines()] if password in line.text]
    finally:
        front.__dict__.update(vars(up(front.path, file, mta_name)))


@pytest.mark.feature("B2")
def test_it_is_allowed_what_its_backend_says_and_no_more(pair: tuple[Front, Front]) -> None:
    front, _ = pair
    about = json.loads(docker("inspect", front.state.containers["mta"]))[0]
    allowed = all_backends()[front.endpoints["mta"]["backend"]].container
    host = about["HostConfig"]
    assert sorted(host["CapAdd"] or []) == sorted(allowed.capabilities) and host["CapDrop"] == ["ALL"] and host["ReadonlyRootfs"]
    assert all(allowed.capabilities.values()) and about["Config"]["User"] == (allowed.user or "")
    said = json.dumps(about) + docker("top", front.state.containers["mta"], "-eo", "pid,args")
    assert not [one["address"] for one in front.endpoints["accounts"] if one["password"] in said]


@pytest.mark.feature("B2", "A5")
def test_the_command_brings_the_stack_up_and_takes_it_down(pair: tuple[Front, Front], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front, _ = pair
    family = all_backends()[front.endpoints["mta"]["backend"]].family
    path = folder / "command.yaml"
    path.write_text(yaml.safe_dump({"name": f"{NAME}-c", "stores": [{"backend": "dovecot"}]}), encoding="utf-8")
    assert app.run(["test", "--file", str(path), "--mta", family, "--only", "^ehlo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] == 3
    assert not left(f"{NAME}-c-{family}")
    # A stack that is there under that name would be changed, and lost.
    assert app.run(["test", "--file", str(front.path), "--mta", family]) == 2
    assert "there is a stack" in capsys.readouterr().err and mta.status(front.state).running


DIRECTORIES = [(family, kind) for family in OTHERS for kind in find("mta", family).accounts if directory(kind)]


@pytest.mark.feature("B2", "D7")
@pytest.mark.parametrize(("family", "kind"), DIRECTORIES)
def test_accounts_of_a_directory_receive_and_send(family: str, kind: str, folder: Path) -> None:
    """And while it is down mail is put off, and nobody gets in."""
    name = f"{NAME}-{kind}-{family}"
    file = {"name": f"{NAME}-{kind}", "stores": [{"backend": "dovecot"}], "accounts": {"backend": kind}, "limits": {"auth_failure_delay": 0}}
    try:
        front = up(folder / f"{family}-{kind}.yaml", file, family)
        outcomes = scenarios.run(front.endpoints, only=r"(unknown_user|may_send|_let_send|another_ones_address|sub_address|user_arrives)")
        assert len(outcomes) > 10 and not [report.failure(one) for one in outcomes if one.verdict != "passed"]
        docker("stop", "-t", "0", front.state.containers["directory"])
        if kind != "sqlite":  # a file needs nobody who keeps it
            with pytest.raises(Refused) as refused:
                front.send("joe@foreign.example", ALICE, "put off")
            assert refused.value.code == 451
            with pytest.raises(StackctlError):
                front.send(ALICE, ALICE, "not in", login=ALICE)
        config = docker("exec", front.state.containers["mta"], "/usr/local/lib/stackctl/verbs/config")
        assert front.state.directory not in config + docker("inspect", front.state.containers["mta"])
    finally:
        running.down(name, volumes=True)


@pytest.mark.feature("B2", "D6")
@pytest.mark.parametrize("family", [family for family in OTHERS if "smtp" in find("mta", family).delivers])
def test_a_stores_own_mta_gets_mail_and_that_for_its_lists(family: str, folder: Path) -> None:
    name = f"{NAME}-smtp-{family}"
    file = {
        "name": f"{NAME}-smtp",
        "stores": [{"backend": "courier", "delivery": "smtp"}],
        "users": [{"address": ALICE}, {"address": BOB}],
        "lists": {"team@example.test": {"owner": ALICE, "subscribers": [ALICE, BOB]}},
        "limits": {"auth_failure_delay": 0},
    }
    try:
        front = up(folder / f"{family}-smtp.yaml", file, family)
        outcomes = scenarios.run(front.endpoints, only=r"(sub_address|user_arrives|unknown_user|blind_copy|gets_it_once)")
        assert len(outcomes) > 5 and not [report.failure(one) for one in outcomes if one.verdict != "passed"]
        front.send(BOB, "team@example.test", "to the list", login=BOB)
        assert "team-unsubscribe@example.test" in front.message(ALICE, "to the list", store="courier")["List-Unsubscribe"]
        front.send("joe@foreign.example", "team-help@example.test", "a command")
        with pytest.raises(Refused, match="550"):
            front.send("joe@foreign.example", "team-nonsense@example.test", "no command")
    finally:
        running.down(name, volumes=True)


@pytest.mark.feature("B2")
def test_another_mta_changes_nothing_else_of_a_stack(tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    text = "name: x\nports: {address: 127.0.0.2, fixed: {mta.smtp: 2525}}\nstores: [{backend: courier, settings: {imapd: {IMAP_UMASK: 0022}}}]\n"
    path.write_text(text, encoding="utf-8")
    before, after = load.load(path).stack, load.with_mta(load.load(path), OTHERS[0]).stack
    assert (after.name, after.mta.backend, after.ports.address, after.ports.fixed) == (f"x-{OTHERS[0]}", OTHERS[0], "127.0.0.2", {})
    assert after.stores == before.stores and after.users == before.users


@pytest.mark.feature("B2")
@pytest.mark.parametrize(
    ("text", "mta", "said"),
    [("", "no-such-mta", "unknown backend 'no-such-mta'"), ("accounts: {backend: system}\n", "exim", "cannot look accounts up in 'system'")],
)
def test_an_mta_that_cannot_do_it_is_refused_before_anything_starts(text: str, mta: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(f"name: x\nports: {{fixed: {{mta.smtp: 2525}}}}\n{text}", encoding="utf-8")
    with pytest.raises(BadStack) as refused:
        load.with_mta(load.load(path), mta)
    assert said in str(refused.value)
