"""Mail that fails on purpose, as smtplib sees it: at each stage, by an address's name or set live; and that all other mail goes on."""

from __future__ import annotations

import imaplib
import json
import poplib
import smtplib
import ssl
import subprocess
import time
from collections.abc import Iterator
from email import message_from_bytes

import pytest
from outside import Quick
from program import Program, until

from stackctl import backends
from stackctl.scenario import Context

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A6", "B5")]
ALICE, BOB = "alice@example.test", "bob@example.test"
SENDER = "sender@inbox.example.test"
WITHIN = 30
NOTHING: dict[str, object] = {"mail": [], "connections": [], "certificate": None}


def connected(mail: Context) -> smtplib.SMTP:
    host, port = mail.endpoints["mta"]["smtp"]
    client = smtplib.SMTP(host, port, local_hostname="client.example.test", timeout=WITHIN)
    client.ehlo()
    return client


def sent(mail: Context, *to: str) -> list[int]:
    """The replies to MAIL, each RCPT, DATA and the end of the data, as far as the server goes."""
    with connected(mail) as client:
        replies = [client.mail(SENDER)[0], *(client.rcpt(one)[0] for one in to)]
        if 250 in replies[1:]:
            replies.append(client.docmd("DATA")[0])
            if replies[-1] == 354:
                client.send(mail.message(SENDER, to[0], "fault") + b"\r\n.\r\n")
                replies.append(client.getreply()[0])
    return replies


def faulty(local: str) -> str:
    return f"{local}@fault.example.test"


@pytest.fixture
def cleared(quick: Quick) -> Iterator[Quick]:
    """The command line; afterwards nothing fails any more."""
    yield quick
    quick("fault", "clear")


@pytest.mark.parametrize(
    ("local", "replies"),
    [
        ("450.rcpt", [250, 450]),
        ("552.rcpt", [250, 552]),
        ("577.rcpt", [250, 577]),
        ("550.rcpt+detail", [250, 550]),
        ("451.data", [250, 250, 451]),
        ("554.data", [250, 250, 554]),
        ("452.end", [250, 250, 354, 452]),
        ("552.end", [250, 250, 354, 552]),
    ],
)
def test_an_address_is_a_fault_by_its_name(local: str, replies: list[int], mail: Context) -> None:
    assert sent(mail, faulty(local)) == replies


@pytest.mark.parametrize("local", ["nothing", "650.rcpt", "250.rcpt", "45.rcpt", "450.mail", "slow-100s"])
def test_any_other_name_there_is_unknown(local: str, mail: Context) -> None:
    assert sent(mail, faulty(local)) == [250, 550]


def test_421_ends_the_session(mail: Context) -> None:
    with connected(mail) as client:
        client.mail(SENDER)
        assert client.rcpt(faulty("421.rcpt"))[0] == 421
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()


def test_a_slow_address_is_slow_and_gets_its_mail(mail: Context) -> None:
    start = time.monotonic()
    assert sent(mail, faulty("slow-1s")) == [250, 250, 354, 250]
    assert time.monotonic() - start >= 1
    for store in mail.stores:
        assert until(lambda: mail.look("slow-1s@inbox.example.test", store), WITHIN)  # noqa: B023


@pytest.mark.parametrize("stage", ["rcpt", "data", "end"])
def test_a_user_is_slow_while_it_is_set_and_nobody_else(stage: str, mail: Context, cleared: Quick) -> None:
    def seconds(who: str) -> float:
        start = time.monotonic()
        assert sent(mail, who) == [250, 250, 354, 250]
        return time.monotonic() - start

    cleared("fault", "set", ALICE, "--slow", "2", "--at", stage)
    assert seconds(ALICE) >= 2
    assert min(seconds(BOB) for _ in range(3)) < 2
    cleared("fault", "clear")
    assert min(seconds(ALICE) for _ in range(3)) < 2


def test_greylisting_takes_the_second_attempt_of_each_recipient(mail: Context) -> None:
    who = faulty(f"grey+{mail.tag}")
    assert sent(mail, who) == [250, 451]
    assert sent(mail, faulty(f"grey+other-{mail.tag}")) == [250, 451]
    assert sent(mail, who) == [250, 250, 354, 250]
    assert sent(mail, who) == [250, 250, 354, 250]


def test_what_fails_at_delivery_waits_or_is_sent_back(mail: Context, quick: Quick) -> None:
    assert sent(mail, faulty("452.delivery")) == [250, 250, 354, 250]
    waiting = until(lambda: [row for row in json.loads(quick("queue", "list", "--json")[0]) if "452.delivery" in json.dumps(row)], WITHIN)
    assert "a fault on purpose" in json.dumps(waiting)
    quick("queue", "delete", *(row["queue_id"] for row in waiting))
    assert sent(mail, faulty("552.delivery")) == [250, 250, 354, 250]
    bounce = message_from_bytes(until(lambda: mail.look(SENDER, mail.stores[0]), WITHIN)[-1])
    assert "5.2.2" in bounce.as_string()


@pytest.mark.parametrize(
    ("options", "replies"),
    [
        (["--reply", "550"], [250, 550]),
        (["--reply", "451", "--at", "data"], [250, 250, 451]),
        (["--reply", "452", "--at", "end"], [250, 250, 354, 452]),
    ],
    ids=["rcpt", "data", "end"],
)
def test_a_user_fails_while_it_is_set_and_nobody_else(options: list[str], replies: list[int], mail: Context, cleared: Quick) -> None:
    assert sent(mail, ALICE) == [250, 250, 354, 250]
    cleared("fault", "set", ALICE, *options)
    assert sent(mail, ALICE) == replies
    assert sent(mail, BOB) == [250, 250, 354, 250]
    cleared("fault", "clear", ALICE)
    assert sent(mail, ALICE) == [250, 250, 354, 250]


def test_a_number_of_attempts_fails_for_each_recipient(mail: Context, cleared: Quick) -> None:
    cleared("fault", "set", "@example.test", "--reply", "450", "--times", "2", "--text", "come back $later")
    assert [sent(mail, ALICE)[1] for _ in range(3)] == [450, 450, 250]
    assert [sent(mail, BOB)[1] for _ in range(3)] == [450, 450, 250]
    assert sent(mail, f"x@{mail.endpoints['disposable']['domain']}")[1] == 250
    cleared("fault", "set", "@example.test", "--reply", "450", "--times", "1")
    assert [sent(mail, ALICE)[1] for _ in range(2)] == [450, 250], "set anew, it counts from nothing"


def from_sender(mail: Context, sender: str) -> int:
    with connected(mail) as client:
        return client.mail(sender)[0]


def test_a_sender_is_refused_at_mail_and_no_other(mail: Context, cleared: Quick) -> None:
    cleared("fault", "set", BOB, "--reply", "550", "--at", "mail")
    cleared("fault", "set", "@elsewhere.example", "--reply", "451", "--at", "mail", "--times", "1")
    assert from_sender(mail, BOB) == 550
    assert [from_sender(mail, "x@elsewhere.example") for _ in range(2)] == [451, 250]
    assert sent(mail, ALICE) == [250, 250, 354, 250]
    cleared("fault", "clear")
    assert from_sender(mail, BOB) == 250


def test_a_reply_takes_the_place_of_the_greeting(mail: Context, cleared: Quick) -> None:
    cleared("fault", "greeting", "--times", "1", "--text", "too busy")
    with pytest.raises(smtplib.SMTPConnectError, match=r"421, b'4.3.2 .* too busy'"):
        connected(mail)
    assert sent(mail, ALICE) == [250, 250, 354, 250], "the second client is let in"
    cleared("fault", "greeting", "--reply", "554")
    with pytest.raises(smtplib.SMTPConnectError, match="554"):
        connected(mail)
    mail.send(ALICE, mail.message(ALICE, ALICE, "submitted"), ALICE)  # only the port for mail from other hosts says so
    cleared("fault", "clear")
    assert sent(mail, ALICE) == [250, 250, 354, 250]


def test_who_comes_too_often_in_a_minute_gets_421(mail: Context, cleared: Quick) -> None:
    cleared("fault", "greeting", "--per-minute", "2")
    assert "421 4.3.2 a fault on purpose, those beyond 2 in a minute" in cleared("fault", "list")[0]
    for _ in range(2):
        assert sent(mail, ALICE) == [250, 250, 354, 250]
    with pytest.raises(smtplib.SMTPConnectError, match=r"421, b'4.7.0 .*too many connections"):
        connected(mail)
    cleared("fault", "clear")
    assert sent(mail, ALICE) == [250, 250, 354, 250]


def test_a_full_mailbox_takes_nothing_and_others_do(mail: Context, cleared: Quick) -> None:
    cleared("fault", "full", ALICE)
    before = {store: len(mail.look(BOB, store)) for store in mail.stores}
    assert sent(mail, ALICE, BOB) == [250, 250, 250, 354, 250]
    for store in mail.stores:
        until(lambda: len(mail.look(BOB, store)) == before[store] + 1, WITHIN)  # noqa: B023
    bounce = message_from_bytes(until(lambda: mail.look(SENDER, mail.stores[0]), WITHIN)[-1])
    assert "5.2.2" in bounce.as_string()
    for store in mail.stores:
        port = mail.endpoints["stores"][store]["imaps"][1]
        for who, said in ((ALICE, "NO"), (BOB, "OK")):
            with imaplib.IMAP4_SSL("localhost", port, ssl_context=ssl.create_default_context(cafile=mail.endpoints["ca"])) as client:
                client.login(who, mail.password(who))
                assert client.append("INBOX", "", "", mail.message(who, who, "appended"))[0] == said, (store, who)
    cleared("fault", "clear")
    assert sent(mail, ALICE) == [250, 250, 354, 250]


def test_one_store_does_not_get_its_part_and_the_others_do(mail: Context, cleared: Quick) -> None:
    failing, *others = mail.stores
    before = {store: len(mail.look(ALICE, store)) for store in mail.stores}
    cleared("fault", "set", ALICE, "--reply", "452", "--at", "delivery", "--store", failing)
    assert sent(mail, ALICE) == [250, 250, 354, 250]
    for store in others:
        until(lambda: len(mail.look(ALICE, store)) == before[store] + 1, WITHIN)  # noqa: B023
    assert len(mail.look(ALICE, failing)) == before[failing]
    cleared("fault", "clear")
    until(lambda: len(mail.look(ALICE, failing)) == before[failing] + 1, WITHIN)


def test_what_is_on_hold_outlasts_the_fault_and_a_flush(mail: Context, cleared: Quick) -> None:
    cleared("fault", "set", BOB, "--reply", "451", "--at", "delivery")

    def waiting() -> list[dict[str, object]]:
        return [row for row in json.loads(cleared("queue", "list", "--json")[0]) if BOB in json.dumps(row)]

    store = mail.stores[0]
    before = len(mail.look(BOB, store))
    sent(mail, BOB)
    (held,) = until(waiting, WITHIN)
    cleared("queue", "hold", str(held["queue_id"]))
    sent(mail, BOB)
    until(lambda: len(waiting()) == 2, WITHIN)
    cleared("fault", "clear")
    cleared("queue", "flush")
    until(lambda: len(mail.look(BOB, store)) == before + 1, WITHIN)
    until(lambda: [row["queue_id"] for row in waiting()] == [held["queue_id"]], WITHIN)
    cleared("queue", "release", str(held["queue_id"]))
    until(lambda: len(mail.look(BOB, store)) == before + 2, WITHIN)


def test_what_fails_is_listed_until_it_is_cleared(cleared: Quick, addressed: Program) -> None:
    assert json.loads(cleared("fault", "list", "--json")[0]) == NOTHING
    cleared("fault", "set", ALICE, "--reply", "452", "--at", "end")
    cleared("fault", "set", ALICE, "--reply", "552", "--at", "end")
    cleared("fault", "set", BOB, "--slow", "2")
    rows = json.loads(cleared("fault", "list", "--json")[0])["mail"]
    assert [(row["address"], row["at"], row["reply"], row["delay"]) for row in rows] == [(BOB, "rcpt", None, 2), (ALICE, "end", 552, 0)]
    assert "2 s slower" in cleared("fault", "list")[0]
    cleared("fault", "clear")
    assert json.loads(cleared("fault", "list", "--json")[0]) == NOTHING


def refusals(mail: Context, old: bool = False) -> dict[str, str]:
    """Why the clients of Python's library do not trust a server, by its name; "" where they do. `old`: they know TLS 1.1 and nothing newer."""
    context = ssl.create_default_context(cafile=mail.endpoints["ca"])
    if old:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1

    def submits(port: int) -> None:
        smtplib.SMTP_SSL("localhost", port, context=context, timeout=WITHIN).quit()

    def reads(port: int) -> None:
        imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=WITHIN).logout()

    def fetches(port: int) -> None:
        poplib.POP3_SSL("localhost", port, context=context, timeout=WITHIN).quit()

    found = {}
    parts = {"mta": mail.endpoints["mta"], **mail.endpoints["stores"]}
    for name, part in parts.items():
        for listener, client in {"submissions": submits, "imaps": reads, "pop3s": fetches}.items():
            if listener in part:
                try:
                    client(part[listener][1])
                    found[f"{name} {listener}"] = ""
                except ssl.SSLCertVerificationError as why:
                    found[f"{name} {listener}"] = why.verify_message
                except ssl.SSLError as why:
                    found[f"{name} {listener}"] = why.reason or "closed"
    return found


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("expired", "certificate has expired"),
        ("not-yet-valid", "certificate is not yet valid"),
        ("wrong-host", "Hostname mismatch, certificate is not valid for 'localhost'."),
        ("unknown-ca", "unable to get local issuer certificate"),
        ("weak-key", "EE certificate key too weak"),
    ],
)
def test_no_client_trusts_a_faulty_certificate(fault: str, said: str, mail: Context, cleared: Quick) -> None:
    assert set(refusals(mail).values()) == {""}
    cleared("fault", "certificate", fault)
    until(lambda: set(refusals(mail).values()) == {said}, WITHIN, str(refusals(mail)))
    assert f"certificate: {fault}" in cleared("fault", "list")[0]
    assert sent(mail, ALICE) == [250, 250, 354, 250], "without TLS all goes on"
    cleared("fault", "clear")
    until(lambda: set(refusals(mail).values()) == {""}, WITHIN, str(refusals(mail)))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_server_that_speaks_old_tls_alone_is_for_old_clients(mail: Context, cleared: Quick) -> None:
    assert "" not in refusals(mail, old=True).values()
    cleared("fault", "certificate", "old-tls")
    # Postfix and Dovecot 2.4 say why; Dovecot 2.3 hangs up before its alert is out, Courier says that it closes.
    refused = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNEXPECTED_EOF_WHILE_READING", "closed"}
    until(lambda: set(refusals(mail).values()) == refused, WITHIN, str(refusals(mail)))
    assert set(refusals(mail, old=True).values()) == {""}, "the certificate is good, and nothing else has changed"
    for part, listener, protocol in (("mta", "smtp", "smtp"), *((store, kind, kind) for store in mail.stores for kind in ("imap", "pop3"))):
        port = mail.endpoints["stores"].get(part, mail.endpoints["mta"])[listener][1]
        said = {version: starttls(port, protocol, version, mail.endpoints["ca"]) for version in ("tls1_1", "tls1_2")}
        assert "Protocol  : TLSv1.1" in said["tls1_1"] and "Verify return code: 0 (ok)" in said["tls1_1"], (part, said)
        assert "Protocol  : TLSv1.1" not in said["tls1_2"] and "unsupported protocol" in said["tls1_2"], (part, said)
    assert sent(mail, ALICE) == [250, 250, 354, 250], "without TLS all goes on"
    cleared("fault", "clear")
    until(lambda: set(refusals(mail).values()) == {""}, WITHIN, str(refusals(mail)))
    assert "" not in refusals(mail, old=True).values()


def starttls(port: int, protocol: str, version: str, ca: str) -> str:
    """What openssl(1) says, as a client of this version of TLS alone, after STARTTLS."""
    client = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-starttls", protocol, f"-{version}", "-cipher", "ALL:@SECLEVEL=0", "-CAfile", ca]
    done = subprocess.run(client, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN, check=False)
    return done.stdout + done.stderr


def test_old_tls_is_refused_where_a_server_has_no_means_for_it(mail: Context, quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: backend.model_copy(update={"speaks_old_tls": name == "postfix"}) for name, backend in backends.all_backends().items()}
    monkeypatch.setattr(backends, "all_backends", lambda: found)
    assert "cannot speak old versions of TLS alone" in quick("fault", "certificate", "old-tls", code=2)[1]
    assert json.loads(quick("fault", "list", "--json")[0]) == NOTHING


def test_up_makes_the_certificates_good_again(mail: Context, cleared: Quick) -> None:
    cleared("fault", "certificate", "expired")
    cleared("up")
    until(lambda: set(refusals(mail).values()) == {""}, WITHIN, str(refusals(mail)))
    assert json.loads(cleared("fault", "list", "--json")[0]) == NOTHING


def test_a_fault_that_is_none_is_told(quick: Quick) -> None:
    assert "faults are expired" in quick("fault", "certificate", "late", code=2)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([ALICE], "a reply or a delay"),
        ([ALICE, "--reply", "450", "--slow", "1"], "a reply or a delay"),
        ([ALICE, "--reply", "250"], "no reply that refuses"),
        ([ALICE, "--reply", "600"], "no reply that refuses"),
        ([ALICE, "--reply", "450", "--at", "helo"], "no stage"),
        ([ALICE, "--reply", "450", "--times", "0"], "0 attempts"),
        ([ALICE, "--slow", "-1"], "a delay of -1 s"),
        ([ALICE, "--slow", "1000"], "a delay of 1000 s"),
        ([ALICE, "--slow", "1", "--times", "2"], "no number of attempts"),
        ([ALICE, "--reply", "450", "--at", "delivery", "--times", "2"], "until it is cleared"),
        ([ALICE, "--reply", "450", "--store", "dovecot"], "at delivery only"),
        ([ALICE, "--reply", "450", "--at", "delivery", "--store", "nobody"], "no store nobody"),
        ([ALICE, "--reply", "450", "--text", "two\nlines"], "one line of ASCII"),
        (["alice", "--reply", "450"], "alice"),
        (["@", "--reply", "450"], "domain"),
    ],
)
def test_what_cannot_be_is_code_2_and_sets_nothing(arguments: list[str], said: str, quick: Quick) -> None:
    assert said in quick("fault", "set", *arguments, code=2)[1]
    assert json.loads(quick("fault", "list", "--json")[0]) == NOTHING


def test_nothing_to_clear_is_said(quick: Quick) -> None:
    assert "nothing fails for" in quick("fault", "clear", ALICE, code=2)[1]
    assert "Nothing failed" in quick("fault", "clear")[0]
