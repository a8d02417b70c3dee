"""SASL mechanisms: each one logs in at every server that has it, and a wrong password, an unknown user or another mechanism does not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import imaplib
import json
import poplib
import smtplib
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from typing import Any

import pytest
from conftest import NAME
from program import Program, docker, until
from puresasl.client import SASLClient
from scramp import ScramClient

from stackctl import tokens
from stackctl.verifier import one_time_password, verifier

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D4")]

ALICE, PASSWORD = "alice@example.test", "p:ss \"w'rd\\"
SASL = ["PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"]
EVERYTHING = [*SASL, "ANONYMOUS", "OTP"]
TOKENS = ["OAUTHBEARER", "XOAUTH2"]
COURIER = ["PLAIN", "LOGIN", "CRAM-MD5", "CRAM-SHA1", "CRAM-SHA256"]
FILE = """\
auth: {mechanisms: [PLAIN, LOGIN, CRAM-MD5, DIGEST-MD5, SCRAM-SHA-1, SCRAM-SHA-256, APOP, ANONYMOUS, OTP, OAUTHBEARER, XOAUTH2]}
stores:
  - {backend: dovecot}
  - {backend: dovecot, version: "2.3"}
  - {name: few, backend: dovecot, auth: {mechanisms: [PLAIN, SCRAM-SHA-256]}}
  - {backend: courier, auth: {mechanisms: [PLAIN, LOGIN, CRAM-MD5, CRAM-SHA1, CRAM-SHA256]}}
  - {name: plain, backend: courier, auth: {mechanisms: [PLAIN]}}
limits: {auth_failure_delay: 0}
users:
  - {address: alice@example.test, password: 'p:ss "w''rd\\'}
  - {address: bob@example.test}
  - {address: "zoe@example.test", password: "zoe\u0301\u00a0word"}
"""
BOTH = pytest.mark.parametrize("store", ["dovecot", "dovecot-2-3"])
FAILED = r"(?i)AUTHENTICATIONFAILED|LOGIN failed"
Answer = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program.started(tmp_path_factory.mktemp("mechanisms"), f"{NAME}-mechanisms", FILE) as program:
        yield program


@pytest.fixture(scope="module")
def endpoints(here: Program) -> dict[str, Any]:
    return here.endpoints


def client(mechanism: str, user: str, password: str) -> Answer:
    """A client's side of a mechanism: an answer to each challenge, the first of which is empty."""
    if mechanism.startswith("SCRAM"):
        scram = ScramClient([mechanism], user, password)

        def first(_: bytes) -> bytes:
            return bytes(scram.get_client_first().encode())

        def second(challenge: bytes) -> bytes:
            scram.set_server_first(challenge.decode())
            return bytes(scram.get_client_final().encode())

        def last(challenge: bytes) -> bytes:
            scram.set_server_final(challenge.decode())  # the server has proved that it knows the password too
            return b""

        return (lambda steps: lambda challenge: next(steps)(challenge))(iter([first, second, last]))
    local, _, domain = user.rpartition("@")
    if mechanism.startswith("CRAM-SHA"):
        return lambda challenge: f"{user} {hmac.new(password.encode(), challenge, mechanism[5:]).hexdigest()}".encode() if challenge else b""
    if mechanism in TOKENS:  # RFC 7628 3.1; where a token is refused, the server says why, and waits for an answer
        begin = f"n,a={user}," if mechanism == "OAUTHBEARER" else f"user={user}"
        return lambda challenge: b"\1" if challenge else f"{begin}\1auth=Bearer {password}\1\1".encode()
    if mechanism == "OTP":  # RFC 2444 3
        return lambda challenge: one_time_password(challenge.decode(), password).encode() if challenge else f"\0{user}".encode()
    if mechanism == "LOGIN":
        return (lambda words: lambda challenge: next(words) if challenge else b"")(iter([user.encode(), password.encode()]))
    sasl = SASLClient("mail.example.test", "imap", mechanism=mechanism, username=local if mechanism == "DIGEST-MD5" else user, password=password)

    def answer(challenge: bytes) -> bytes:
        if not challenge and mechanism != "PLAIN":
            return b""
        realms = b'realm="example.test",realm="inbox.example.test"'  # a client asks its user for one; this library knows one only
        return bytes(sasl.process(challenge.replace(realms, b'realm="%s"' % domain.encode())) or b"")

    return answer


class Imaps(imaplib.IMAP4_SSL):
    """The library, with the name that the certificate says."""

    def __init__(self, endpoints: dict[str, Any], store: str) -> None:
        self._name = endpoints["tls_name"]
        host, port = endpoints["stores"][store]["imaps"]
        super().__init__(host, port, ssl_context=ssl.create_default_context(cafile=endpoints["ca"]))

    def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
        return self.ssl_context.wrap_socket(imaplib.IMAP4._create_socket(self, timeout), server_hostname=self._name)  # type: ignore[attr-defined,no-any-return]


def imap(endpoints: dict[str, Any], store: str, mechanism: str, user: str, password: str) -> list[Any]:
    """Logs in; the mailboxes that are there. Raises imaplib's error where the login is refused."""
    with Imaps(endpoints, store) as session:
        session.authenticate(mechanism, client(mechanism, user, password))
        return session.list()[1]


class Smtps(smtplib.SMTP_SSL):
    """The library, with the name that the certificate says."""

    name = ""

    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        return self.context.wrap_socket(smtplib.SMTP._get_socket(self, host, port, timeout), server_hostname=self.name)  # type: ignore[attr-defined]


def submission(endpoints: dict[str, Any], port: str) -> smtplib.SMTP:
    """A session within TLS at a port for submission."""
    context = ssl.create_default_context(cafile=endpoints["ca"])
    if port == "submissions":
        tls = Smtps(context=context)
        tls.name = endpoints["tls_name"]
        tls.connect(*endpoints["mta"][port])
        return tls
    session = smtplib.SMTP(*endpoints["mta"][port])
    session._host = endpoints["tls_name"]  # type: ignore[attr-defined]
    session.starttls(context=context)
    return session


def submit(endpoints: dict[str, Any], mechanism: str, user: str, password: str, port: str = "submission") -> None:
    """Logs in at a port for submission. Raises smtplib's error where the login is refused."""
    with submission(endpoints, port) as session:
        session.ehlo()
        assert session.esmtp_features["auth"].split() == [*SASL, "OTP", *TOKENS]
        answer = client(mechanism, user, password)
        initial = answer(b"")
        code, said = session.docmd(f"AUTH {mechanism}", base64.b64encode(initial).decode())
        while code == 334:
            code, said = session.docmd(base64.b64encode(answer(base64.b64decode(said))).decode())
        if code != 235:
            raise smtplib.SMTPAuthenticationError(code, said)


def mechanisms(endpoints: dict[str, Any], store: str) -> list[str]:
    with Imaps(endpoints, store) as session:
        return [word.removeprefix("AUTH=") for word in session.capabilities if word.startswith("AUTH=")]


def test_what_is_announced_is_what_was_chosen(endpoints: dict[str, Any]) -> None:
    assert mechanisms(endpoints, "dovecot") == EVERYTHING + TOKENS
    assert mechanisms(endpoints, "dovecot-2-3") == EVERYTHING + TOKENS
    assert mechanisms(endpoints, "few") == ["PLAIN", "SCRAM-SHA-256"]
    assert mechanisms(endpoints, "courier") == COURIER
    assert mechanisms(endpoints, "plain") == ["PLAIN"]
    for store, offered in [("courier", COURIER), ("plain", ["PLAIN"])]:
        with closing(pop3(endpoints, store)) as session:
            assert session.capa()["SASL"] == offered


@BOTH
@pytest.mark.parametrize("mechanism", SASL)
def test_imap(endpoints: dict[str, Any], store: str, mechanism: str) -> None:
    assert imap(endpoints, store, mechanism, ALICE, PASSWORD)
    assert imap(endpoints, store, mechanism, "fresh@inbox.example.test", endpoints["disposable"]["password"])
    for user, password in [(ALICE, "wrong"), ("nobody@example.test", PASSWORD), (ALICE, endpoints["disposable"]["password"]), ("fresh@inbox.example.test", PASSWORD)]:
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            imap(endpoints, store, mechanism, user, password)


@pytest.mark.parametrize("port", ["submission", "submissions"])
@pytest.mark.parametrize("mechanism", SASL)
def test_submission(endpoints: dict[str, Any], mechanism: str, port: str) -> None:
    submit(endpoints, mechanism, ALICE, PASSWORD, port)
    for user, password in [(ALICE, "wrong"), ("nobody@example.test", PASSWORD)]:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            submit(endpoints, mechanism, user, password, port)


def pop3(endpoints: dict[str, Any], store: str) -> poplib.POP3_SSL:
    context = ssl.create_default_context(cafile=endpoints["ca"])
    context.check_hostname = False  # poplib passes the address on; imap above looks at the name
    host, port = endpoints["stores"][store]["pop3s"]
    return poplib.POP3_SSL(host, port, context=context)


def pop(endpoints: dict[str, Any], store: str, mechanism: str, user: str, password: str) -> tuple[int, int]:
    """Logs in; how many messages and octets are there. Raises poplib's error where the login is refused."""
    with closing(pop3(endpoints, store)) as session:
        answer = client(mechanism, user, password)
        said = session._shortcmd(f"AUTH {mechanism}")  # type: ignore[attr-defined]
        while said.startswith(b"+ "):
            said = session._shortcmd(base64.b64encode(answer(base64.b64decode(said[2:]))).decode())  # type: ignore[attr-defined]
        return session.stat()


def test_a_one_time_password_submits_once(endpoints: dict[str, Any]) -> None:
    who, password = "sender@inbox.example.test", endpoints["disposable"]["password"]
    asked: list[str] = []

    def attempt(answer: Callable[[str], str]) -> int:
        """The code of a login, 0 where there was no challenge: met by the end of the process that wrote the state of the login before."""
        with submission(endpoints, "submissions") as session:
            session.ehlo()
            code, challenge = session.docmd("AUTH OTP", base64.b64encode(f"\0{who}".encode()).decode())
            if code != 334:
                return 0
            asked.append(base64.b64decode(challenge).decode())
            return session.docmd(base64.b64encode(answer(asked[-1]).encode()).decode())[0]

    for _ in range(2):
        assert until(lambda: attempt(lambda challenge: one_time_password(challenge, password)), 10) == 235
    assert until(lambda: attempt(lambda _: one_time_password(asked[0], password)), 10) == 535
    assert [int(one.split()[1]) for one in asked] == [999, 998, 997]


@BOTH
def test_pop3_has_the_same_mechanisms(endpoints: dict[str, Any], store: str) -> None:
    for mechanism in SASL:
        pop(endpoints, store, mechanism, ALICE, PASSWORD)
        with pytest.raises(poplib.error_proto, match="AUTH"):
            pop(endpoints, store, mechanism, ALICE, "wrong")


@pytest.mark.parametrize("login", [imap, pop])
def test_courier(endpoints: dict[str, Any], login: Callable[..., Any]) -> None:
    disposable = endpoints["disposable"]["password"]
    for mechanism in COURIER:
        assert login(endpoints, "courier", mechanism, ALICE, PASSWORD)
        assert login(endpoints, "courier", mechanism, "fresh@inbox.example.test", disposable)
    wrong = [(ALICE, "wrong"), ("nobody@example.test", PASSWORD), (ALICE, disposable), ("fresh@inbox.example.test", PASSWORD)]
    cases = [("courier", mechanism, *who) for mechanism in COURIER for who in wrong]
    cases += [("plain", mechanism, ALICE, PASSWORD) for mechanism in COURIER if mechanism.startswith("CRAM")]  # was not chosen there

    def refused(case: tuple[str, ...]) -> str:
        with pytest.raises((imaplib.IMAP4.error, poplib.error_proto)) as why:
            login(endpoints, *case)
        return str(why.value)

    with ThreadPoolExecutor(len(cases)) as pool:  # each waits for 5 s, whatever is set
        assert {case: why for case, why in zip(cases, pool.map(refused, cases), strict=True) if "failed" not in why} == {}


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "ANONYMOUS", "SCRAM-SHA-1"])
def test_a_mechanism_that_was_not_chosen_is_not_there(endpoints: dict[str, Any], mechanism: str) -> None:
    with Imaps(endpoints, "few") as session, pytest.raises(imaplib.IMAP4.error, match=r"(?i)unsupported"):
        session.authenticate(mechanism, lambda _: b"guest")


@BOTH
def test_apop(endpoints: dict[str, Any], store: str) -> None:
    def login(password: str) -> None:
        host, port = endpoints["stores"][store]["pop3"]
        session = poplib.POP3(host, port)
        try:
            context = ssl.create_default_context(cafile=endpoints["ca"])
            context.check_hostname = False  # poplib passes the address on; imap above looks at the name
            session.stls(context)
            session.apop(ALICE, password)
            session.stat()
        finally:
            session.close()

    login(PASSWORD)
    with pytest.raises(poplib.error_proto):
        login("wrong")


@BOTH
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_a_password_that_its_client_prepares(endpoints: dict[str, Any], store: str, mechanism: str) -> None:
    """RFC 5802 2.2, RFC 4013: an accent of its own, and a space that is none."""
    for typed in ("zoe\u0301\u00a0word", "zo\u00e9 word"):
        assert imap(endpoints, store, mechanism, "zoe@example.test", typed)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap(endpoints, store, mechanism, "zoe@example.test", "zoe word")


@BOTH
def test_anonymous_has_a_mailbox_of_the_disposable_domain(endpoints: dict[str, Any], store: str) -> None:
    with Imaps(endpoints, store) as session:
        session.authenticate("ANONYMOUS", lambda _: b"guest")
        assert session.select()[0] == "OK"


def challenged(endpoints: dict[str, Any], store: str, user: str, answer: Callable[[str], str], tries: int = 100) -> str:
    """Logs in by OTP; the challenge that the store had. `answer` makes the word that it gets. Raises imaplib's error where the login is refused.

    Dovecot's auth worker dies once it has written the state of a login: who comes in that moment is told that it is unavailable, and tries again.
    """
    try:
        return _challenged(endpoints, store, user, answer)
    except imaplib.IMAP4.error as why:
        if tries == 1 or "[UNAVAILABLE]" not in str(why):
            raise
    return challenged(endpoints, store, user, answer, tries - 1)


def _challenged(endpoints: dict[str, Any], store: str, user: str, answer: Callable[[str], str]) -> str:
    asked: list[str] = []

    def respond(challenge: bytes) -> bytes:
        if challenge:
            asked.append(challenge.decode())
        return answer(challenge.decode()).encode() if challenge else f"\0{user}".encode()

    with Imaps(endpoints, store) as session:
        session.authenticate("OTP", respond)
        assert session.select()[0] == "OK"
    return asked[0]


@BOTH
@pytest.mark.parametrize("user", [ALICE, "o'once@inbox.example.test"])
def test_a_one_time_password_is_good_once(here: Program, endpoints: dict[str, Any], store: str, user: str) -> None:
    password = PASSWORD if user == ALICE else endpoints["disposable"]["password"]
    asked = [challenged(endpoints, store, user, lambda challenge: one_time_password(challenge, password)) for _ in range(3)]
    counts = [int(one.split()[1]) for one in asked]
    assert counts == [counts[0], counts[0] - 1, counts[0] - 2] and {one.split()[0] for one in asked} == {"otp-sha1"}
    used = one_time_password(asked[-1], password)
    for wrong in (used, one_time_password(asked[-1], "wrong"), "hex:0000000000000000", f"hex:{password.encode().hex()}"):
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            challenged(endpoints, store, user, lambda _, word=wrong: word)  # type: ignore[misc]
    typed = challenged(endpoints, store, user, lambda challenge: here("auth", "otp", user, challenge).out.strip())
    assert int(typed.split()[1]) == counts[0] - 3, "a refused one does not count"


@BOTH
def test_what_is_used_up_stays_so_in_another_container(here: Program, endpoints: dict[str, Any], store: str) -> None:
    def answer(challenge: str) -> str:
        return one_time_password(challenge, PASSWORD)

    used = challenged(endpoints, store, ALICE, answer)
    docker("rm", "-f", endpoints["stores"][store]["container"])
    here("up")
    assert int(challenged(here.endpoints, store, ALICE, answer).split()[1]) == int(used.split()[1]) - 1
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        challenged(here.endpoints, store, ALICE, lambda _: answer(used))


@BOTH
def test_who_is_not_there_has_no_one_time_password(endpoints: dict[str, Any], store: str) -> None:
    said = {}
    for user in ("nobody@example.test", "x' OR '1'='1@example.test", "../x@inbox.example.test", "@inbox.example.test"):
        with pytest.raises(imaplib.IMAP4.error) as why:
            challenged(endpoints, store, user, lambda challenge: one_time_password(challenge, endpoints["disposable"]["password"]), tries=5)
        said[user] = str(why.value).split()[0]
    # No passdb is for the last two: they are no names.
    assert list(said.values()) == ["[AUTHENTICATIONFAILED]"] * 2 + ["[UNAVAILABLE]"] * 2


@BOTH
def test_a_client_begins_a_new_chain(endpoints: dict[str, Any], store: str) -> None:
    """RFC 2243 3.4: with the last answer of the old one comes the first state of the new one."""
    who, first, second = "renewed@inbox.example.test", endpoints["disposable"]["password"], "another passphrase"
    algorithm, count, seed, state = verifier("otp", who, second).split()
    challenged(endpoints, store, who, lambda challenge: f"init-{one_time_password(challenge, first)}:{algorithm} {count} {seed}:{state}")
    assert challenged(endpoints, store, who, lambda challenge: one_time_password(challenge, second)).split()[1:3] == [str(int(count) - 1), seed]
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        challenged(endpoints, store, who, lambda challenge: one_time_password(challenge, first))


@pytest.fixture(scope="module")
def token(here: Program) -> Callable[..., str]:
    """Makes a token as a person does, once."""
    return cache(lambda who, *options: here("auth", "token", who, *options).out.strip())


def logins(endpoints: dict[str, Any], mechanism: str, *pairs: tuple[str, str]) -> dict[tuple[str, str], set[bool]]:
    """Whether somebody is let in with a password: by each store, for IMAP and for POP3, and by the MTA at its port for submission. All at once, for refusals wait."""
    ways = [(login, (store,)) for store in ("dovecot", "dovecot-2-3") for login in (imap, pop)] + [(submit, ())]

    def lets_in(pair: tuple[str, str], login: Callable[..., Any], store: tuple[str, ...]) -> bool:
        try:
            login(endpoints, *store, mechanism, *pair)
        except (imaplib.IMAP4.error, poplib.error_proto, smtplib.SMTPAuthenticationError) as why:
            assert "EOF" not in str(why), why
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        found = {pair: [pool.submit(lets_in, pair, *way) for way in ways] for pair in pairs}
        return {pair: {one.result() for one in answers} for pair, answers in found.items()}


@pytest.mark.parametrize("mechanism", TOKENS)
def test_a_token_is_a_login_of_its_user_alone(endpoints: dict[str, Any], token: Callable[..., str], mechanism: str) -> None:
    fresh = "o'fresh@inbox.example.test"
    right = [(ALICE, token(ALICE)), ("Alice@Example.TEST", token(ALICE)), (fresh, token(fresh))]
    wrong = [(ALICE, token("bob@example.test")), ("other@inbox.example.test", token(fresh)), (ALICE, token(fresh))]
    assert logins(endpoints, mechanism, *right, *wrong) == {pair: {pair in right} for pair in (*right, *wrong)}


@pytest.mark.parametrize("mechanism", TOKENS)
def test_what_is_no_good_token_is_refused(here: Program, endpoints: dict[str, Any], token: Callable[..., str], mechanism: str) -> None:
    key = json.loads((here.state / "state.json").read_text(encoding="utf-8"))["token_key"]
    header, payload, signature = token(ALICE).split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "=="))
    kind = {name: base64.urlsafe_b64encode(json.dumps({"alg": name, "typ": "JWT"}).encode()).rstrip(b"=").decode() for name in ("none", "HS256")}
    mac = hmac.digest(tokens.public(key).encode(), f"{kind['HS256']}.{payload}".encode(), hashlib.sha256)
    bad = {
        "expired": token(ALICE, "--valid", "-60"),
        "for ever": tokens.signed(key, {name: value for name, value in said.items() if name != "exp"}),
        "of the future": tokens.signed(key, {**said, "iat": said["iat"] + 600}),
        "of another issuer": tokens.signed(key, {**said, "iss": "https://example.org"}),
        "of another stack's key": tokens.signed(tokens.new_key(), said),
        "signed for something else": f"{header}.{tokens.signed(key, {**said, 'exp': said['exp'] + 600}).split('.')[1]}.{signature}",
        "not signed": f"{kind['none']}.{payload}.",
        "signed with the public key": f"{kind['HS256']}.{payload}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}",
        "garbage": "garbage",
        "the password": PASSWORD,
    }
    nobody = ("nobody@example.test", tokens.signed(key, tokens.claims("example.test", "nobody@example.test", said["iat"], 3600)))
    good = (ALICE, tokens.signed(key, said))  # what the rest differs from
    found = logins(endpoints, mechanism, good, nobody, *((ALICE, one) for one in bad.values()))
    assert {name for name, one in bad.items() if found[ALICE, one] != {False}} == set()
    assert found[good] == {True} and found[nobody] == {False}


def test_where_nobody_takes_tickets_there_is_no_kdc(here: Program, endpoints: dict[str, Any]) -> None:
    assert "kdc" not in endpoints and not any(name.startswith("GSS") for name in mechanisms(endpoints, "dovecot"))
    assert "takes tickets" in here("auth", "krb5-conf", code=2).err


def test_who_has_no_mailbox_gets_no_token(here: Program) -> None:
    made = here("auth", "token", ALICE.upper(), "--json").json
    assert made["address"] == ALICE and made["token"].count(".") == 2
    assert "is no user" in here("auth", "token", "nobody@example.test", code=2).err
    assert "--valid" in here("auth", "token", ALICE, "--valid", "1" * 30, code=2).err


def test_a_user_added_live_and_a_password_changed_live(here: Program, endpoints: dict[str, Any], token: Callable[..., str]) -> None:
    here("user", "add", "carol@example.test", "--password-stdin", stdin=b"first-of-carol\n")
    carol = ("carol@example.test", token("carol@example.test"))
    assert logins(endpoints, "OAUTHBEARER", carol) == {carol: {True}}
    here("user", "passwd", "bob@example.test", "--password-stdin", stdin=b"second-of-bob\n")
    chosen = [("dovecot", "SCRAM-SHA-256"), ("dovecot-2-3", "CRAM-MD5"), ("few", "SCRAM-SHA-256"), ("dovecot", "DIGEST-MD5"), ("courier", "CRAM-SHA256")]
    for store, mechanism in chosen:
        assert imap(endpoints, store, mechanism, "carol@example.test", "first-of-carol")
        assert imap(endpoints, store, mechanism, "bob@example.test", "second-of-bob")
        with pytest.raises(imaplib.IMAP4.error, match=FAILED):
            imap(endpoints, store, mechanism, "bob@example.test", endpoints["accounts"][1]["password"])
    submit(endpoints, "SCRAM-SHA-256", "bob@example.test", "second-of-bob")
    for store in ("dovecot", "dovecot-2-3"):
        for who, password in (("carol@example.test", "first-of-carol"), ("bob@example.test", "second-of-bob")):
            challenged(endpoints, store, who, lambda challenge, known=password: one_time_password(challenge, known))  # type: ignore[misc]
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            challenged(endpoints, store, "bob@example.test", lambda challenge: one_time_password(challenge, endpoints["accounts"][1]["password"]))
    here("user", "delete", "carol@example.test")
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        challenged(endpoints, "dovecot", "carol@example.test", lambda challenge: one_time_password(challenge, "first-of-carol"))
    assert logins(endpoints, "OAUTHBEARER", carol) == {carol: {False}}
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap(endpoints, "dovecot", "SCRAM-SHA-256", "carol@example.test", "first-of-carol")


def test_where_passwords_are(here: Program) -> None:
    """No password is in clear where no mechanism needs it."""
    plain = PASSWORD.encode().hex()
    for service in ("few", "mta"):
        text = here("shell", service, "--", "cat", "/etc/stackctl/verifiers").out
        assert "{SCRAM-SHA-256}4096," in text and PASSWORD not in text and plain not in text
    assert plain in here("shell", "dovecot", "--", "cat", "/etc/stackctl/verifiers").out  # APOP
    assert here("shell", "dovecot", "--", "stat", "-c", "%a %U:%G", "/etc/stackctl/verifiers").out.strip() == "640 root:vmail"
    assert plain in here("shell", "courier", "--", "cat", "/etc/stackctl/verifiers").out  # CRAM-*, for the tool that makes their HMAC states
    assert here("shell", "courier", "--", "stat", "-c", "%a %U:%G", "/etc/stackctl/verifiers").out.strip() == "600 root:root"
    assert plain not in (table := here("shell", "courier", "--", "cat", "/run/courier/userdb").out) and "|hmac-sha256pw=" in table
    for service in ("dovecot", "dovecot-2-3", "mta"):
        assert here("shell", service, "--", "cat", "/etc/stackctl/tokens/default/ES256/default").out.startswith("-----BEGIN PUBLIC KEY-----")
    disposable = here("endpoints", "--json", "--secrets").json["disposable"]["password"].encode().hex()
    assert f"X'{disposable}'" in here("shell", "courier", "--", "cat", "/etc/stackctl/authsqliterc").out
    for shown in (here("config", "show", "courier", "--all").out, here("render").out):
        assert disposable not in shown and plain not in shown
    assert plain not in (here.state / "compose.yaml").read_text(encoding="utf-8")
