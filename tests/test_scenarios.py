"""How scenarios are run and what comes of them, without a stack; and the samples of the corpus, octet by octet."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7

from stackctl import corpus, inventory, scenario, scenarios
from stackctl.backends import all_backends
from stackctl.errors import StackctlError, TimedOut, UsageError
from stackctl.scenario import AXES, WAYS_IN, WAYS_OUT, Case, Context, Failed, NotOffered, Scenario, Shared, Skipped, expect
from stackctl.scenarios import Outcome
from stackctl.suite import flow

pytestmark = pytest.mark.feature("A5")
MTA = next(backend for backend in all_backends().values() if backend.role == "mta")
STORES = ("one", "two")


@pytest.fixture
def endpoints() -> dict[str, Any]:
    place = ["127.0.0.1", 9]
    store = {"backend": "none", "container": "none", "provides": ["imap", "pop3"], **dict.fromkeys(WAYS_OUT, place)}
    return {
        "name": "none",
        "domain": "example.test",
        "ca": "/none",
        "tls_name": "mail.example.test",
        "mta": {"backend": MTA.name, "container": "none", **dict.fromkeys(WAYS_IN, place)},
        "stores": {name: dict(store) for name in STORES},
        "accounts": [{"address": "alice@example.test", "password": "secret"}],
        "catch_all": {"address": "catch-all@example.test", "password": "secret"},
        "disposable": {"domain": "inbox.example.test", "password": "secret"},
    }


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scenario]]:
    """Registers a function as a scenario for the time of a test, alone."""
    mine: dict[str, Scenario] = {}
    monkeypatch.setattr(scenario, "registry", mine)
    monkeypatch.setattr(scenarios, "registry", mine)
    monkeypatch.setattr(scenarios, "service_logs", lambda endpoints, tag, since: {"mta": ["a log line"]})

    def register(function: Callable[[Context], None], **how: Any) -> Scenario:
        return mine[scenario.scenario(feature="A5", **how)(function).__name__]

    yield register


# --- The matrix


def test_the_matrix_covers_each_combination() -> None:
    whole = {Case(store, way_in, way_out) for way_in, store, way_out in itertools.product(WAYS_IN, STORES, WAYS_OUT)}
    assert len(whole) == 3 * 2 * 4
    found = scenarios.coverage(scenarios.plan(STORES))
    assert len(found) >= 3
    assert all(cases == whole for cases in found.values())
    assert {"every_message_comes_out_as_it_went_in", "a_message_of_ten_megabytes_comes_out_as_it_went_in"} <= set(found)


def test_the_matrix_sends_each_sample_once() -> None:
    names = list(corpus.messages("a@b", "a@b"))
    in_matrix = {flow.LARGE, flow.RAW_UTF8} | {name for name in names if name not in (flow.LARGE, flow.RAW_UTF8)}
    assert in_matrix == set(names) and {flow.LARGE, flow.RAW_UTF8} <= set(names)


def test_no_case_is_there_twice() -> None:
    found = [(one.name, case) for one, case in scenarios.plan(STORES)]
    assert len(found) == len(set(found)) > 100


@pytest.mark.parametrize("found", scenarios.all_scenarios().values(), ids=lambda found: found.name)
def test_a_scenario_is_a_sentence(found: Scenario) -> None:
    assert len(found.name.split("_")) >= 2 and found.name.islower()
    assert found.function.__doc__ and found.function.__doc__.rstrip().endswith(".")
    assert all(re.fullmatch(r"[A-D][1-9]\d?", feature) for feature in found.features) and found.features
    assert set(found.over) <= set(AXES)
    assert found.sentence == found.name.replace("_", " ")


def test_a_choice_by_name_case_and_store() -> None:
    assert {one.name for one, _ in scenarios.plan(STORES, "unknown_user")} >= {"mail_to_an_unknown_user_is_refused_at_rcpt"}
    (chosen,) = scenarios.plan(STORES, re.escape("every_message_comes_out_as_it_went_in[smtp/one/imaps]"))
    assert chosen[1] == Case("one", "smtp", "imaps")
    assert {case.store for _, case in scenarios.plan(STORES, store="two")} == {None, "two"}
    assert scenarios.plan(STORES, "no such scenario") == []
    with pytest.raises(UsageError, match="no regular expression"):
        scenarios.plan(STORES, "(")
    with pytest.raises(UsageError, match="no store three") as caught:
        scenarios.plan(STORES, store="three")
    assert "one, two" in caught.value.hint


# --- What comes of a case


def run_one(found: Scenario, endpoints: dict[str, Any], case: Case | None = None) -> Outcome:
    return scenarios.execute(found, case or Case(), endpoints, Shared())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Failed("it is wrong"), "it is wrong"),
        (TimedOut("nothing came"), "nothing came"),
        (StackctlError("refused"), "refused"),
        (ConnectionResetError("gone"), "ConnectionResetError: gone"),
    ],
)
def test_a_scenario_that_fails_gives_a_failing_outcome_with_its_evidence(
    one: Callable[..., Scenario], endpoints: dict[str, Any], error: Exception, reason: str
) -> None:
    def it_goes_wrong(context: Context) -> None:
        """Always."""
        context.recorder.open("smtp of mta").note("something was said")
        raise error

    outcome = run_one(one(it_goes_wrong), endpoints)
    assert (outcome.verdict, outcome.reason) == ("failed", reason)
    assert "== smtp of mta" in outcome.transcript and "something was said" in outcome.transcript
    assert outcome.logs == {"mta": ["a log line"]}


def test_a_scenario_that_holds_passes_without_evidence(one: Callable[..., Scenario], endpoints: dict[str, Any]) -> None:
    def it_holds(context: Context) -> None:
        """Always."""
        context.recorder.open("smtp of mta").note("something was said")
        expect(context.user == "alice@example.test", "another user")

    outcome = run_one(one(it_holds), endpoints)
    assert (outcome.verdict, outcome.reason, outcome.transcript, dict(outcome.logs)) == ("passed", "", "", {})


def test_what_a_server_does_not_announce_is_an_outcome_of_its_own(one: Callable[..., Scenario], endpoints: dict[str, Any]) -> None:
    def it_is_missing(context: Context) -> None:
        """Always."""
        raise NotOffered("not offered: MOVE (from its CAPABILITY)")

    outcome = run_one(one(it_is_missing), endpoints)
    assert (outcome.verdict, outcome.reason, outcome.transcript) == ("not offered", "not offered: MOVE (from its CAPABILITY)", "")


def test_a_fault_of_a_scenarios_own_code_keeps_its_traceback(one: Callable[..., Scenario], endpoints: dict[str, Any]) -> None:
    def it_is_broken(context: Context) -> None:
        """By a bug."""
        raise ZeroDivisionError(context.tag)

    with pytest.raises(ZeroDivisionError):
        run_one(one(it_is_broken), endpoints)
    with pytest.raises(ZeroDivisionError):
        scenarios.run(endpoints)


def test_what_a_server_lacks_is_skipped_with_the_reason(one: Callable[..., Scenario], endpoints: dict[str, Any]) -> None:
    def it_needs_something(context: Context) -> None:
        """Which is not there."""
        raise Failed("it ran")

    def it_finds_out(context: Context) -> None:
        """While it runs."""
        raise Skipped("not on Sundays")

    found = one(it_needs_something, over=AXES, needs={"imap", "time-travel"})
    assert run_one(found, endpoints, Case("one", "smtp", "imap")).reason == "one does not provide time-travel"
    found = one(it_needs_something, of_mta={"time-travel"})
    assert run_one(found, endpoints).reason == "the mta does not provide time-travel"
    endpoints["stores"]["one"]["imap"] = None
    endpoints["mta"]["submission"] = None
    found = one(it_needs_something, over=AXES)
    assert run_one(found, endpoints, Case("one", "smtp", "imap")).reason == "one has no open listener imap"
    assert run_one(found, endpoints, Case("two", "submission", "imap")).reason == "the mta has no open listener submission"
    assert run_one(found, endpoints, Case("two", "smtp", "imap")).verdict == "failed"  # the twin: nothing is lacking
    outcome = run_one(one(it_finds_out), endpoints)
    assert (outcome.verdict, outcome.reason) == ("skipped", "not on Sundays")


def test_a_run_tells_every_outcome_and_keeps_disturbers_apart(one: Callable[..., Scenario], endpoints: dict[str, Any]) -> None:
    running, most, beside = 0, 0, []
    lock = threading.Lock()

    def busy(context: Context) -> None:
        """For a moment."""
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    def disturbs(context: Context) -> None:
        """Alone."""
        beside.append(running)

    one(disturbs, over=("store",), alone=True)
    one(busy, over=AXES)
    told: list[Outcome] = []
    outcomes = scenarios.run(endpoints, on_outcome=told.append, jobs=3)
    assert told == outcomes and len(outcomes) == 2 + 24 and {outcome.verdict for outcome in outcomes} == {"passed"}
    assert beside == [0, 0] and 1 < most <= 3
    assert [outcome.name for outcome in outcomes[-2:]] == ["disturbs", "disturbs"]
    assert scenarios.run(endpoints, only="no such") == []


def test_addresses_of_cases_never_meet(one: Callable[..., Scenario], endpoints: dict[str, Any]) -> None:
    seen: list[str] = []

    def notes_its_address(context: Context) -> None:
        """And nothing else."""
        seen.append(context.fresh())

    one(notes_its_address, over=AXES)
    scenarios.run(endpoints)
    scenarios.run(endpoints)
    assert len(seen) == len(set(seen)) == 48
    assert all(re.fullmatch(r"box-[0-9a-f]{6}n\d{4}@inbox\.example\.test", address) for address in seen)


def test_what_cases_share_is_made_once() -> None:
    shared, made, results = Shared(), [], []

    def make() -> int:
        time.sleep(0.02)
        made.append(1)
        return 7

    threads = [threading.Thread(target=lambda: results.append(shared.once("key", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 8 and made == [1]

    def fail() -> None:
        raise Failed("once and for all")

    for _ in range(2):
        with pytest.raises(Failed, match="once and for all"):
            shared.once("other", fail)


def test_passwords_of_a_case(endpoints: dict[str, Any]) -> None:
    context = Context(endpoints, Case(), "t")
    assert context.password("x@inbox.example.test") == context.password("alice@example.test") == "secret"
    with pytest.raises(Skipped):
        context.password("nobody@example.test")
    endpoints["accounts"] = []
    with pytest.raises(Skipped, match="no user"):
        assert Context(endpoints, Case(), "t").user


def test_log_lines_of_other_cases_are_left_out(endpoints: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def logs(self, container: str, since: float, timestamps: bool) -> bytes:
            return b"start\nfrom=<box-abcdefn0001@x>\nfrom=<box-abcdefn0002@x>\nto=<every-message-abcdef-smtp@x>\n\xff"

    monkeypatch.setattr(inventory, "client", lambda: type("Client", (), {"api": Api()}))
    assert scenarios.service_logs(endpoints, "abcdefn0001", 0)["mta"] == ["start", "from=<box-abcdefn0001@x>", "to=<every-message-abcdef-smtp@x>", "\ufffd"]


# --- The comparison sees what it should


TRACE = (
    b"Return-Path: <a@b.test>\r\nDelivered-To: c@d.test\r\nReceived: from client.invalid (unknown [192.0.2.1])\r\n"
    b"\t(using TLSv1.3 with cipher X (256/256 bits))\r\n\tby mail.d.test (Server) with ESMTPSA id 1\r\n\tfor <c@d.test>; today\r\n"
)
SAMPLE = corpus.messages("a@b.test", "c@d.test")["dots"]


def differences(octets: bytes, protocol: str = "ESMTPSA", sender: str = "a@b.test") -> list[str]:
    return flow.differences(octets, SAMPLE, sender, "c@d.test", "mail.d.test", protocol)


def test_a_message_that_came_as_it_was_sent_has_no_differences() -> None:
    assert differences(TRACE + SAMPLE.octets) == []
    assert differences(TRACE.replace(b"Delivered-To: c@d.test", b"Delivered-To: c@d.test.store.internal") + SAMPLE.octets) == []


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (lambda o: o.replace(b"\r\n..\r\n", b"\r\n...\r\n"), "body differs at octet"),
        (lambda o: o.replace(b"\r\n.\r\n", b"\r\n\r\n", 1), "body differs at octet"),
        (lambda o: o + b"\r\n", "body differs at octet"),
        (lambda o: o[:-3], "body differs at octet"),
        (lambda o: o.replace(b"Subject: dots", b"Subject:  dots"), "header differs at octet"),
        (lambda o: o.replace(b"From: a@b.test", b"From: <a@b.test>"), "the first line b'From: a@b.test' is gone"),
        (lambda o: b"X-Spam: yes\r\n" + o, "a header was added: x-spam: yes"),
        (lambda o: b"Return-Path: <a@b.test>\r\n" + o, "Return-Path is"),
        (lambda o: o.replace(b"Return-Path: <a@b.test>", b"Return-Path: <>"), "Return-Path is"),
        (lambda o: o.replace(b"Delivered-To: c@", b"Delivered-To: x@"), "Delivered-To is"),
        (lambda o: o.replace(b"with ESMTPSA", b"with ESMTP"), "received it with ESMTP, expected ESMTPSA"),
        (lambda o: o.replace(b"by mail.d.test", b"by elsewhere.test"), "received it with no Received header"),
    ],
)
def test_a_message_that_came_otherwise_is_found_out(change: Callable[[bytes], bytes], saying: str) -> None:
    faults = differences(change(TRACE + SAMPLE.octets))
    assert len(faults) == 1 and saying in faults[0]


def test_the_message_inside_a_surrogate_is_found() -> None:
    inner = TRACE + SAMPLE.octets
    surrogate = (
        b'From: Mail Delivery Subsystem <postmaster>\r\nContent-Type: multipart/mixed; boundary="=_1"\r\n\r\n--=_1\r\nContent-Type: text/plain\r\n\r\n'
        b"not shown\r\n\r\n--=_1\r\nContent-Type: message/global\r\n\r\n" + inner + b"\r\n--=_1--\r\n"
    )
    assert flow._unwrapped(surrogate) == inner
    assert flow._unwrapped(inner) == inner


# --- The corpus


SAMPLES = corpus.messages("a@b.test", "c@d.test", "t1")


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=lambda sample: sample.name)
def test_a_sample_is_a_message_in_wire_form(sample: corpus.Sample) -> None:
    octets = sample.octets
    assert octets.endswith(b"\r\n") and b"\0" not in octets
    assert not {10, 13} & set(octets.replace(b"\r\n", b""))
    assert max(map(len, octets.split(b"\r\n"))) <= corpus.LINE
    header, _, body = octets.partition(b"\r\n\r\n")
    assert sample.smtputf8 == (not header.isascii())
    assert sample.eightbit == (not body.isascii())
    assert octets.count(f"Message-ID: {sample.message_id}\r\n".encode()) == 1 and "t1" in sample.message_id


def test_samples_are_the_same_each_time_and_differ_by_tag() -> None:
    assert corpus.messages("a@b.test", "c@d.test", "t1") == SAMPLES
    other = corpus.messages("a@b.test", "c@d.test", "t2")
    ids = [sample.message_id for sample in (*SAMPLES.values(), *other.values())]
    assert len(ids) == len(set(ids)) == 2 * len(SAMPLES)


def test_samples_are_what_their_names_say() -> None:
    def body(name: str) -> bytes:
        return SAMPLES[name].octets.partition(b"\r\n\r\n")[2]

    assert set(body("every_latin1_octet")) == set(range(1, 256))
    assert body("empty_body") == b""
    assert body("dots").startswith(b".\r\n") and body("dots").endswith(b"\r\n.\r\n")
    assert [len(line) for line in body("lines_of_998_octets").split(b"\r\n")][:2] == [998, 998]
    assert body("blank_lines_at_the_end").endswith(b"\r\n\r\n\r\n\r\n\r\n")
    assert re.search(rb"[ \t]\r\n", body("blanks_at_line_ends"))
    assert 9.5e6 < len(SAMPLES["ten_megabytes"].octets) < 1.05e7
    assert b"\r\nFrom " in body("from_lines")


def test_the_signed_sample_is_signed() -> None:
    """Its signature is a real one, over the very octets between the boundaries; one changed octet makes it void."""
    octets = SAMPLES["smime_signed"].octets
    signed = octets.split(b"--sig\r\n")[1].removesuffix(b"\r\n")
    assert signed == corpus.SIGNED
    (certificate,) = pkcs7.load_der_pkcs7_certificates(corpus.SIGNATURE)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    start = corpus.SIGNATURE.rindex(b"\x30\x45\x02\x21")  # SEQUENCE of two INTEGERs, the last thing in a SignerInfo without attributes
    signature = corpus.SIGNATURE[start:]
    key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.verify(signature, signed + b" ", ec.ECDSA(hashes.SHA256()))
