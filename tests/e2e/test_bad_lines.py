"""Connections and logins that fail on purpose, as the clients of Python's library meet them; and that those of others go on."""

from __future__ import annotations

import imaplib
import json
import poplib
import smtplib
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from outside import Quick
from program import Program, docker, until

from stackctl.labels import LINE
from stackctl.scenario import Context

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A6", "B5")]
ALICE, BOB = "alice@example.test", "bob@example.test"
WITHIN = 30


@pytest.fixture
def cleared(quick: Quick) -> Iterator[Quick]:
    """The command line; afterwards nothing fails any more."""
    yield quick
    quick("fault", "clear")


def trusting(mail: Context) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=mail.endpoints["ca"])


def port(mail: Context, name: str) -> int:
    service, _, listener = name.rpartition(".")
    part = mail.endpoints["mta"] if service == "mta" else mail.endpoints["stores"][service]
    return int(part[listener][1])


def reader(mail: Context, store: str, timeout: float = WITHIN) -> imaplib.IMAP4_SSL:
    return imaplib.IMAP4_SSL("localhost", port(mail, f"{store}.imaps"), ssl_context=trusting(mail), timeout=timeout)


def sender(mail: Context, timeout: float = WITHIN) -> smtplib.SMTP:
    client = smtplib.SMTP("localhost", port(mail, "mta.smtp"), local_hostname="client.example.test", timeout=timeout)
    client.ehlo()
    return client


def seconds(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


def lines() -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"label={LINE}").split()


def test_a_late_line_delays_each_reply_of_one_server(mail: Context, cleared: Quick) -> None:
    slow, other = mail.stores[:2]
    cleared("fault", "connection", f"{slow}.imaps", "--latency", "0.5")
    with reader(mail, slow) as late, reader(mail, other) as prompt:
        late.login(BOB, mail.password(BOB))
        prompt.login(BOB, mail.password(BOB))
        assert min(seconds(late.noop) for _ in range(2)) >= 0.5
        assert min(seconds(prompt.noop) for _ in range(3)) < 0.5
        assert late.append("INBOX", "", "", mail.message(BOB, BOB, "late"))[0] == "OK"
    cleared("fault", "clear", f"{slow}.imaps")
    with reader(mail, slow) as client:
        assert min(seconds(client.noop) for _ in range(3)) < 0.5


def test_a_narrow_line_carries_so_many_octets_a_second(mail: Context, cleared: Quick) -> None:
    message = mail.message("ann@shop.example", BOB, "narrow", body=b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 280)
    cleared("fault", "connection", "mta.smtp", "--bandwidth", "10K")
    with sender(mail) as client:
        assert seconds(lambda: client.sendmail("ann@shop.example", [BOB], message)) > 1.5
    cleared("fault", "connection", "mta.smtp", "--latency", "0.1")  # in its place
    assert [row["bandwidth"] for row in json.loads(cleared("fault", "list", "--json")[0])["connections"]] == [None]
    with sender(mail) as client:
        client.sendmail("ann@shop.example", [BOB], message)


def test_a_line_breaks_after_so_many_octets(mail: Context, cleared: Quick) -> None:
    store = mail.stores[0]
    mail.send(BOB, mail.message("ann@shop.example", BOB, "long", body=b"line\r\n" * 10_000), way="smtp")
    until(lambda: mail.look(BOB, store), WITHIN)

    def fetched() -> int:
        with reader(mail, store) as client:
            client.login(BOB, mail.password(BOB))
            client.select()
            return len(repr(client.fetch("1:*", "(BODY.PEEK[])")))

    whole = fetched()
    cleared("fault", "connection", f"{store}.imaps", "--drop-after", "20K")
    with pytest.raises((imaplib.IMAP4.abort, ssl.SSLError, OSError)):
        fetched()
    pop3 = poplib.POP3_SSL("localhost", port(mail, f"{store}.pop3s"), context=trusting(mail), timeout=WITHIN)
    pop3.user(BOB)
    pop3.pass_(mail.password(BOB))
    assert pop3.stat()[1] > 60_000
    pop3.quit()
    cleared("fault", "clear")
    assert fetched() == whole


def test_a_refused_client_is_gone_before_any_greeting(mail: Context, cleared: Quick) -> None:
    refusing, other = mail.stores[:2]
    cleared("fault", "connection", f"{refusing}.pop3s", "--refuse")
    with pytest.raises(OSError, match=r"EOF|reset|refused"):
        poplib.POP3_SSL("localhost", port(mail, f"{refusing}.pop3s"), context=trusting(mail), timeout=WITHIN)
    poplib.POP3_SSL("localhost", port(mail, f"{other}.pop3s"), context=trusting(mail), timeout=WITHIN).quit()
    reader(mail, refusing).logout()


def test_a_hanging_line_says_nothing(mail: Context, cleared: Quick) -> None:
    cleared("fault", "connection", "mta.smtp", "--hang")
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        sender(mail, timeout=1)
    mail.send(BOB, mail.message(BOB, BOB, "submitted"), BOB)
    cleared("fault", "clear")
    sender(mail).quit()


def test_mail_waits_while_the_way_to_one_store_is_broken(mail: Context, cleared: Quick) -> None:
    broken = next(store for store in mail.stores if mail.endpoints["stores"][store]["delivery"] == "lmtp")
    before = {store: len(mail.look(BOB, store)) for store in mail.stores}
    cleared("fault", "connection", f"{broken}.lmtp", "--refuse")
    mail.send(BOB, mail.message("ann@shop.example", BOB, "waits"), way="smtp")
    for store in mail.stores:
        if store != broken:
            until(lambda: len(mail.look(BOB, store)) == before[store] + 1, WITHIN)  # noqa: B023
    until(lambda: "Connection refused" in cleared("queue", "list")[0], WITHIN)
    assert len(mail.look(BOB, broken)) == before[broken]
    cleared("fault", "clear")
    until(lambda: len(mail.look(BOB, broken)) == before[broken] + 1, WITHIN)


def offers(mail: Context, store: str) -> list[bool]:
    """Whether the MTA, and a store by IMAP and POP3, offer TLS to who begins in plain text."""
    with sender(mail) as smtp:
        found = [smtp.has_extn("starttls")]
    with imaplib.IMAP4("localhost", port(mail, f"{store}.imap"), timeout=WITHIN) as imap:
        found.append("STARTTLS" in imap.capabilities)
    pop3 = poplib.POP3("localhost", port(mail, f"{store}.pop3"), timeout=WITHIN)
    found.append("STLS" in pop3.capa())
    pop3.quit()
    return found


def test_starttls_is_not_offered(mail: Context, cleared: Quick) -> None:
    masked, other = mail.stores[:2]
    assert offers(mail, masked) == [True, True, True]
    for listener in ("mta.smtp", f"{masked}.imap", f"{masked}.pop3"):
        cleared("fault", "connection", listener, "--no-starttls")
    assert offers(mail, masked) == [False, False, False]
    assert offers(mail, other)[1:] == [True, True]
    with sender(mail) as client, pytest.raises(smtplib.SMTPNotSupportedError):
        client.starttls()
    assert cleared("fault", "clear")[0] == "3 cleared.\n"
    assert offers(mail, masked) == [True, True, True]


def refusals(mail: Context) -> dict[str, str]:
    """How each server answers a right password; "" where the login succeeds."""

    def submits() -> None:
        with smtplib.SMTP_SSL("localhost", port(mail, "mta.submissions"), context=trusting(mail), timeout=WITHIN) as client:
            client.login(BOB, mail.password(BOB))

    def reads(store: str) -> None:
        with reader(mail, store) as client:
            client.login(BOB, mail.password(BOB))

    def fetches(store: str) -> None:
        client = poplib.POP3_SSL("localhost", port(mail, f"{store}.pop3s"), context=trusting(mail), timeout=WITHIN)
        client.user(BOB)
        client.pass_(mail.password(BOB))
        client.quit()

    logins = {"mta": submits} | {f"{store} {how.__name__}": partial(how, store) for store in mail.stores for how in (reads, fetches)}
    def answer(login: Callable[[], None]) -> str:
        try:
            login()
        except (smtplib.SMTPException, imaplib.IMAP4.error, poplib.error_proto) as why:
            return str(why)
        return ""

    with ThreadPoolExecutor(len(logins)) as pool:  # one takes its time
        return dict(zip(logins, pool.map(answer, logins.values()), strict=True))


def test_no_login_can_be_checked_and_sessions_go_on(mail: Context, cleared: Quick) -> None:
    with reader(mail, mail.stores[0]) as session:
        session.login(BOB, mail.password(BOB))
        cleared("fault", "logins")
        found = refusals(mail)
        assert found["mta"].startswith("(454, b'4.7.0 Temporary authentication failure")
        assert all("emporary" in said for said in found.values()), found
        mail.send(BOB, mail.message("ann@shop.example", BOB, "meanwhile"), way="smtp")
        until(lambda: session.noop()[0] == "OK" and session.select(readonly=True) and session.search(None, "SUBJECT", mail.tag)[1][0], WITHIN)
    cleared("fault", "clear", "logins")
    assert set(refusals(mail).values()) == {""}


def test_up_ends_what_it_could_not_prove_to_work(mail: Context, cleared: Quick) -> None:
    before = len(lines())
    cleared("fault", "connection", "mta.smtp", "--hang")
    cleared("fault", "logins")
    cleared("fault", "greeting")
    cleared("up")
    assert json.loads(cleared("fault", "list", "--json")[0]) == {"mail": [], "connections": [], "certificate": None}
    assert len(lines()) == before
    sender(mail).quit()


def test_a_reset_of_accounts_ends_them_too(mail: Context, cleared: Quick) -> None:
    before = len(lines())
    cleared("fault", "connection", f"{mail.stores[0]}.imaps", "--hang")
    cleared("reset", "accounts")
    assert len(lines()) == before
    reader(mail, mail.stores[0]).logout()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody.imaps", "--hang"], "has no listener nobody.imaps"),
        (["mta.imaps", "--hang"], "has no listener mta.imaps"),
        (["mta.smtp"], "hangs, or refuses, or carries badly"),
        (["mta.smtp", "--hang", "--refuse"], "hangs, or refuses, or carries badly"),
        (["mta.smtp", "--hang", "--latency", "1"], "hangs, or refuses, or carries badly"),
        (["mta.smtp", "--latency", "-1"], "a latency of -1 s"),
        (["mta.smtp", "--latency", "nan"], "a latency of nan s"),
        (["mta.smtp", "--bandwidth", "0"], "0 octets a second"),
        (["mta.smtp", "--bandwidth", "fast"], "not a size"),
        (["mta.smtp", "--drop-after", "0"], "0 octets"),
    ],
)
def test_a_line_that_cannot_be_is_code_2_and_sets_nothing(arguments: list[str], said: str, quick: Quick, addressed: Program) -> None:
    assert said in quick("fault", "connection", *arguments, code=2)[1]
    assert json.loads(quick("fault", "list", "--json")[0])["connections"] == []
