"""Reset and snapshots of a running stack: what is gone, what stays, and what IMAP sessions see of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from program import Program, docker, until

from stackctl import contents, faults, live, preload, queue, reset, running, state
from stackctl.cli import app
from stackctl.clients.failure import AuthRefused
from stackctl.clients.imap import Imap
from stackctl.clients.smtp import Smtp
from stackctl.clients.where import Where
from stackctl.errors import CheckFailed, StackctlError, UsageError

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A6")]

NAME = f"rst{os.getpid()}"
ALICE = "alice@example.test"
HELD = "held@elsewhere.example"  # whose mail stays in the queue until it is released
# Two servers on Maildirs, and one of a format whose files are written to again and again.
FORMATS = {"dovecot": "{name: dovecot, backend: dovecot}", "courier": "{name: courier, backend: courier}"}
FORMATS["old"] = '{name: old, backend: dovecot, version: "2.3", mailbox: mdbox}'
STORES = list(FORMATS)
FILE = f"""\
name: {NAME}
stores: [{", ".join(FORMATS.values())}]
users: [{{address: {ALICE}}}, {{address: bob@example.test, password: of-the-file}}]
mta:
  settings: {{main_cf: {{smtpd_end_of_data_restrictions: "check_sender_access inline:{{ {HELD}=HOLD }}"}}}}
limits: {{auth_failure_delay: 0}}
"""


@dataclass
class Stack:
    """A stack that is up, known to this process."""

    program: Program

    @property
    def known(self) -> state.State:
        return running.named(NAME)

    def imap(self, store: str, who: str = ALICE, password: str = "") -> Imap:
        known = self.known
        session = Imap(Where.of(known.endpoints, store, "imaps"))
        session.login(who, password or running.password_of(known, who))
        return session

    def fill(self, store: str) -> None:
        """Two messages in the INBOX, one of them flagged, and one in a folder."""
        with self.imap(store) as imap:
            folder = f"{imap.prefix}Kept"
            if folder not in imap.folders():
                imap.create(folder)
            for mailbox, flags in (("INBOX", ["\\Flagged", "\\Seen"]), ("INBOX", []), (folder, [])):
                imap.append(b"Subject: here\r\n\r\nhere\r\n", mailbox, flags)

    def seen(self, store: str) -> dict[str, tuple[int, int, dict[int, tuple[bytes, ...]]]]:
        """Of the INBOX and each folder that a person made: UIDVALIDITY, UIDNEXT, and the flags of each UID, \\Recent aside."""
        found = {}
        with self.imap(store) as imap:
            for folder in (folder for folder in imap.folders() if folder.endswith(("INBOX", "Kept"))):
                numbers = imap.library.folder_status(folder, ["UIDVALIDITY", "UIDNEXT"])
                imap.select(folder, readonly=True)
                flags = imap.library.get_flags(imap.uids()) if imap.uids() else {}
                kept = {uid: tuple(sorted(flag for flag in all_ if flag != b"\\Recent")) for uid, all_ in flags.items()}
                found[folder] = (numbers[b"UIDVALIDITY"], numbers[b"UIDNEXT"], kept)
        return found

    def counts(self, store: str) -> dict[str, int]:
        """How many messages are in each of these folders."""
        return {folder.rpartition(".")[2]: len(flags) for folder, (_, _, flags) in self.seen(store).items()}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, in this process's environment too."""
    with Program.started(tmp_path_factory.mktemp("reset"), NAME, FILE) as program, pytest.MonkeyPatch.context() as patch:
        for key in ("STACKCTL_STATE", "CAROOT", "STACKCTL_NAME"):
            patch.setenv(key, program.env[key])
        patch.chdir(program.work)
        yield Stack(program)


@pytest.mark.parametrize("store", STORES)
def test_messages_are_gone_and_folders_stay(stack: Stack, store: str) -> None:
    stack.fill(store)
    before = stack.seen(store)
    with stack.imap(store) as imap:
        imap.select("INBOX")
        reset.reset(stack.known, "messages")
        assert imap.ask("NOOP").get("EXPUNGE"), "an open session sees them go"
        assert imap.uids() == []
    after = stack.seen(store)
    assert {folder: (validity, following) for folder, (validity, following, _) in after.items()} == {
        folder: (validity, following) for folder, (validity, following, _) in before.items()
    }
    assert set(stack.counts(store).values()) == {0}


@pytest.mark.parametrize("store", STORES)
def test_mailboxes_are_as_before_the_first_message(stack: Stack, store: str) -> None:
    stack.fill(store)
    known_before = {(folder, validity, uid) for folder, (validity, _, flags) in stack.seen(store).items() for uid in flags}
    assert len(known_before) == 3
    reset.reset(stack.known, "mailboxes")
    assert stack.counts(store) == {"INBOX": 0}
    stack.fill(store)
    after = {(folder, validity, uid) for folder, (validity, _, flags) in stack.seen(store).items() for uid in flags}
    assert len(after) == 3
    assert not after & known_before, "a client that remembers a message must not take another one for it"


def test_what_a_person_left_who_is_no_user_any_more_goes_too(stack: Stack) -> None:
    carol = "carol@example.test"
    live.user_add(stack.known, carol)
    for store in STORES:
        with stack.imap(store, carol) as imap:
            imap.append(b"Subject: left\r\n\r\nleft\r\n")
    live.user_delete(stack.known, carol)
    reset.reset(stack.known, "messages")
    live.user_add(stack.known, carol)
    for store in STORES:
        with stack.imap(store, carol) as imap:
            assert imap.select("INBOX")["EXISTS"] == 0


def test_accounts_are_what_the_file_says(stack: Stack) -> None:
    reset.reset(stack.known, "accounts")
    users, aliases = live.users(stack.known), live.alias_list(stack.known)
    passwords = {who: running.password_of(stack.known, who) for who, _ in users}
    live.user_password(stack.known, ALICE, "another-one")
    live.user_delete(stack.known, "bob@example.test")
    live.user_add(stack.known, "carol@example.test", "hers")
    live.alias_set(stack.known, "team@example.test", [ALICE])
    faults.put(stack.known, ALICE, reply=450)
    reset.reset(stack.known, "mailboxes")
    assert faults.listed(stack.known).number
    stack.imap("dovecot", "carol@example.test", "hers").close()  # another level: they stay
    reset.reset(stack.known, "accounts")
    assert (live.users(stack.known), live.alias_list(stack.known)) == (users, aliases)
    assert {who: running.password_of(stack.known, who) for who, _ in users} == passwords
    assert faults.listed(stack.known).number == 0
    for store in STORES:
        for who in (ALICE, "bob@example.test"):
            stack.imap(store, who, passwords[who]).close()
    for who, password in ((ALICE, "another-one"), ("carol@example.test", "hers")):
        with pytest.raises(AuthRefused):
            stack.imap("dovecot", who, password)


def test_a_snapshot_comes_back_with_uids_and_flags(stack: Stack) -> None:
    reset.reset(stack.known, "mailboxes")
    for store in STORES:
        stack.fill(store)
    before = {store: stack.seen(store) for store in STORES}
    contents.save(stack.known, "seeded")
    sessions = {store: stack.imap(store) for store in STORES}
    for store, imap in sessions.items():
        imap.select("INBOX")
        imap.library.set_flags(imap.uids()[1:], ["\\Answered"])
        imap.delete(imap.uids()[:1])
        imap.append(b"Subject: later\r\n\r\nlater\r\n")
        imap.library.delete_folder(f"{imap.prefix}Kept")
        assert stack.seen(store) != before[store]
    for _ in range(2):  # it is still there after the first time
        contents.restore(stack.known, "seeded")
        assert {store: stack.seen(store) for store in STORES} == before
    for store, imap in sessions.items():
        with pytest.raises(StackctlError):
            imap.ask("NOOP")
        with stack.imap(store) as imap:
            imap.select("INBOX")
            assert {imap.fetch(uid).strip() for uid in imap.uids()} == {b"Subject: here\r\n\r\nhere"}
            imap.append(b"Subject: new\r\n\r\nnew\r\n")
    assert [one.name for one in contents.snapshots(stack.known)] == ["seeded"]
    contents.delete(stack.known, "seeded")
    with pytest.raises(UsageError, match="no snapshot seeded"):
        contents.restore(stack.known, "seeded")
    assert all(stack.counts(store)["INBOX"] == 3 for store in STORES)


def test_the_queue_is_part_of_it(stack: Stack) -> None:
    reset.reset(stack.known)
    known = stack.known
    with Smtp(Where.of(known.endpoints, "mta", "smtp")) as smtp:
        smtp.send(HELD, [ALICE], b"Subject: waits\r\n\r\nwaits\r\n")
    until(lambda: len(queue.messages(known)) == 1, what="the message is on hold")
    contents.save(known, "waiting")
    reset.reset(known)
    assert queue.messages(known) == ()
    contents.restore(known, "waiting")
    [one] = queue.messages(known)
    assert (one.queue_name, one.sender, {recipient.store for recipient in one.recipients}) == (queue.HOLD, HELD, set(STORES))
    assert queue.change(known, "release", [queue.ALL]) == 1
    for store in STORES:
        with stack.imap(store) as imap:
            assert len(imap.wait(subject="waits", timeout=30)) == 1
    contents.delete(known, "waiting")


def test_everything_takes_the_snapshots_too(stack: Stack) -> None:
    contents.save(stack.known, "a")
    reset.reset(stack.known, "accounts")
    assert len(contents.snapshots(stack.known)) == 1
    reset.reset(stack.known, "everything")
    assert contents.snapshots(stack.known) == ()
    for service in ("mta", *STORES):
        assert "snapshots/a" not in docker("exec", stack.known.containers[service], "find", "/var/vmail", "/var/spool", "-maxdepth", "3")


def test_a_snapshot_of_other_stores_changes_nothing(stack: Stack) -> None:
    contents.save(stack.known, "other")
    known = stack.known
    known.snapshots["other"]["stores"]["old"] = "dovecot-2.3 maildir"
    state.save(known)
    stack.fill("dovecot")
    before = stack.seen("dovecot")
    with pytest.raises(CheckFailed, match=r"of other stores: .*old \(dovecot-2.3 maildir\).* has .*old \(dovecot-2.3 mdbox\)"):
        contents.restore(known, "other")
    assert stack.seen("dovecot") == before
    contents.delete(known, "other")


def test_a_paused_stack_is_left_alone(stack: Stack) -> None:
    stack.fill("courier")
    before = stack.seen("courier")
    running.pause(stack.known)
    try:
        for refused in (lambda: reset.reset(stack.known), lambda: contents.save(stack.known, "never")):
            with pytest.raises(CheckFailed, match="does not run"):
                refused()
    finally:
        running.resume(stack.known)
    assert stack.seen("courier") == before
    assert contents.snapshots(stack.known) == ()


MBOX = b"""From a@elsewhere.example Thu Jan  2 03:04:05 2020
Subject: first
Status: RO
X-Status: F

>From here on
From a@elsewhere.example Fri Jan  3 03:04:05 2020
Subject: second

text
"""


@pytest.mark.parametrize("kind", ["mbox", "maildir", "eml"])
def test_messages_from_files(stack: Stack, tmp_path: Path, kind: str) -> None:
    texts = [b"Subject: first\n\n>From here on\n", b"Subject: second\n\ntext\n"]
    seconds = [1577934245, 1578020645]  # 2020-01-02 and 2020-01-03, 03:04:05 UTC
    flags = [{b"\\Flagged", b"\\Seen"}, set()]
    path = tmp_path / "there"
    if kind == "mbox":
        path.write_bytes(MBOX)
    else:
        flags = flags if kind == "maildir" else [set(), set()]
        for part in ("cur", "new", "tmp"):
            (path / part).mkdir(parents=True)
        if kind == "eml":
            (path / "new").rmdir()  # a folder as any other
        for name, text, time in zip(("1.a:2,FS", "2.b:2,") if kind == "maildir" else ("1.eml", "2.eml"), texts, seconds, strict=True):
            file = path / "cur" / name
            file.write_bytes(text)
            os.utime(file, (time, time))
    who = f"{kind}@inbox.example.test"
    assert preload.preload(stack.known, path, who) == 2
    for store in STORES:
        with stack.imap(store, who) as imap:
            imap.select("INBOX", readonly=True)
            found = [imap.library.fetch([uid], ["FLAGS", "INTERNALDATE", "BODY.PEEK[]"])[uid] for uid in imap.uids()]
        assert [one[b"BODY[]"].replace(b"\r\n", b"\n") for one in found] == texts
        assert [one[b"INTERNALDATE"].timestamp() for one in found] == seconds
        assert [set(one[b"FLAGS"]) - {b"\\Recent"} for one in found] == flags


def test_files_without_a_message_are_refused(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.eml").write_bytes(b"Subject: one\n\none\n")
    for path, why in (("empty", "no message in it"), ("nowhere", "No such file or directory")):
        with pytest.raises(UsageError, match=why):
            preload.preload(stack.known, tmp_path / path, ALICE)
    with pytest.raises(UsageError, match="is no user"):
        preload.preload(stack.known, tmp_path / "one.eml", "nobody@example.test")
    with pytest.raises(UsageError, match="has no store none"):
        preload.preload(stack.known, tmp_path / "one.eml", ALICE, "none")


def test_the_commands(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        assert app.run(arguments) == code, capsys.readouterr()
        said = capsys.readouterr()
        return said.err if code else said.out

    assert json.loads(run("reset", "--json")) == {"name": NAME, "reset": "messages"}
    assert "one of messages, mailboxes, accounts, everything" in run("reset", "mail", code=2)
    assert set(json.loads(run("snapshot", "save", "one", "--json"))["stores"]) == set(STORES)
    assert "--replace" in run("snapshot", "save", "one", code=2)
    run("snapshot", "save", "one", "--replace")
    (stack.program.work / "one.eml").write_bytes(b"Subject: one\n\none\n")
    assert json.loads(run("preload", "one.eml", "--to", ALICE, "--store", "courier", "--json"))["messages"] == 1
    assert "it has one" in run("snapshot", "restore", "two", code=2)
    assert "is not a name" in run("snapshot", "save", "../one", code=2)
    assert run("snapshot", "restore", "one").startswith("one restored: dovecot, courier, old, taken ")
    assert run("snapshot", "list").splitlines()[1].startswith("one ")
    assert run("snapshot", "delete", "one") == "one deleted.\n"
    assert run("snapshot", "list", "--json") == "[]\n"
    assert "is not up" in run("reset", "--name", "nowhere", code=2)
