"""Dovecot's storage formats, TLS as stack.yaml has it on every server, and logins with a certificate. One stack for all of it, that comes up a second time."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import NAME
from program import Program, docker, until

from stackctl import ca, engine, report, scenario, scenarios
from stackctl.clients.imap import Imap
from stackctl.clients.pop3 import Pop3
from stackctl.clients.where import Where
from stackctl.errors import StackctlError

pytestmark = pytest.mark.e2e

ALICE, BOB = "alice@example.test", "bob@example.test"
DBOX = {"sdbox": "sdbox", "mdbox": "mdbox", "old-sdbox": "sdbox", "old-mdbox": "mdbox"}
STORES = (*DBOX, "courier")
OTHER = "imap.example.org"  # has a certificate of its own
FILE = """\
tls: {sni: [imap.example.org, mx.example.test], ciphers: "ECDHE+AESGCM", prefer: client}
stores:
  - name: sdbox
    backend: dovecot
    mailbox: sdbox
    auth: {mechanisms: [PLAIN, EXTERNAL]}
    settings:
      dovecot_conf:
        mail_plugins: {fts: yes, fts_flatcurve: yes}
        fts_autoindex: yes
        fts flatcurve: {}
        language_tokenizers: generic email-address
        language en: {default: yes, filters: lowercase snowball}
        namespace inbox: &namespace {prefix: INBOX., separator: ., mailbox Reports: {special_use: \\Archive, auto: subscribe}}
  - name: mdbox
    backend: dovecot
    mailbox: mdbox
    delivery: dovecot-lda
    settings:
      dovecot_conf:
        mail_plugins: {acl: yes}
        protocol imap: {mail_plugins: {imap_acl: yes}}
        acl_driver: vfile
        acl_sharing_map: {dict file: {path: /var/vmail/.shared-folders}}
        namespace shared: {type: shared, separator: /, prefix: shared/$user/, mail_path: "%{owner_home}/mdbox", subscriptions: no, list: children}
  - name: old-sdbox
    backend: dovecot
    version: "2.3"
    mailbox: sdbox
    auth: {mechanisms: [PLAIN, SCRAM-SHA-256, EXTERNAL]}
    settings: {dovecot_conf: {namespace inbox: *namespace}}
  - name: old-mdbox
    backend: dovecot
    version: "2.3"
    mailbox: mdbox
    settings:
      dovecot_conf:
        mail_plugins: quota acl
        protocol imap: {mail_plugins: quota imap_quota imap_zlib acl imap_acl}
        plugin: {acl: vfile, acl_shared_dict: "file:/var/vmail/.shared-folders"}
        namespace shared: {type: shared, separator: /, prefix: shared/%%u/, location: "mdbox:%%h/mdbox", subscriptions: no, list: children}
  - {auth: {mechanisms: [PLAIN, EXTERNAL]}, backend: courier}
limits: {auth_failure_delay: 0}
"""
FEW = {"mdbox": ["imaps", "sieve"], "old-mdbox": ["imaps", "pop3s"], "courier": ["imap", "imaps"]}
# With TLS 1.3 alone, and with fewer listeners.
AGAIN = FILE.replace('ciphers: "ECDHE+AESGCM", prefer: client', "minimum_version: TLSv1.3").replace("backend: courier}", "backend: courier, listeners: [imap, imaps]}")
for _before, _listeners in (('"2.3"\n    mailbox: mdbox\n', "imaps, pop3s"), ("delivery: dovecot-lda\n", "imaps, sieve")):
    AGAIN = AGAIN.replace(_before, f"{_before}    listeners: [{_listeners}]\n")
LISTENERS = {"imap": 143, "imaps": 993, "pop3": 110, "pop3s": 995, "sieve": 4190}
EXTERNAL = pytest.mark.parametrize("store", ["sdbox", "old-sdbox"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program.started(tmp_path_factory.mktemp("dovecot"), f"{NAME}-dovecot", FILE) as program:
        yield program


@pytest.fixture(scope="module")
def endpoints(here: Program) -> dict[str, Any]:
    return here.endpoints


@pytest.fixture(scope="module")
def again(here: Program, kept: dict[str, bytes]) -> dict[str, Any]:
    """The stack, taken down and up again by `AGAIN`; what uses this comes last."""
    here("down")
    here.write(AGAIN)
    here("up")
    return here.endpoints


# --- Formats


def read(endpoints: dict[str, Any], store: str, who: str) -> list[bytes]:
    """What is in a disposable mailbox by IMAPS; by POP3S, where that is open, it must be the same."""
    password = endpoints["disposable"]["password"]
    with Imap(Where.of(endpoints, store, "imaps")) as imap:
        imap.login(who, password)
        imap.wait()
        messages = [imap.fetch(one.uid) for one in imap.wait()]
    if endpoints["stores"][store]["pop3s"]:
        with Pop3(Where.of(endpoints, store, "pop3s")) as pop3:
            pop3.login(who, password)
            assert [pop3.retr(number) for number in range(1, pop3.stat()[0] + 1)] == messages
    return messages


def send(here: Program, who: str) -> None:
    here("send", "--to", who, "--subject", "on disk", "--body", "a line of this very message")


def inside(endpoints: dict[str, Any], store: str, *command: str) -> str:
    status, output = engine.execute(endpoints["stores"][store]["container"], list(command))
    assert status == 0, output
    return output


def files(endpoints: dict[str, Any], store: str, who: str) -> dict[str, str]:
    """The files in which messages are, below the home of an address, with what is in them."""
    home = f"/var/vmail/{who.rpartition('@')[2]}/{who.rpartition('@')[0]}"
    paths = inside(endpoints, store, "find", home, "-name", "[mu].[0-9]*").split()
    return {path.removeprefix(f"{home}/"): inside(endpoints, store, "cat", path) for path in paths}


@pytest.fixture(scope="module")
def kept(here: Program, endpoints: dict[str, Any]) -> dict[str, bytes]:
    """A message in every store, as it was first read there."""
    send(here, "kept@inbox.example.test")
    return {store: read(endpoints, store, "kept@inbox.example.test")[0] for store in DBOX}


@pytest.mark.feature("D3")
@pytest.mark.parametrize("store", DBOX)
def test_real_life_messages_come_out_of_this_format_as_they_went_in(endpoints: dict[str, Any], store: str) -> None:
    outcomes = scenarios.run(endpoints, only=rf"^every_message_comes_out_as_it_went_in\[submission/{store}/(imaps|pop3s)\]$")
    assert len(outcomes) == 2
    assert not [report.failure(one) for one in outcomes if one.verdict != "passed"]


@pytest.mark.feature("D3")
@pytest.mark.parametrize(("store", "form"), DBOX.items())
def test_what_is_on_disk_is_what_the_format_says(endpoints: dict[str, Any], kept: dict[str, bytes], store: str, form: str) -> None:
    found = files(endpoints, store, "kept@inbox.example.test")
    assert list(found) == ["sdbox/mailboxes/INBOX/dbox-Mails/u.1" if form == "sdbox" else "mdbox/storage/m.1"]
    text = next(iter(found.values()))
    assert text.startswith("2 M") and "\na line of this very message\n" in text  # the header of a dbox file, version 2


@pytest.mark.feature("D3")
@pytest.mark.parametrize("store", ["mdbox", "old-mdbox"])
def test_purge_frees_the_file_of_messages_that_were_expunged(here: Program, endpoints: dict[str, Any], store: str) -> None:
    who = f"purged-{store}@inbox.example.test"
    send(here, who)
    assert len(read(endpoints, store, who)) == 1
    with Imap(Where.of(endpoints, store, "imaps")) as imap:
        imap.login(who, endpoints["disposable"]["password"])
        imap.select()
        imap.delete([one.uid for one in imap.wait()])
        assert imap.select()["EXISTS"] == 0
    assert "mdbox/storage/m.1" in files(endpoints, store, who)
    inside(endpoints, store, "doveadm", "purge", "-u", who)
    assert files(endpoints, store, who) == {}


# --- Native settings: full-text search, and a namespace of one's own


@pytest.mark.feature("D3")
def test_a_search_by_the_index_finds_another_form_of_the_word(here: Program, endpoints: dict[str, Any]) -> None:
    who = "searched@inbox.example.test"
    here("send", "--to", who, "--subject", "zoo", "--body", "Quick brown foxes jumped.")
    for store, found in (("sdbox", 1), ("old-sdbox", 0)):
        read(endpoints, store, who)
        with Imap(Where.of(endpoints, store, "imaps")) as imap:
            imap.login(who, endpoints["disposable"]["password"])
            imap.select()
            assert len(imap.library.search(["BODY", "jumped"])) == 1
            assert len(imap.library.search(["BODY", "jumping"])) == found, f"{store}: without an index, octets are compared"
            assert not imap.library.search(["BODY", "badgers"])


@pytest.mark.feature("D3")
@pytest.mark.parametrize("store", ["sdbox", "old-sdbox"])
def test_a_namespace_has_the_prefix_the_separator_and_the_folders_that_it_is_given(endpoints: dict[str, Any], store: str) -> None:
    with Imap(Where.of(endpoints, store, "imaps")) as imap:
        imap.login("named@inbox.example.test", endpoints["disposable"]["password"])
        assert imap.library.namespace().personal == (("INBOX.", "."),)
        imap.create("INBOX.Reports.2024")
        flags = {name: flags for flags, _, name in imap.library.list_folders()}
        assert b"\\Archive" in flags["INBOX.Reports"] and "INBOX.Reports.2024" in flags
        with pytest.raises(StackctlError, match=r"namespace|prefix"):
            imap.create("Elsewhere")


@pytest.mark.feature("D2")
def test_folders_are_shared_where_the_settings_say_so(endpoints: dict[str, Any]) -> None:
    """RFC 4314, which the same server does not announce without them."""
    outcomes = scenarios.run(endpoints, only=r"^imap_(gives_rights_to_others|lets_others_into_a_folder)\[")
    said = {(one.case.store, one.verdict) for one in outcomes}
    shared = dict.fromkeys(("mdbox", "old-mdbox", "courier"), "passed") | dict.fromkeys(("sdbox", "old-sdbox"), "not offered")
    assert said == set(shared.items()), [report.failure(one) for one in outcomes if one.verdict == "failed"]


# --- TLS


def handshake(endpoints: dict[str, Any], service: str, name: str | None = None, **settings: Any) -> tuple[set[str], str, str]:
    """The names of the certificate, the version and the cipher. `settings` are attributes of the context, and `ciphers` the list of TLS 1.2."""
    context = ssl.create_default_context(cafile=endpoints["ca"])
    if "ciphers" in settings:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(settings.pop("ciphers"))
    for key, value in settings.items():
        setattr(context, key, value)
    place = endpoints["mta"]["submissions"] if service == "mta" else endpoints["stores"][service]["imaps"]
    with socket.create_connection(place, 10) as raw, context.wrap_socket(raw, server_hostname=name or endpoints["tls_name"]) as tls:
        found: Any = tls.getpeercert()
        return {value for _, value in found["subjectAltName"]}, tls.version() or "", (tls.cipher() or ("",))[0]


EVERYBODY = pytest.mark.parametrize("service", ["mta", *STORES])


@pytest.mark.feature("D4")
@EVERYBODY
def test_a_name_of_sni_has_a_certificate_of_its_own(endpoints: dict[str, Any], service: str) -> None:
    assert handshake(endpoints, service, OTHER)[0] == {OTHER}
    assert handshake(endpoints, service, "mx.example.test")[0] == {"mx.example.test"}
    own = handshake(endpoints, service)[0]
    assert {"mail.example.test", "localhost"} <= own and OTHER not in own
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(endpoints, service, "smtp.example.org")


@pytest.mark.feature("D4")
@EVERYBODY
def test_the_ciphers_are_those_of_the_list_in_the_order_that_counts(endpoints: dict[str, Any], service: str) -> None:
    wish = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
    assert handshake(endpoints, service, ciphers=wish)[1:] == ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(endpoints, service, ciphers="ECDHE-ECDSA-CHACHA20-POLY1305")


# --- Certificates of clients


@pytest.fixture(scope="module")
def certificate(here: Program) -> Any:
    """Makes a client's certificate as a person does, once; its file and the key's."""

    @cache
    def make(who: str) -> tuple[str, str]:
        made = here("certs", "client", who, "--json").json
        assert made["address"] == who
        assert stat.S_IMODE(os.stat(made["key"]).st_mode) == 0o600
        return made["certificate"], made["key"]

    return make


def login(endpoints: dict[str, Any], store: str, shown: tuple[str, str] | None, initial: str = "", mechanism: str = "EXTERNAL", listener: str = "imaps") -> str:
    """AUTHENTICATE (RFC 9051), or AUTH (RFC 5034), with what RFC 4422 A says: the identity to act as, or nothing. The server's answer, without a tag."""
    tag, verb = ("a ", "AUTHENTICATE") if listener == "imaps" else ("", "AUTH")
    context = ssl.create_default_context(cafile=endpoints["ca"])
    if shown:
        context.load_cert_chain(*shown)
    with socket.create_connection(endpoints["stores"][store][listener], 10) as raw, context.wrap_socket(raw, server_hostname=endpoints["tls_name"]) as tls:
        lines = tls.makefile("rwb")
        assert b"OK" in lines.readline()
        lines.write(f"{tag}{verb} {mechanism} {base64.b64encode(initial.encode()).decode() or '='}\r\n".encode())
        lines.flush()
        for line in lines:
            if line.rstrip() == b"+":  # RFC 4422 5: an empty challenge
                lines.write(base64.b64encode(initial.encode()) + b"\r\n")
                lines.flush()
            elif line.startswith(tag.encode()):
                return line.decode().removeprefix(tag)
        raise AssertionError("the server has hung up")


REFUSED = "NO [AUTHENTICATIONFAILED]"


def refused(endpoints: dict[str, Any], store: str, shown: tuple[str, str], initial: str = "") -> bool:
    """Whether a server says no; one that is met by a reload says nothing."""
    try:
        return login(endpoints, store, shown, initial).startswith("NO")
    except (AssertionError, OSError):
        return False


@pytest.mark.feature("D4")
@EXTERNAL
def test_a_certificate_is_a_login_without_a_password(endpoints: dict[str, Any], certificate: Any, store: str) -> None:
    alice, fresh = certificate(ALICE), certificate("o'fresh@inbox.example.test")
    assert login(endpoints, store, alice).startswith("OK")
    assert login(endpoints, store, alice, ALICE).startswith("OK")
    assert login(endpoints, store, fresh).startswith("OK")
    assert login(endpoints, store, alice, listener="pop3s").startswith("+OK")
    assert login(endpoints, store, alice, BOB, listener="pop3s").startswith("-ERR")


@pytest.mark.feature("D4")
@EXTERNAL
def test_without_the_right_certificate_there_is_no_login(here: Program, endpoints: dict[str, Any], certificate: Any, store: str, tmp_path: Path) -> None:
    assert login(endpoints, store, None, ALICE).startswith(REFUSED)
    assert login(endpoints, store, certificate(BOB), ALICE).startswith(REFUSED), "somebody else's"
    assert login(endpoints, store, (str(here.state / "cert.pem"), str(here.state / "key.pem")), ALICE).startswith(REFUSED), "a server's"
    now = datetime.now(UTC)
    other = ca.make_client(ca.make_ca(None, now), ALICE, now)
    (tmp_path / "other.pem").write_bytes(other.key + other.certificate)
    assert login(endpoints, store, (str(tmp_path / "other.pem"),) * 2, ALICE).startswith(REFUSED), "another CA's"


@pytest.mark.feature("D4")
@EXTERNAL
def test_passwords_are_asked_for_as_ever(endpoints: dict[str, Any], certificate: Any, store: str) -> None:
    password = next(account["password"] for account in endpoints["accounts"] if account["address"] == ALICE)
    assert login(endpoints, store, None, f"\0{ALICE}\0{password}", "PLAIN").startswith("OK")
    assert login(endpoints, store, certificate(ALICE), f"\0{ALICE}\0{password}", "PLAIN").startswith("OK")
    assert login(endpoints, store, certificate(ALICE), f"\0{ALICE}\0", "PLAIN").startswith("NO")
    assert login(endpoints, store, certificate(BOB), f"\0{ALICE}\0{password}", "PLAIN").startswith(REFUSED), "the certificate says who it is"


@pytest.mark.feature("D4")
def test_a_certificate_is_a_login_at_courier_too(here: Program, endpoints: dict[str, Any], certificate: Any, tmp_path: Path) -> None:
    here("user", "add", "dora@example.test", "--generate")
    alice, dora, fresh = map(certificate, (ALICE, "dora@example.test", "o'fresh@inbox.example.test"))
    password = next(account["password"] for account in endpoints["accounts"] if account["address"] == ALICE)
    for shown, name in [(alice, ALICE), (alice, ""), (dora, "dora@example.test"), (fresh, "o'fresh@inbox.example.test")]:
        assert login(endpoints, "courier", shown, name).startswith("OK")
    assert login(endpoints, "courier", alice, ALICE, listener="pop3s").startswith("+OK")
    assert login(endpoints, "courier", None, f"\0{ALICE}\0{password}", "PLAIN").startswith("OK")
    here("user", "delete", "dora@example.test")
    other = tmp_path / "other.pem"
    made = ca.make_client(ca.make_ca(None, datetime.now(UTC)), ALICE, datetime.now(UTC))
    other.write_bytes(made.key + made.certificate)
    refused = [(None, ALICE), (certificate(BOB), ALICE), (dora, "dora@example.test"), ((str(here.state / "cert.pem"), str(here.state / "key.pem")), ALICE)]

    def answer(case: tuple[Any, str], listener: str = "imaps") -> str:
        return login(endpoints, "courier", *case, listener=listener)

    with ThreadPoolExecutor() as pool:  # each waits for 5 s, whatever is set
        assert all(said.startswith("NO Login failed") for said in pool.map(answer, refused))
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):  # another CA's: there is no session at all
        answer((((str(other),) * 2), ALICE))


@pytest.mark.feature("D4")
@pytest.mark.parametrize("store", ["sdbox", "old-sdbox", "courier"])
def test_a_certificate_that_was_taken_back_is_no_login(here: Program, endpoints: dict[str, Any], store: str) -> None:
    who, other = f"lost-{store}@inbox.example.test", f"kept-{store}@inbox.example.test"

    def made(whose: str) -> tuple[str, str]:
        found = here("certs", "client", whose, "--json").json
        pair = tuple(Path(found[what]).with_name(f"{os.urandom(4).hex()}.pem") for what in ("certificate", "key"))
        for what, path in zip(("certificate", "key"), pair, strict=True):
            path.write_bytes(Path(found[what]).read_bytes())
        return str(pair[0]), str(pair[1])

    first, second, others = made(who), made(who), made(other)
    for shown in (first, second):
        assert login(endpoints, store, shown, who).startswith("OK")
    gone = here("certs", "revoke", who, "--json").json
    assert gone["address"] == who and len(gone["revoked"]) == 2
    until(lambda: refused(endpoints, store, first, who), 10, "the list of revoked certificates")
    for shown in (first, second):
        for listener in ("imaps", "pop3s"):
            assert not login(endpoints, store, shown, who, listener=listener).startswith(("OK", "+OK"))
    assert login(endpoints, store, others, other).startswith("OK")
    assert login(endpoints, store, made(who), who).startswith("OK"), "a new one is none of those"
    assert login(endpoints, store, None, f"\0{who}\0{endpoints['disposable']['password']}", "PLAIN").startswith("OK")


@pytest.mark.feature("A3")
def test_who_has_no_certificate_has_none_to_take_back(here: Program) -> None:
    here("certs", "client", "twice@inbox.example.test")
    here("certs", "revoke", "twice@inbox.example.test")
    for who in ("twice@inbox.example.test", "nobody@example.test"):
        assert "has no certificate" in here("certs", "revoke", who, code=2).err


@pytest.mark.feature("D4")
def test_where_external_is_not_on_no_certificate_counts(endpoints: dict[str, Any], certificate: Any) -> None:
    for store in ("mdbox", "old-mdbox"):
        assert "unsupported" in login(endpoints, store, certificate(ALICE), ALICE).lower()


@pytest.mark.feature("D4")
def test_a_user_of_this_moment_has_a_certificate_that_ends_with_the_account(here: Program, endpoints: dict[str, Any], certificate: Any) -> None:
    here("certs", "client", "carol@example.test", code=2)
    here("user", "add", "carol@example.test", "--generate")
    carol = certificate("carol@example.test")
    for store in ("sdbox", "old-sdbox"):
        assert login(endpoints, store, carol).startswith("OK")
    here("user", "delete", "carol@example.test")
    for store in ("sdbox", "old-sdbox"):
        until(lambda store=store: refused(endpoints, store, carol), 10, store)  # type: ignore[misc]
    here("user", "add", "carol@example.test", "--generate")
    for store in ("sdbox", "old-sdbox", "courier"):
        until(lambda store=store: refused(endpoints, store, carol, "carol@example.test"), 10, store)  # type: ignore[misc]  # another account of this name
    here("user", "delete", "carol@example.test")


@pytest.mark.feature("A3")
def test_certs_shows_the_certificates_of_sni_and_refuses_who_has_no_mailbox(here: Program) -> None:
    assert [one["names"] for one in here("certs", "--json").json["sni"]] == [[OTHER], ["mx.example.test"]]
    for who in ("nobody@example.test", "../../x@inbox.example.test"):
        assert who in here("certs", "client", who, code=2).err


# --- Down and up again


@pytest.mark.feature("D4")
@EVERYBODY
def test_an_older_version_than_the_least_is_refused(again: dict[str, Any], service: str) -> None:
    assert handshake(again, service)[1] == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(again, service, maximum_version=ssl.TLSVersion.TLSv1_2)


@pytest.mark.feature("D3")
@pytest.mark.parametrize("store", DBOX)
def test_mail_outlives_the_containers(again: dict[str, Any], kept: dict[str, bytes], store: str) -> None:
    assert read(again, store, "kept@inbox.example.test") == [kept[store]]


@pytest.mark.feature("D5")
@pytest.mark.parametrize("store", STORES)
def test_a_listener_that_is_not_named_is_closed(again: dict[str, Any], store: str) -> None:
    part = again["stores"][store]
    here = [name for name in LISTENERS if name != "sieve" or store != "courier"]
    there = FEW.get(store, here)
    assert [name for name in LISTENERS if part[name]] == there
    published = docker("port", part["container"]).splitlines()
    assert sorted(line.partition("/")[0] for line in published) == sorted(str(LISTENERS[name]) for name in there)
    sockets = [line.split() for line in inside(again, store, "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()]
    listening = {int(fields[1].rpartition(":")[2], 16) for fields in sockets if fields[3] == "0A"}  # TCP_LISTEN
    assert [name for name, port in LISTENERS.items() if port in listening] == there, "the server itself does not listen"


@pytest.mark.feature("D5")
def test_the_suite_leaves_out_what_is_closed(again: dict[str, Any]) -> None:
    outcomes = scenarios.run(again, only=r"^(reading_verifies_the_certificate|no_service_reaches_anything_outside)\[", jobs=8)
    skipped = {(one.case.store, one.case.way_out) for one in outcomes if "no open listener" in one.reason}
    assert skipped == {(store, way) for store, there in FEW.items() for way in scenario.WAYS_OUT if way not in there}
    assert not [report.failure(one) for one in outcomes if one.verdict == "failed"]
