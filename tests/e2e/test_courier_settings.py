"""Courier's own settings by pass-through: each has its effect in the store `own`, and the store `plain` beside it does not have it."""

from __future__ import annotations

import imaplib
import poplib
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from conftest import NAME
from program import Program, docker, until

from stackctl.backends import all_backends
from stackctl.known import names

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D5")]
# Courier counts the days of IMAP_EMPTYTRASH in seconds of 32 bits: so many are none, and a message of a second ago is old enough.
AT_ONCE = 2**25
FILE = f"""\
stores:
  - name: own
    backend: courier
    settings:
      imapd:
        ADDRESS: 0.0.0.0
        MAILDIRPATH: Mail
        IMAP_CAPABILITY: IMAP4rev1
        IMAP_CAPABILITY_TLS: IMAP4rev1 IDLE QUOTA XOWN AUTH=PLAIN
        IMAP_EMPTYTRASH: Old:{AT_ONCE}
        IMAP_TRASHFOLDERNAME: Bin
        IMAP_MOVE_EXPUNGE_TO_TRASH: 1
        IMAP_LOG_DELETIONS: 1
        IMAP_IDLE_TIMEOUT: 900
      pop3d: {{MAILDIRPATH: Mail, POP3_LOG_DELETIONS: 1, POP3AUTH_TLS: LOGIN}}
      authdaemonrc: {{DEBUG_LOGIN: 1}}
  - {{name: plain, backend: courier, settings: {{imapd: {{IMAP_SHAREDINDEXFILE: /etc/courier/shared/index}}}}}}
users:
  - {{address: alice@example.test, password: of-alice}}
  - {{address: bob@example.test, password: of-bob, quota: 1M}}
"""
BOTH = pytest.mark.parametrize(("store", "own"), [("own", True), ("plain", False)])
MESSAGE = b"Subject: hello\r\n\r\nhello\r\n"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program.started(tmp_path_factory.mktemp("courier"), f"{NAME}-courier", FILE) as program:
        yield program


@pytest.fixture(scope="module")
def endpoints(here: Program) -> dict[str, Any]:
    return here.endpoints


def tls(endpoints: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=endpoints["ca"])
    context.check_hostname = False  # the libraries pass the address on
    return context


def imap(endpoints: dict[str, Any], store: str, local: str) -> imaplib.IMAP4_SSL:
    host, port = endpoints["stores"][store]["imaps"]
    session = imaplib.IMAP4_SSL(host, port, ssl_context=tls(endpoints))
    session.login(f"{local}@example.test", f"of-{local}")
    return session


def pop3(endpoints: dict[str, Any], store: str) -> poplib.POP3_SSL:
    host, port = endpoints["stores"][store]["pop3s"]
    return poplib.POP3_SSL(host, port, context=tls(endpoints))


def container(here: Program, store: str) -> str:
    return docker("ps", "-q", "--filter", f"name=stackctl-{here.name}-{store}-1").strip()


def inside(here: Program, store: str, *argv: str) -> str:
    return docker("exec", container(here, store), *argv)


def logged(here: Program, store: str) -> str:
    """Everything; the engine passes on what the server said to standard error."""
    return here("logs", store).out


def filled(session: imaplib.IMAP4_SSL, *folders: str) -> None:
    """A message in each folder of a mailbox."""
    for folder in folders:
        session.create(folder)
        assert session.append(folder, "", "", MESSAGE)[0] == "OK"


def count(session: imaplib.IMAP4_SSL, folder: str) -> int:
    said = session.select(folder)
    assert said[0] == "OK", said
    return int(said[1][0] or 0)


@BOTH
def test_address(here: Program, store: str, own: bool) -> None:
    """IPv4 alone, for IMAP alone; /proc/net/tcp is proc(5)'s, and 0A a listener."""
    rows = [line.split() for line in inside(here, store, "cat", "/proc/net/tcp").splitlines()]
    assert ([f"00000000:{143:04X}"] if own else []) == [local for _, local, _, state, *_ in rows if state == "0A" and local.startswith("00000000:")]


@BOTH
def test_capabilities(endpoints: dict[str, Any], store: str, own: bool) -> None:
    host, port = endpoints["stores"][store]["imap"]
    with imaplib.IMAP4(host, port) as session:
        assert ("SORT" in session.capabilities, "QUOTA" in session.capabilities) == (not own, not own)
        session.starttls(tls(endpoints))
        assert {"XOWN", "SORT", "AUTH=LOGIN"}.intersection(session.capabilities) == ({"XOWN"} if own else {"SORT", "AUTH=LOGIN"})
    with closing(pop3(endpoints, store)) as session:
        assert session.capa()["SASL"] == (["LOGIN"] if own else ["PLAIN", "LOGIN"])


@BOTH
def test_maildirpath(here: Program, endpoints: dict[str, Any], store: str, own: bool) -> None:
    with imap(endpoints, store, "alice"):
        folders = inside(here, store, "ls", "/var/vmail/example.test/alice").split()
    assert ("Mail" in folders) == own


@BOTH
def test_the_trash_is_emptied(endpoints: dict[str, Any], store: str, own: bool) -> None:
    with imap(endpoints, store, "alice") as session:
        filled(session, "INBOX.Old", "INBOX.Else")
    made = time.time()
    until(lambda: time.time() > made + 1.1)
    with imap(endpoints, store, "alice") as session:
        assert count(session, "INBOX.Old") == (0 if own else 1)
        assert count(session, "INBOX.Else") == 1


@BOTH
def test_what_is_expunged_goes_to_the_trash(here: Program, endpoints: dict[str, Any], store: str, own: bool) -> None:
    with imap(endpoints, store, "alice") as session:
        filled(session, "INBOX.Bin", "INBOX")
        assert count(session, "INBOX") == 1
        session.store("1", "+FLAGS", r"\Deleted")
        session.expunge()
        assert count(session, "INBOX") == 0
        assert count(session, "INBOX.Bin") == (2 if own else 1)
    assert ("XMAGICTRASH" in session.capabilities) == own
    assert bool(re.search(r"INFO: EXPUNGED, user=alice", logged(here, store))) == own


@BOTH
def test_pop3_tells_the_log_what_was_deleted(here: Program, endpoints: dict[str, Any], store: str, own: bool) -> None:
    with imap(endpoints, store, "bob") as session:
        filled(session, "INBOX")
    deleted = r"(?m)DELETED?, user=bob"
    assert not re.search(deleted, logged(here, store))
    reader = pop3(endpoints, store)
    reader.user("bob@example.test")
    reader.pass_("of-bob")
    reader.dele(1)
    reader.quit()
    until(lambda: "LOGOUT, user=bob@example.test" in logged(here, store).partition("stls=1")[2])
    assert bool(re.search(deleted, logged(here, store))) == own


@BOTH
def test_the_login_daemon_tells_each_step(here: Program, endpoints: dict[str, Any], store: str, own: bool) -> None:
    with imap(endpoints, store, "alice"):
        assert ("DEBUG: received auth request, service=imap, authtype=login" in logged(here, store)) == own
    assert "of-alice" not in logged(here, store)  # that is DEBUG_LOGIN: 2


def test_idle_does_not_wait_for_the_next_look(endpoints: dict[str, Any]) -> None:
    """The look is due in 15 minutes; inotify(7) tells at once."""
    with imap(endpoints, "own", "alice") as session, imap(endpoints, "own", "alice") as other:
        before = count(session, "INBOX")
        session.send(b"i IDLE\r\n")
        assert session.readline().startswith(b"+ ")
        other.append("INBOX", "", "", MESSAGE)
        session.sock.settimeout(10)
        assert session.readline() == f"* {before + 1} EXISTS\r\n".encode()
        session.send(b"DONE\r\n")
        until(lambda: session.readline().startswith(b"i OK"))


@pytest.mark.parametrize("store", ["own", "plain"])
def test_the_quota_is_seen(endpoints: dict[str, Any], store: str) -> None:
    with imap(endpoints, store, "bob") as session, imap(endpoints, store, "alice") as boundless:
        filled(session, "INBOX")
        assert re.fullmatch(rb'"ROOT" \(STORAGE \d+ 1024\)', session.getquotaroot("INBOX")[1][1][0])
        assert session.append("INBOX", "", "", b"x" * 1_100_000)[0] == "NO"
        assert boundless.getquotaroot("INBOX")[1][1] == [b'"ROOT"']


@BOTH
def test_a_folder_is_shared_with_whom_its_owner_says(endpoints: dict[str, Any], store: str, own: bool) -> None:
    shared = '"#shared.alice@example test.team"'  # a dot would be the border of a folder
    with imap(endpoints, store, "alice") as alice, imap(endpoints, store, "bob") as bob:
        filled(alice, "INBOX.team", "INBOX.private")
        assert bob.select(shared)[0] == "NO"
        alice.setacl("INBOX.team", "bob@example.test", "lr")
        assert (shared.encode() in b" ".join(row for row in bob.list('""', '"#shared.*"')[1] if row)) == own  # type: ignore[misc]
        assert bob.select(shared.replace("team", "private"))[0] == "NO"
        assert bob.select(shared, readonly=True)[0] == ("OK" if own else "NO")
        if own:
            assert MESSAGE in bob.fetch("1", "(BODY.PEEK[])")[1][0]  # type: ignore[operator]
            assert bob.append(shared, "", "", MESSAGE)[0] == "NO"  # that is the right `i`
        alice.deleteacl("INBOX.team", "bob@example.test")
        assert bob.select(shared)[0] == "NO"


def test_a_user_added_live_can_share(here: Program) -> None:
    here("user", "add", "carol@example.test", "--generate")
    assert "carol@example.test\t5000\t5000\t/var/vmail\t/var/vmail/example.test/carol/Mail\n" in inside(here, "own", "cat", "/etc/stackctl/shared-index")


def test_the_known_names_are_those_of_the_real_server(here: Program) -> None:
    """Debian's own files name them, or a program looks for them."""
    backend = all_backends()["courier"]
    programs = ["/usr/bin/imapd", "/usr/bin/couriertls", "/usr/lib/courier", "/usr/local/lib/stackctl"]
    for file, known in backend.known.items():
        debian = f"/usr/local/lib/stackctl/defaults/{file.replace('_', '-')}"
        theirs = set(inside(here, "plain", "sed", "-nE", r"s/^#? *(export +)?([A-Za-z_]\w+)=.*/\2/p", debian).split())
        there = names(backend.folder / known.names)
        assert theirs and theirs <= there, f"new in {file}: {sorted(theirs - there)}"
        if more := sorted(there - theirs):
            asked = inside(here, "plain", "grep", "-rahowE", "|".join(more), *programs)
            assert set(asked.split()) == set(more), f"gone from {file}: {sorted(set(more) - set(asked.split()))}"
