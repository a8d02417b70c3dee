"""The login host as people use it: logins on pseudo-terminals, mail(1), mutt(1), write(1), wall(1), telnet, and what is on its disk."""

from __future__ import annotations

import email
import mailbox
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from email.policy import compat32
from pathlib import Path
from typing import Any, TypeAlias

import pexpect
import pytest
from conftest import NAME
from program import Program, docker, until

from stackctl.backends import login_host
from stackctl.clients.pop3 import Pop3
from stackctl.clients.smtp import Refused, Smtp
from stackctl.clients.where import Where
from stackctl.labels import VERBS, project_name

pytestmark = pytest.mark.e2e

STACK = f"{NAME}-host"
CONTAINER = f"{project_name(STACK)}-host-1"
HOST = "host.example.test"
ANN = "ann@example.test"
WITHIN = 30  # seconds for an answer on a terminal
FILE = """\
stores: [{backend: dovecot}]
users: [{address: ann@example.test}]
aliases: {both@example.test: [ann@example.test, alice@host.example.test]}
host:
  users:
    - {name: alice, full_name: Alice Example}
    - {name: bob, mailbox: maildir}
    - {name: carol, procmail: true}
    - {name: dave, mailbox: maildir, procmail: true}
    - {name: box, shell: /usr/sbin/nologin}
  motd: |
    Welcome, people.
    Be kind.
  issue: The host at its console
  issue_net: The host from elsewhere
  telnet: true
greetings: {smtp: ready when you are, imap: IMAP for example.test, pop3: POP3 for example.test}
limits: {auth_failure_delay: 0}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack with a login host."""
    with Program.started(tmp_path_factory.mktemp("host"), STACK, FILE) as program:
        yield program


@pytest.fixture(scope="module")
def found(host: Program) -> Any:
    return host("endpoints", "--json", "--secrets").json


Terminal: TypeAlias = "pexpect.spawn[str]"


@contextmanager
def logged_in(host: Program, user: str) -> Iterator[Terminal]:
    """A person at a terminal, at the prompt of their shell."""
    argv = ["-m", "stackctl", "login", user]
    terminal: Terminal = pexpect.spawn(sys.executable, argv, env={**host.env, "TERM": "dumb"}, cwd=host.work, encoding="utf-8", timeout=WITHIN, dimensions=(40, 200))
    try:
        terminal.expect_exact(prompt(user))
        yield terminal
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)


def prompt(user: str) -> str:
    return f"{user}@host:~$ "


def typed(terminal: Terminal, line: str, then: str) -> str:
    """What comes after a line was typed, until `then` is there."""
    terminal.sendline(line)
    terminal.expect_exact(line)
    terminal.expect_exact(then)
    return str(terminal.before)


def sh(script: str, user: str = "alice") -> bytes:
    """What a person's shell prints for a script, without a terminal: octets as they are."""
    argv = ["docker", "exec", "-i", CONTAINER, f"{VERBS}/login", user, "sh", "-c", script]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def deliver(found: Any, user: str, subject: str, body: str = "Hello.\r\n") -> None:
    """Mail from outside for a system user, or for an address, by the MTA."""
    address = user if "@" in user else f"{user}@{HOST}"
    text = f"From: Zoe <zoe@elsewhere.test>\r\nTo: {address}\r\nSubject: {subject}\r\nMessage-Id: <{subject.replace(' ', '-')}@elsewhere.test>\r\n\r\n{body}"
    with Smtp(Where.of(found, "mta", "smtp")) as smtp:
        smtp.send("zoe@elsewhere.test", [address], text.encode())


def mbox(octets: bytes, tmp_path: Path) -> list[Message]:
    """The messages of an mbox, as Python's reader understands it."""
    path = tmp_path / "mbox"
    path.write_bytes(octets)
    return list(mailbox.mbox(path))


def spool(user: str, subject: str) -> bytes:
    """/var/mail/USER once a message with this subject is in it."""
    return bytes(until(lambda: sh(f"grep -qx 'Subject: {subject}' /var/mail/{user} && cat /var/mail/{user} || true", user), WITHIN, f"{subject} for {user}"))


def maildir(user: str, subject: str) -> tuple[str, bytes]:
    """The file of a Maildir that holds a message with this subject, once there is one: its name and what is in it."""
    name = until(lambda: sh(f"grep -rlx 'Subject: {subject}' Maildir || true", user).decode().strip(), WITHIN, f"{subject} for {user}")
    return name, sh(f"cat '{name}'", user)


def of_ann(found: Any, subject: str) -> bytes:
    """The message with this subject in ann's mailbox, once it is there."""
    password = next(one["password"] for one in found["accounts"] if one["address"] == ANN)

    def look() -> bytes:
        with Pop3(Where.of(found, "dovecot", "pop3s")) as pop3:
            pop3.login(ANN, password)
            every = [pop3.retr(number) for number in range(1, pop3.stat()[0] + 1)]
        return next((one for one in every if f"\r\nSubject: {subject}\r\n".encode() in one), b"")

    return bytes(until(look, WITHIN, subject))


# --- mail(1)


@pytest.mark.feature("C6")
def test_mail_sends_from_a_script_with_copies_and_an_attachment(host: Program, found: Any) -> None:
    script = f"printf 'a,b\\n1,2\\n' >data.csv; printf 'See the table.\\n' | mail -s 'the numbers' -c carol -b bob -a data.csv {ANN}"
    host("login", "alice", "sh", "-c", script)
    octets = of_ann(found, "the numbers")
    message = email.message_from_bytes(octets, policy=compat32)
    assert (message["From"], message["To"]) == (f"Alice Example <alice@{HOST}>", ANN)
    assert message["Cc"] == f"carol@{HOST}" and message["Bcc"] is None and b"bob" not in octets
    text, table = (part for part in message.walk() if not part.is_multipart())
    assert text.get_payload(decode=True) == b"See the table.\r\n"
    assert (table.get_filename(), table.get_payload(decode=True)) == ("data.csv", b"a,b\r\n1,2\r\n")
    assert b"See the table." in spool("carol", "the numbers")
    assert b"See the table." in maildir("bob", "the numbers")[1]


@pytest.mark.feature("C6")
def test_mail_that_cannot_be_sent_comes_back(host: Program) -> None:
    host("login", "alice", "sh", "-c", f"echo | mail -s 'for nobody' nobody-here@{HOST}")
    assert b'unknown user: "nobody-here"' in spool("alice", "Undelivered Mail Returned to Sender")


@pytest.mark.feature("C6")
def test_mail_reads_replies_deletes_and_saves(host: Program, found: Any, tmp_path: Path) -> None:
    sh(": >/var/mail/alice; echo 'set line-editor-disable' >.mailrc")  # a program reads more easily what is not redrawn
    for subject in ("first of three", "second of three", "third of three"):
        host("login", "bob", "sh", "-c", f"echo 'This is the {subject}.' | mail -s '{subject}' alice")
        spool("alice", subject)
    with logged_in(host, "alice") as terminal:
        listed = typed(terminal, "mail", "\n? ")
        assert re.findall(r"(\w+) of three", listed) == ["first", "second", "third"]
        assert "This is the first of three." in typed(terminal, "type 1", "\n? ")
        typed(terminal, "reply 1", "Re: first of three")
        terminal.sendline("I have read it.\n~.")
        terminal.expect_exact("Send this message [yes/no, empty: recompose]? ")
        typed(terminal, "yes", "? ")
        typed(terminal, "delete 2", "? ")
        typed(terminal, "save 3 kept", "\n? ")
        typed(terminal, "quit", prompt("alice"))
    name, answer = maildir("bob", "Re: first of three")
    assert name and b"I have read it.\n" in answer and b"\nIn-Reply-To: <" in answer
    assert [one["Subject"] for one in mbox(sh("cat kept"), tmp_path)] == ["third of three"]
    left = [one["Subject"] for one in mbox(sh("cat /var/mail/alice"), tmp_path)]
    assert [subject for subject in left if not subject.startswith("Re: ")] == ["first of three", "third of three"]  # Debian has `set keepsave`


@pytest.mark.feature("C6", "C1")
def test_mail_reads_a_maildir(host: Program, found: Any) -> None:
    deliver(found, "bob", "in a directory")
    name, _ = maildir("bob", "in a directory")
    assert re.fullmatch(r"Maildir/new/\d+\.V[0-9a-f]+I[0-9a-f]+M\d+\.host\.example\.test", name)
    with logged_in(host, "bob") as terminal:
        assert "in a directory" in typed(terminal, "mail", "\n? ")
        assert "Hello." in typed(terminal, "type $", "\n? ")
        typed(terminal, "quit", prompt("bob"))
        seen, _ = maildir("bob", "in a directory")
        assert seen.startswith("Maildir/cur/") and seen.endswith("S")
        typed(terminal, "mail", "\n? ")
        typed(terminal, "delete $", "? ")
        typed(terminal, "quit", prompt("bob"))
    assert not sh("grep -rlx 'Subject: in a directory' Maildir || true", "bob")


@pytest.mark.feature("C6")
def test_mutt_sends_and_reads(host: Program, found: Any) -> None:
    host("login", "alice", "sh", "-c", f"echo 'By mutt.' | mutt -s 'from a mutt' -- {ANN}")
    assert b"By mutt." in of_ann(found, "from a mutt")
    deliver(found, "alice", "for a mutt", "Woof.\r\n")
    spool("alice", "for a mutt")
    with logged_in(host, "alice") as terminal:
        terminal.sendline("TERM=xterm mutt")
        terminal.expect_exact("Mail does not exist. Create it?")
        terminal.send("n")
        terminal.expect_exact("for a mutt")
        terminal.send("*\r")
        terminal.expect_exact("Woof.")
        terminal.send("q")
        terminal.send("x")
        terminal.expect_exact(prompt("alice"))


# --- Terminals


@pytest.mark.feature("C7")
def test_write_and_wall_reach_who_is_logged_in(host: Program) -> None:
    with logged_in(host, "alice") as alice, logged_in(host, "bob") as bob:
        bob.sendline("write alice")
        bob.sendline("Lunch?")
        alice.expect(r"Message from bob@\S+ on pts/\d+ at [\d:]+ \.\.\.\s+Lunch\?")
        bob.sendeof()
        alice.expect_exact("EOF")
        bob.expect_exact(prompt("bob"))
        bob.sendline("echo 'The system goes down.' | wall")
        alice.expect(r"Broadcast message from bob@[^\r]+\s+The system goes down\.")
        typed(bob, "", prompt("bob"))
        typed(alice, "mesg n", prompt("alice"))
        assert "has messages disabled" in typed(bob, "write alice", prompt("bob"))
    with logged_in(host, "bob") as bob:
        until(lambda: "alice is not logged in" in typed(bob, "write alice", prompt("bob")), WITHIN, "the end of alice's login")


@pytest.mark.feature("C7")
def test_texts_before_and_after_a_login(host: Program, found: Any) -> None:
    password = next(one["password"] for one in found["host"]["accounts"] if one["name"] == "bob")
    with logged_in(host, "alice") as terminal:
        assert re.search(r"The host at its console\s.*Welcome, people\.\s+Be kind\.", str(terminal.before), re.DOTALL)
        before = typed(terminal, "telnet localhost", "login: ")
        assert "The host from elsewhere" in before and "console" not in before
        for secret, answer in (("wrong", "Login incorrect"), (password, "Be kind.")):
            if secret == password:
                terminal.expect_exact("login: ")
            terminal.sendline("bob")
            terminal.expect_exact("Password: ")
            terminal.sendline(secret)
            terminal.expect_exact(answer)
        terminal.expect_exact(prompt("bob"))
        typed(terminal, "exit", prompt("alice"))


@pytest.mark.feature("C7")
@pytest.mark.parametrize(
    ("service", "listener", "greeting"),
    [
        ("mta", "smtp", b"220 mail.example.test ready when you are\r\n"),
        ("mta", "submission", b"220 mail.example.test ready when you are\r\n"),
        ("dovecot", "imap", rb"* OK \[CAPABILITY [^]]+\] IMAP for example.test" + b"\r\n"),
        ("dovecot", "pop3", b"+OK POP3 for example.test\r\n"),
    ],
)
def test_servers_greet_as_stack_yaml_says(found: Any, service: str, listener: str, greeting: bytes) -> None:
    place = Where.of(found, service, listener)
    with socket.create_connection((place.host, place.port), 10) as connection, connection.makefile("rb") as said:
        line = said.readline()
    assert re.sub(rb"\[CAPABILITY [^]]+\]", rb"\\[CAPABILITY [^]]+\\]", line) == greeting


# --- The disk


@pytest.mark.feature("C1")
@pytest.mark.parametrize("line", ["From the start, it was so.", "From zoe@elsewhere.test Tue Nov 24 08:00:00 2026", ">From before"])
def test_a_from_line_in_a_body_survives(found: Any, tmp_path: Path, line: str) -> None:
    subject = f"a line {len(line)}"
    body = f"One.\r\n\r\n{line}\r\nTwo.\r\n"
    for user in ("alice", "bob"):
        deliver(found, user, subject, body)
    octets = spool("alice", subject)
    [one] = [one for one in mbox(octets, tmp_path) if one["Subject"] == subject]
    shown = f">{line}" if line.startswith("From ") else line
    assert one.get_payload() == f"One.\n\n{shown}\nTwo.\n"
    assert one.get_from().startswith("zoe@elsewhere.test  ") and one["Return-Path"] == "<zoe@elsewhere.test>"  # type: ignore[attr-defined]
    assert maildir("bob", subject)[1].partition(b"\n\n")[2] == f"One.\n\n{line}\nTwo.\n".encode()


WRITERS = r"""
post() { # writer number
    { printf 'From: writer@example.test\nTo: alice\nSubject: %s-%s\n\nbegin %s-%s\n' $1 $2 $1 $2
      i=0; while [ $i -lt 200 ]; do echo "line $i of $1-$2"; i=$((i + 1)); done
      echo "end $1-$2"; }
}
ten() { for n in 1 2 3 4 5 6 7 8 9 10; do post $1 $n | $2; done; }
take() { procmail -f writer LOCKSLEEP=1 /dev/null; }
{
    ten local '/usr/sbin/sendmail alice' &
    ten other '/usr/sbin/sendmail alice' &
    ten filed take &
    ten again take &
    wait
    touch written
} &
until [ -e written ]; do printf 'type *\nexit\n' | mail -R -N >>seen 2>&1; done &
until [ -e written ]; do printf 'type *\nquit\n' | mail -N -S nohold >>moved 2>&1; done
wait
"""


@pytest.mark.feature("C1")
def test_four_writers_and_two_readers_share_an_mbox(tmp_path: Path) -> None:
    """Two senders by local(8), two by procmail(1); one reader moves what it has read to ~/mbox, one only reads."""
    sh(WRITERS)
    numbers = {f"{writer}-{number}" for writer in ("local", "other", "filed", "again") for number in range(1, 11)}

    def arrived() -> list[Message]:
        return [one for one in mbox(sh("cat /var/mail/alice mbox 2>/dev/null || true"), tmp_path) if one["Subject"] in numbers]

    until(lambda: {one["Subject"] for one in arrived()} == numbers, WITHIN, "every message")
    every = arrived()
    assert sh("grep -c '^From ' mbox") > b"0" and b"line 199 of " in sh("cat seen")  # the readers have read
    assert len(every) == 40, sorted(str(one["Subject"]) for one in every)
    for one in every:
        who = one["Subject"]
        assert one.get_payload() == "".join([f"begin {who}\n", *(f"line {n} of {who}\n" for n in range(200)), f"end {who}\n"])


# --- What people decide for their own mail


@pytest.mark.feature("B6")
def test_a_forward_file_leads_mail_on(host: Program, found: Any) -> None:
    deliver(found, "alice", "before the forward")
    spool("alice", "before the forward")
    try:
        sh(r"""printf '%s\n' '\alice, ann@example.test' '"|cat >>$HOME/piped"' >.forward""")
        deliver(found, "alice", "with the forward")
        of_ann(found, "with the forward")
        spool("alice", "with the forward")
        until(lambda: b"Subject: with the forward\n" in sh("cat piped || true"), WITHIN, "the pipe")
    finally:
        sh("rm .forward")
    password = next(one["password"] for one in found["accounts"] if one["address"] == ANN)
    with Pop3(Where.of(found, "dovecot", "pop3s")) as pop3:
        pop3.login(ANN, password)
        assert not [n for n in range(1, pop3.stat()[0] + 1) if b"Subject: before the forward" in pop3.retr(n)]


def test_an_alias_of_the_stack_leads_to_the_host_too(found: Any) -> None:
    deliver(found, "both@example.test", "for both")
    of_ann(found, "for both")
    spool("alice", "for both")


@pytest.mark.feature("C5")
def test_procmail_files_by_a_persons_own_recipes(found: Any) -> None:
    for user in ("carol", "dave"):
        sh(r"printf ':0:\n* ^Subject: file me\nfiled\n' >.procmailrc", user)
        for subject in ("file me", "leave me"):
            deliver(found, user, subject)
        until(lambda user=user: b"Subject: file me" in sh("cat filed || true", user), WITHIN, "filed")  # type: ignore[misc]
    assert b"Subject: leave me" in spool("carol", "leave me")
    assert maildir("dave", "leave me")[0].startswith("Maildir/new/")
    for user in ("carol", "dave"):
        assert re.findall(rb"^Subject: (.*)$", sh("cat filed", user), re.MULTILINE) == [b"file me"]
    assert b"file me" not in sh("cat /var/mail/carol", "carol")


# --- Who gets in


def test_only_people_of_the_host_have_mail_and_logins_there(host: Program, found: Any) -> None:
    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        deliver(found, "nobody-here", "for nobody")
    refused = host("login", "nobody-here", code=2)
    assert "nobody-here has no login on the host" in refused.err and "alice, bob, carol" in refused.err
    assert host("login", "alice", "sh", "-c", "exit 7", code=7).out == ""
    host("login", "box", "id", code=1)
    assert "serves host.example.test already" in host("domain", "add", HOST, code=2).err
    deliver(found, "box", "a mailbox without a login")
    until(lambda: "a mailbox without a login" in docker("exec", CONTAINER, "cat", "/var/mail/box"), WITHIN)


@pytest.mark.feature("D7")
def test_a_person_added_while_it_runs_logs_in_at_once(host: Program, found: Any) -> None:
    try:
        with logged_in(host, "alice") as terminal:
            host.write(FILE.replace("    - {name: box", "    - {name: eve, password: 'horse $& \"staple'}\n    - {name: box"))
            host("up")
            assert host("login", "eve", "id", "-un").out == "eve\n"
            deliver(found, "eve", "welcome eve")
            spool("eve", "welcome eve")
            terminal.sendline("telnet localhost")
            for asked, answer in (("login: ", "eve"), ("Password: ", 'horse $& "staple')):
                terminal.expect_exact(asked)
                terminal.sendline(answer)
            terminal.expect_exact(prompt("eve"))
            typed(terminal, "exit", prompt("alice"))
    finally:
        host.write(FILE)
        host("up")
    host("login", "eve", "id", code=2)
    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        deliver(found, "eve", "farewell eve")


def test_the_host_keeps_its_secrets_and_has_no_way_to_root(host: Program, found: Any) -> None:
    passwords = [one["password"] for one in found["host"]["accounts"]]
    told = docker("inspect", CONTAINER) + docker("exec", CONTAINER, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
    told += docker("logs", CONTAINER) + (host.state / "compose.yaml").read_text()
    assert passwords and not [password for password in passwords if password in told] and "$2b$" not in told
    assert sh("cat /etc/stackctl/passwords /etc/shadow /run/extrausers/shadow 2>&1 || true").count(b"Permission denied") == 3
    assert docker("exec", CONTAINER, "find", "/", "-xdev", "-perm", "/4000") == ""
    assert b"Read-only file system" in docker("exec", CONTAINER, "sh", "-c", "touch /usr/x 2>&1 || true").encode()
    given = docker("inspect", "--format", "{{join .HostConfig.CapAdd \",\"}} {{.HostConfig.CapDrop}}", CONTAINER).split()
    assert {one.removeprefix("CAP_") for one in given[0].split(",")} == set(login_host().container.capabilities) and given[1] == "[ALL]"
    ports = docker("port", CONTAINER).split()
    assert ports and all(place.startswith("127.0.0.1:") for place in ports[2::3])
