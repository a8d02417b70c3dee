"""`stackctl migrate`: a mailbox that real Courier made goes through every store and format, and no client has anything to fetch again."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import NAME, Demo
from imapclient import imap_utf7
from program import Program, docker
from test_real_clients import CA, Place, place  # noqa: F401  # a fixture, on the stack of this file

from stackctl import mailbox, running, state
from stackctl.cli import app
from stackctl.clients.failure import AuthRefused
from stackctl.clients.imap import Imap
from stackctl.clients.managesieve import ManageSieve
from stackctl.clients.where import Where
from stackctl.errors import StackctlError
from stackctl.mailbox import Mailbox

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D9")]

STACK = """\
stores:
  - {backend: courier}
  - {backend: dovecot}
  - {name: old, backend: dovecot, version: "2.3"}
  - {name: mdbox, backend: dovecot, mailbox: mdbox}
  - {name: old-sdbox, backend: dovecot, version: "2.3", mailbox: sdbox}
  - {name: mbox, backend: dovecot, mailbox: mbox}
users: [{address: alice@example.test}]
limits: {auth_failure_delay: 0}
"""
FOLDERS = ["INBOX", "A", "A.B", "A.B.C", "A.B.C.D", "A.B.C.D.E", "Entwürfe & Ablage", "日本.語", "odd ~&-!"]
MARKS: list[tuple[str, ...]] = [(), ("\\Seen",), ("\\Flagged", "$Forwarded"), ("\\Answered", "Work", "\\Draft"), ("\\Deleted", "$Label1", "NonJunk")]
MBSYNC = """\
mkdir -p /home/person/moved/mail && cd /home/person/moved
printf '%s\\n' "IMAPStore far" "Host $host" "Port 993" "TLSType IMAPS" "User $user" "Pass $password" "SystemCertificates no" "CertificateFile $ca" "" \\
    "MaildirStore near" "Path $PWD/mail/" "Inbox $PWD/mail/INBOX" "SubFolders Verbatim" "" \\
    "Channel all" "Far :far:" "Near :near:" "Patterns *" "Create Near" "Sync All" "SyncState *" >mbsyncrc
mbsync --config mbsyncrc --all
"""
NOTHING = "+0 *0 #0 -0"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A stack of every store and every format, in place of that of the session."""
    folder, name = tmp_path_factory.mktemp("moving"), f"{NAME}-moving"
    with Program.started(folder, name, STACK) as program, pytest.MonkeyPatch.context() as patch:
        for key in ("STACKCTL_STATE", "CAROOT"):
            patch.setenv(key, program.env[key])
        known = state.load(name)
        yield Demo(name, program.work / "stack.yaml", program.env, known, running.endpoints(known, secrets=True))


@pytest.fixture
def migrate(demo: Demo, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs `stackctl migrate` within this process; the row of the one mailbox, or the error."""

    def run(source: str, target: str, who: str, *options: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        ended = app.run(["migrate", "--name", demo.name, "--from", source, "--to", target, "--user", who, "--json", *options])
        said = capsys.readouterr()
        assert ended == code, said.out + said.err
        return dict(json.loads(said.out)["mailboxes"][0] if said.out else json.loads(said.err))

    return run


def seen(demo: Demo, store: str, who: str) -> Mailbox:
    return mailbox.read(demo.endpoints, store, who, running.password_of(demo.state, who))


def session(demo: Demo, store: str, who: str) -> Imap:
    imap = Imap(Where.of(demo.endpoints, store, "imaps"))
    imap.login(who, running.password_of(demo.state, who))
    return imap


def fresh(demo: Demo, label: str) -> str:
    return f"{label}-{os.urandom(3).hex()}@{demo.endpoints['disposable']['domain']}"


def message(name: str, number: int) -> bytes:
    return f"From: a@b.example\r\nSubject: {number}\r\nMessage-ID: <{number}.{os.urandom(6).hex()}@b.example>\r\n\r\n{name} {number}\r\n.\r\n".encode()


def fill(demo: Demo, store: str, who: str, folders: list[str], count: int) -> None:
    """Writes a mailbox as a client does: gaps in the UIDs, every flag, keywords, dates of several years and zones, subscriptions."""
    with session(demo, store, who) as imap:
        prefix, library = imap.prefix, imap.library
        for folder in folders:
            name = folder if folder == "INBOX" else prefix + folder
            if folder != "INBOX":
                imap.create(name)
            for number in range(count):
                date = datetime(2003 + number % 20, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=number % 12)))
                library.append(name, message(folder, number), MARKS[number % len(MARKS)], date)
            imap.select(name)
            imap.delete([2, count])  # the last one too: its UID must not come back
        for folder in folders[1::2]:
            library.subscribe_folder(prefix + folder)


@pytest.fixture(scope="module")
def made(demo: Demo) -> tuple[str, Mailbox]:
    """A mailbox that real Courier has, and what its clients see; only read from."""
    who = fresh(demo, "made")
    fill(demo, "courier", who, FOLDERS, 12)
    local, _, domain = who.partition("@")
    for name in ("1700000002.later", "1700000001.earlier"):  # POP3 lists messages by the names of their files, IMAP as they came
        script = f"umask 077; printf 'Subject: {name}\\nMessage-ID: <{name}@b.example>\\n\\nx\\n' >'/var/vmail/{domain}/{local}/Maildir/cur/{name}:2,'"
        docker("exec", "--user", "vmail", demo.state.containers["courier"], "sh", "-c", script)
        last = seen(demo, "courier", who)
    return who, last


def test_clients_have_nothing_to_fetch_again(demo: Demo, place: Place, made: tuple[str, Mailbox], migrate: Callable[..., dict[str, Any]]) -> None:  # noqa: F811
    who, before = made
    assert max(map(len, before.folders)) == 5 and {flag for one in before.messages for flag in one.flags} >= {"$Forwarded", "Work", "\\Deleted"}
    words = {"user": who, "password": running.password_of(demo.state, who), "ca": CA}

    def mbsync(store: str) -> list[str]:
        done = place.run(MBSYNC, host=place.host(store), **words)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"(?:Far|Near): (\+\d+ \*\d+ #\d+ -\d+)", done.stdout + done.stderr)

    assert mbsync("courier") == [NOTHING, f"+{len(before.messages)} *0 #0 -0"]
    before = seen(demo, "courier", who)  # what mbsync left: it marks nothing
    row = migrate("courier", "dovecot", who)
    assert row["same"] and not row["lost"] and row["messages"] == len(before.messages), row
    after = seen(demo, "dovecot", who)
    assert mbsync("dovecot") == [NOTHING, NOTHING]
    assert after.uidls == before.uidls and before.uidls and before.uidls[0].startswith("UID")
    assert [sorted(folder.messages) for folder in before.folders.values()] == [sorted(after.folders[path].messages) for path in before.folders]
    assert seen(demo, "courier", who) == before  # the source is as it was


def test_a_mailbox_goes_through_every_store_and_format(demo: Demo, made: tuple[str, Mailbox], migrate: Callable[..., dict[str, Any]]) -> None:
    who, before = made
    way = ["courier", "mdbox", "old", "old-sdbox", "dovecot", "courier"]
    for source, target in itertools.pairwise(way):
        row = migrate(source, target, who)
        assert row["same"], (source, target, row)
    again = seen(demo, "courier", who)
    assert mailbox.compare(before, again).lost == ()


def sieve(demo: Demo, store: str, who: str) -> ManageSieve:
    opened = ManageSieve(Where.of(demo.endpoints, store, "sieve"))
    opened.login(who, running.password_of(demo.state, who))
    return opened


KEEP, FILE = b"keep;\r\n", b'require "fileinto";\r\nfileinto "Work";\r\n'


@pytest.mark.feature("C3")
def test_sieve_scripts_go_along_where_the_other_store_has_them(demo: Demo, migrate: Callable[..., dict[str, Any]]) -> None:
    who = fresh(demo, "scripts")
    fill(demo, "old", who, ["INBOX"], 3)
    with sieve(demo, "old", who) as there:
        there.put("keep", KEEP)
        there.put('my "own" Regel', FILE)
        there.activate('my "own" Regel')
        with pytest.raises(StackctlError, match="NO"):
            there.put("bad", b"nonsense;\r\n")
    row = migrate("old", "dovecot", who)
    assert row["same"] and not [line for line in row["noticed"] if "Sieve" in line]
    with sieve(demo, "dovecot", who) as here:
        assert here.scripts() == {"keep": False, 'my "own" Regel': True} and here.get('my "own" Regel') == FILE
        here.put("keep", FILE)
        here.activate("keep")
    assert [line for line in migrate("old", "dovecot", who)["noticed"] if "Sieve" in line] == [
        "the Sieve script keep is another one in dovecot, and stays; --replace puts this one in its place"
    ]
    with sieve(demo, "dovecot", who) as here:
        assert here.get("keep") == FILE and here.scripts()["keep"]  # nothing of it was changed unasked
    assert migrate("old", "dovecot", who, "--replace")["same"]
    with sieve(demo, "dovecot", who) as here:
        assert here.get("keep") == KEEP and here.scripts() == {"keep": False, 'my "own" Regel': True}
    told = migrate("old", "courier", who)["noticed"]
    assert {"the Sieve script keep is not kept: courier has none", 'the Sieve script my "own" Regel is not kept: courier has none'} <= set(told)


def test_rights_that_others_have_are_told(demo: Demo, migrate: Callable[..., dict[str, Any]]) -> None:
    who = fresh(demo, "rights")
    fill(demo, "courier", who, ["INBOX", "Work"], 3)
    assert not [line for line in migrate("courier", "dovecot", who)["noticed"] if "rights" in line]
    with session(demo, "courier", who) as imap:
        imap.library.setacl(imap.prefix + "Work", "bob@example.test", "lr")
    row = migrate("courier", "dovecot", who)
    assert row["same"] and [line for line in row["noticed"] if "rights" in line] == ["rights on Work are not kept: bob@example.test lr"]


def test_a_wrong_password_lets_nobody_at_scripts(demo: Demo) -> None:
    with ManageSieve(Where.of(demo.endpoints, "dovecot", "sieve")) as here, pytest.raises(AuthRefused):
        here.login("alice@example.test", "not-the-password")


def test_mbox_files_become_maildirs(demo: Demo, migrate: Callable[..., dict[str, Any]]) -> None:
    who = fresh(demo, "mbox")
    fill(demo, "mbox", who, ["INBOX", "Work"], 6)
    assert migrate("mbox", "dovecot", who)["same"]
    assert migrate("courier", "mbox", who, code=2)["error"].startswith("mbox keeps its mailboxes as mbox")


def test_what_is_not_the_same_is_found_and_mended(demo: Demo, migrate: Callable[..., dict[str, Any]]) -> None:
    who = fresh(demo, "changed")
    fill(demo, "courier", who, ["INBOX", "Work"], 6)
    before = seen(demo, "courier", who)
    assert migrate("courier", "dovecot", who)["same"]
    with session(demo, "dovecot", who) as imap:
        imap.select("Work")
        imap.library.add_flags([3], ["\\Seen"])
        imap.delete([4])
        imap.library.unsubscribe_folder("Work")
    lost = mailbox.compare(before, seen(demo, "dovecot", who)).lost
    assert lost == ("Work: messages missing: 1 (4)", "Work: messages with other flags: 1 (3)", "Work: no longer subscribed to")
    with session(demo, "courier", who) as imap:
        imap.append(message("later", 1))
    assert migrate("courier", "dovecot", who)["same"]
    assert len(seen(demo, "dovecot", who).messages) == len(before.messages) + 1


def test_what_the_target_alone_has_is_not_lost_unasked(demo: Demo, migrate: Callable[..., dict[str, Any]]) -> None:
    who = fresh(demo, "alone")
    fill(demo, "courier", who, ["INBOX"], 4)
    with session(demo, "dovecot", who) as imap:
        imap.append(message("alone", 1))
    before = seen(demo, "dovecot", who)
    for options in (["--dry-run"], []):
        assert "messages that dovecot alone has, and that would be gone: 1;" in migrate("courier", "dovecot", who, *options, code=1)["refused"]
    assert seen(demo, "dovecot", who) == before
    assert migrate("courier", "dovecot", who, "--replace")["same"]


def held(demo: Demo) -> set[str]:
    """Every file in the volumes of two stores: name, time and a digest; but for the indexes of one, which any look is written into."""
    script = "cd /var/vmail && find . -type f ! -name 'dovecot*' -printf '%p %T@ %s\\n' && find . -type f ! -name 'dovecot*' -exec sha256sum {} +"
    return {f"{store}: {line}" for store in ("courier", "dovecot") for line in docker("exec", demo.state.containers[store], "sh", "-c", script).splitlines()}


def test_a_dry_run_changes_nothing(demo: Demo, migrate: Callable[..., dict[str, Any]]) -> None:
    who = fresh(demo, "dry")
    fill(demo, "courier", who, ["INBOX", "Work"], 6)
    seen(demo, "dovecot", who)  # whoever looks first makes a mailbox
    before = held(demo)
    row = migrate("courier", "dovecot", who, "--dry-run")
    assert row["messages"] == 8 and row["folders"] == 2
    assert held(demo) ^ before == set()
    assert not seen(demo, "dovecot", who).messages


def test_an_end_in_the_middle_loses_nothing(demo: Demo, migrate: Callable[..., dict[str, Any]]) -> None:
    who = fresh(demo, "killed")
    fill(demo, "courier", who, ["INBOX", "Work"], 30)
    before = seen(demo, "courier", who)
    argv = [sys.executable, "-m", "stackctl", "migrate", "--name", demo.name, "--from", "courier", "--to", "dovecot", "--user", who]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=demo.environment, cwd=demo.path.parent)
    assert process.stderr and any("messages from courier" in line for line in process.stderr)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert migrate("courier", "dovecot", who)["same"]
    assert seen(demo, "courier", who) == before and mailbox.compare(before, seen(demo, "dovecot", who)).lost == ()


def test_a_maildir_from_elsewhere_is_only_read(demo: Demo, made: tuple[str, Mailbox], migrate: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    who, before = made
    local, _, domain = who.partition("@")
    tar = ["docker", "exec", demo.state.containers["courier"], "tar", "-c", "-C", f"/var/vmail/{domain}/{local}", "Maildir"]
    written = subprocess.run(tar, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(written.stdout)) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / "Maildir"

    def files() -> dict[str, tuple[int, str]]:
        return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in tree.rglob("*") if path.is_file()}

    (tree / "cur" / "link:2,").symlink_to("/etc/passwd")  # no message: whoever makes a Maildir reads no file of a server
    copied, other = files(), fresh(demo, "tree")
    row = migrate("courier", "dovecot", other, "--maildir", str(tree))
    assert row["same"] and row["messages"] == len(before.messages)
    assert files() == copied
    assert mailbox.compare(before, seen(demo, "dovecot", other)).lost == ()
    # As Courier before 5 had the names: in modified UTF-7.
    subscribed = tree / "courierimapsubscribed"
    subscribed.write_bytes(b"".join(imap_utf7.encode(name) + b"\n" for name in subscribed.read_text(encoding="utf-8").splitlines()))
    for folder in tree.glob(".*"):
        folder.rename(folder.with_name(imap_utf7.encode(folder.name).decode()))
    old = fresh(demo, "old")
    assert migrate("courier", "old", old, "--maildir", str(tree))["same"]
    assert mailbox.compare(before, seen(demo, "old", old)).lost == ()
    assert "has messages in courier already" in migrate("courier", "old", other, "--maildir", str(tree), code=1)["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "dovecot", "alice@example.test"], "has no store nowhere"),
        (["courier", "courier", "alice@example.test"], "both courier"),
        (["courier", "dovecot", "nobody@example.test"], "nobody@example.test is no user"),
        (["courier", "dovecot", "../../x@inbox.example.test", "--replace"], "x@inbox.example.test"),
        (["courier", "dovecot", "alice@example.test", "--maildir", "/etc"], "/etc: no Maildir"),
        (["courier", "dovecot", "alice@example.test", "--maildir", "/etc", "--dry-run"], "--maildir with --dry-run"),
    ],
)
def test_what_cannot_be_is_said_at_once(migrate: Callable[..., dict[str, Any]], arguments: list[str], said: str) -> None:
    assert said in migrate(*arguments, code=2)["error"]
