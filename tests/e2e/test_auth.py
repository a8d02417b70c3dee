"""`auth test`: every server's own tool says whether a password is right, and no password is seen on the way. And logins where TLS is not required."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
from collections.abc import Iterator
from contextlib import closing, nullcontext
from typing import Any

import pytest
from conftest import NAME
from program import Program, docker

from stackctl.labels import LABEL

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D5")]
ALICE = "alice@example.test"
FILE = """\
stores: [{backend: courier}, {backend: dovecot}, {backend: dovecot, version: "2.3"}]
limits: {auth_failure_delay: 0}
tls: {require: false}
users:
  - {address: alice@example.test, password: 'p:ss "w''rd\\'}
"""
STORES = ["courier", "dovecot", "dovecot-2-3"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program.started(tmp_path_factory.mktemp("auth"), f"{NAME}-auth", FILE) as program:
        yield program


@pytest.mark.parametrize("service", ["imap", "pop3"])
def test_every_store_says_what_it_knows_of_a_user(here: Program, service: str) -> None:
    said = here("auth", "test", ALICE, "--service", service, "--json").json
    assert [(one["server"], one["service"], one["accepted"]) for one in said] == [(store, service, True) for store in STORES]
    courier, dovecot, old = (one["output"] for one in said)
    assert "UID=5000\nGID=5000\n" in courier and "MAILDIR=/var/vmail/example.test/alice/Maildir" in courier
    for output in (dovecot, old):
        assert "uid\t5000\ngid\t5000\nhome\t/var/vmail/example.test/alice\n" in output
    assert not any(secret in one["output"] for one in said for secret in ("p:ss", "$2b$"))


def login(endpoints: dict[str, Any], store: str, protocol: str, password: str) -> None:
    """A login in plain text, at the port for which TLS is offered. Raises the library's error where it is refused."""
    if protocol == "imap":
        with imaplib.IMAP4(*endpoints["stores"][store]["imap"]) as imap:
            assert "STARTTLS" in imap.capabilities
            imap.login(ALICE, password)
            assert imap.select()[0] == "OK"
    else:
        with closing(poplib.POP3(*endpoints["stores"][store]["pop3"])) as pop3:
            assert "STLS" in pop3.capa()
            pop3.user(ALICE)
            pop3.pass_(password)
            pop3.stat()


@pytest.mark.feature("D4")
@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_where_tls_is_not_required_a_login_goes_without(here: Program, protocol: str) -> None:
    """`tls: {require: false}`; that it is refused otherwise is a scenario of the suite, `no_login_before_tls`."""
    for store in STORES:
        login(here.endpoints, store, protocol, "p:ss \"w'rd\\")
        with pytest.raises((imaplib.IMAP4.error, poplib.error_proto)):
            login(here.endpoints, store, protocol, "wrong")


@pytest.mark.feature("D4")
def test_submission_goes_without_tls_too(here: Program) -> None:
    for password, good in (("p:ss \"w'rd\\", True), ("wrong", False)):
        with smtplib.SMTP(*here.endpoints["mta"]["submission"]) as smtp:
            smtp.ehlo()
            assert smtp.has_extn("starttls")
            with nullcontext() if good else pytest.raises(smtplib.SMTPAuthenticationError):
                smtp.login(ALICE, password)


def test_submission_is_checked_by_the_mta(here: Program) -> None:
    assert "==> mta, smtp: accepted <==" in here("auth", "test", ALICE, "--service", "smtp").out
    refused = here("auth", "test", ALICE, "--service", "smtp", "--password-stdin", stdin=b"wrong\n", code=1)
    assert "==> mta, smtp: refused <==" in refused.out
    assert "are checked by the MTA" in here("auth", "test", ALICE, "--service", "smtp", "--store", "courier", code=2).err


@pytest.mark.parametrize(
    ("address", "password"),
    [(ALICE, b"wrong"), (ALICE, b""), ("nobody@example.test", b"p:ss \"w'rd\\"), ("any@inbox.example.test", b"p:ss \"w'rd\\"), ("-x@example.test", b"x")],
)
def test_what_is_wrong_is_refused(here: Program, address: str, password: bytes) -> None:
    said = here("auth", "test", "--password-stdin", "--json", "--", address, stdin=password + b"\n", code=1).json
    assert [one["accepted"] for one in said] == [False] * 3
    assert {one["output"].splitlines()[0] for one in said} == {"FAIL", f"passdb: {address} auth failed"}


def test_one_store_and_the_disposable_domain(here: Program) -> None:
    said = here("auth", "test", "Any@inbox.example.test", "--store", "courier", "--json").json
    assert [(one["server"], one["accepted"]) for one in said] == [("courier", True)]


def test_a_server_that_does_not_run_is_no_refusal(here: Program) -> None:
    docker("pause", container := docker("ps", "-q", "--filter", f"name=stackctl-{here.name}-courier-1").strip())
    try:
        assert "courier of the stack" in (said := here("auth", "test", ALICE, code=1)).err and "(paused)" in said.err and not said.out
        here("auth", "test", ALICE, "--store", "dovecot")
    finally:
        docker("unpause", container)
    docker("exec", container, "mv", "/run/courier/authdaemon", "/run/courier/gone")
    try:
        assert "courier cannot tell" in here("auth", "test", ALICE, code=1).err
    finally:
        docker("exec", container, "mv", "/run/courier/gone", "/run/courier/authdaemon")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([ALICE, "--store", "cyrus"], "has no store cyrus"),
        ([ALICE, "--service", "ftp"], "imap, pop3, smtp"),
        ([ALICE, "--ask", "--password-stdin"], "exclude each other"),
        (["nobody@example.test"], "is no user of the stack"),
        (["no-address", "--password-stdin"], "no-address"),
        ([ALICE, "--name", "nowhere"], "is not up"),
    ],
)
def test_what_cannot_be_asked_is_an_error(here: Program, arguments: list[str], said: str) -> None:
    assert said in here("auth", "test", *arguments, code=2).err


def test_where_no_server_takes_tokens_there_are_none(here: Program) -> None:
    assert "OAUTHBEARER or XOAUTH2" in here("auth", "token", ALICE, code=2).err


def test_the_password_is_in_no_argument(here: Program) -> None:
    now = ["system", "info", "--format", "{{.SystemTime}}"]
    before = docker(*now).strip()
    here("auth", "test", ALICE)
    events = docker("events", "--since", before, "--until", docker(*now).strip(), "--filter", f"label={LABEL}={here.name}")
    assert events.count(f"exec_start: /usr/local/lib/stackctl/verbs/auth-test imap {ALICE}") == len(STORES)
    assert "p:ss" not in events
