"""Every way to deliver, and the filters on each: real agents write, real servers read. One stack for all of it."""

from __future__ import annotations

import imaplib
import os
import re
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import NAME
from program import Program, until

from stackctl import engine, inventory, report, scenarios
from stackctl.clients.imap import Imap
from stackctl.clients.smtp import Smtp
from stackctl.clients.where import Where
from stackctl.errors import StackctlError

pytestmark = pytest.mark.e2e

STACK = f"{NAME}-ways"
STORES = {
    "lmtp": "{name: lmtp, backend: dovecot}",
    "lda": "{name: lda, backend: dovecot, delivery: dovecot-lda}",
    "procmail": '{name: procmail, backend: dovecot, version: "2.3", delivery: procmail}',
    "maildir": '{name: maildir, backend: dovecot, version: "2.3", delivery: maildir}',
    "mbox": "{name: mbox, backend: dovecot, mailbox: mbox, delivery: mbox}",
    "maildrop": "{name: maildrop, backend: courier, delivery: maildrop}",
    "smtp": "{name: smtp, backend: courier, delivery: smtp}",
}
ALICE, BOB, ADMIN, SMALL = "alice@example.test", "bob@example.test", "admin@example.test", "small@example.test"
FILES = {
    "stack.yaml": f"""
        name: {STACK}
        stores: [{", ".join(STORES.values())}]
        users:
          - {{address: {ALICE}, filters: {{sieve: alice.sieve, procmail: alice.procmailrc, maildrop: alice.mailfilter}}}}
          - {{address: {BOB}}}
          - {{address: {ADMIN}}}
          - {{address: {SMALL}, quota: {{messages: 1}}}}
        filters: {{sieve_before: before.sieve, sieve: default.sieve, procmail: procmailrc, maildrop: mailfilter}}
        limits: {{auth_failure_delay: 0}}
        """,
    "before.sieve": """
        if size :over 2M { discard; stop; }
        if exists "x-virus-found" { redirect "admin@example.test"; stop; }
        """,
    "default.sieve": """
        require ["fileinto", "mailbox"];
        if header :contains "subject" "for the default script" { fileinto :create "Default"; }
        """,
    "alice.sieve": """
        require ["fileinto", "mailbox", "reject", "vacation", "copy"];
        if address :localpart :is "from" "newsletter" { fileinto :create "News"; stop; }
        if allof (header :contains "subject" "both", not exists "x-absent", true) { fileinto :create "Allof"; stop; }
        if anyof (false, header :matches "subject" "any*") { fileinto :create "Anyof"; stop; }
        if header :is "subject" "throw away" { discard; stop; }
        if header :is "subject" "not wanted" { reject "Please do not write to me."; stop; }
        if header :is "subject" "a copy to bob" { redirect :copy "bob@example.test"; keep; stop; }
        if header :is "subject" "are you there" { vacation :days 1 :subject "I am away" "Back on Monday."; }
        """,
    "procmailrc": """
        :0 H
        * ^X-Common: yes
        .Common/
        """,
    "alice.procmailrc": """
        # H: the header, B: the body
        :0 H
        * ^From:.*newsletter@
        .News/

        :0 B
        * body of the matter
        .Body/

        :0 fhw
        * ^Subject: stamp
        | formail -A "X-Stamped: yes"

        :0 c
        * ^Subject: a copy to bob
        ! bob@example.test

        :0
        * ^Subject: into a pipe
        | cat >> $HOME/piped
        """,
    "mailfilter": """
        if (/^X-Common: yes/)
        {
            `test -d "$HOME/Maildir/.Common" || maildirmake -f Common "$HOME/Maildir"`
            to "$HOME/Maildir/.Common/"
        }
        """,
    "alice.mailfilter": """
        if (/^From:.*newsletter@/)
        {
            `test -d "$HOME/Maildir/.News" || maildirmake -f News "$HOME/Maildir"`
            to "$HOME/Maildir/.News/"
        }
        if (/body of the matter/:b)
        {
            `test -d "$HOME/Maildir/.Body" || maildirmake -f Body "$HOME/Maildir"`
            to "$HOME/Maildir/.Body/"
        }
        if (/^Subject: a copy to bob/)
            cc "!bob@example.test"
        """,
}


@dataclass
class Ways:
    """The stack with every way in; `endpoints` hold the passwords."""

    cli: Program
    endpoints: dict[str, Any]

    def password(self, who: str) -> str:
        return str(next(account["password"] for account in self.endpoints["accounts"] if account["address"] == who))

    def send(self, subject: str, to: str = ALICE, sender: str = "writer@example.net", more: str = "", body: str = "Hello.\n") -> str:
        message_id = f"<{os.urandom(8).hex()}@example.net>"
        text = f"From: {sender}\nTo: {to}\nSubject: {subject}\nMessage-ID: {message_id}\n{more}\n{body}"
        with Smtp(Where.of(self.endpoints, "mta", "smtp")) as smtp:
            smtp.send(sender, [to], text.replace("\n", "\r\n").encode())
        return message_id

    def imap(self, store: str, who: str = ALICE) -> Imap:
        imap = Imap(Where.of(self.endpoints, store, "imaps"))
        imap.login(who, self.password(who))
        return imap

    def arrives(self, store: str, message_id: str, folder: str = "INBOX", who: str = ALICE, within: float = 30) -> bytes:
        """The message, once it is in the folder of a store. Fails where it does not come."""
        deadline = time.monotonic() + within
        with self.imap(store, who) as imap:
            while time.monotonic() < deadline:
                if found := _in(imap, folder, message_id):
                    return found[0]
                time.sleep(0.05)
        raise AssertionError(f"{message_id} did not come into {folder} of {who} in {store}")

    def absent(self, store: str, message_id: str, folder: str = "INBOX", who: str = ALICE) -> None:
        with self.imap(store, who) as imap:
            assert not _in(imap, folder, message_id)


def _in(imap: Imap, folder: str, message_id: str) -> list[bytes]:
    library = imap.library
    folder = folder if folder == "INBOX" else library.namespace().personal[0][0] + folder
    try:
        library.select_folder(folder, readonly=True)
    except imaplib.IMAP4.error:  # not there yet
        return []
    numbers = library.search(["HEADER", "Message-ID", message_id])
    return [parts[b"BODY[]"] for parts in library.fetch(numbers, ["BODY.PEEK[]"]).values()] if numbers else []


@contextmanager
def started(folder: Path, name: str, files: Mapping[str, str]) -> Iterator[Ways]:
    """A stack of these files, that is gone afterwards."""
    program = Program.below(folder, name, STACKCTL_NAME=name)
    for path, text in files.items():
        program.write(textwrap.dedent(text).lstrip(), path)
    with program.up():
        yield Ways(program, program.endpoints)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    with started(tmp_path_factory.mktemp("ways"), STACK, FILES) as found:
        yield found


MBOXES = ("virtual", "procmail", "maildrop")  # stores, by who writes their mboxes
OF_MBOXES = {
    "stack.yaml": f"""
        name: {NAME}-mbox
        stores:
          - {{name: virtual, backend: dovecot, mailbox: mbox, delivery: mbox}}
          - {{name: procmail, backend: dovecot, mailbox: mbox, delivery: procmail}}
          - {{name: maildrop, backend: dovecot, mailbox: mbox, delivery: maildrop}}
        users:
          - {{address: {ALICE}}}
          - {{address: {SMALL}, quota: {{messages: 2}}, filters: {{procmail: small.procmailrc, maildrop: small.mailfilter}}}}
        """,
    "small.procmailrc": """
        :0
        * ^Subject: throw away
        /dev/null
        """,
    "small.mailfilter": """
        if (/^Subject: throw away/)
            to "/dev/null"
        """,
}


@pytest.fixture(scope="module")
def of_mboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """A stack of stores with mboxes."""
    with started(tmp_path_factory.mktemp("mboxes"), f"{NAME}-mbox", OF_MBOXES) as found:
        yield found


# --- The matrix: real-life messages by every way, octet by octet


@pytest.mark.feature("C5", "C1")
@pytest.mark.parametrize("store", STORES)
def test_real_life_messages_come_by_this_way_as_they_went_in(store: str, ways: Ways) -> None:
    outcomes = scenarios.run(ways.endpoints, only=rf"^every_message_comes_out_as_it_went_in\[submission/{store}/(imaps|pop3s)\]$")
    assert len(outcomes) == 2
    assert not [report.failure(one) for one in outcomes if one.verdict != "passed"]


@pytest.mark.feature("C5")
def test_large_messages_and_raw_utf8_come_through_a_second_mta_too(ways: Ways) -> None:
    outcomes = scenarios.run(ways.endpoints, only=r"^a_message_(of_ten_megabytes|with_raw_utf8_headers)_comes_out_as_it_went_in\[submission/smtp/imaps\]$")
    assert len(outcomes) == 2
    assert not [report.failure(one) for one in outcomes if one.verdict != "passed"]


@pytest.mark.feature("C5")
def test_an_unknown_user_is_refused_whatever_the_ways(ways: Ways) -> None:
    with pytest.raises(StackctlError, match="550"):
        ways.send("nobody reads this", to="nobody@example.test")


@pytest.mark.feature("C1")
def test_the_octets_on_disk_are_what_the_format_says(ways: Ways) -> None:
    message_id = ways.send("on disk", to=BOB, body="first\nFrom here on it could be cut in two\nlast\n")
    for store in ("mbox", "maildir", "maildrop"):
        ways.arrives(store, message_id, who=BOB)
    containers = {name: part["container"] for name, part in ways.endpoints["stores"].items()}
    status, mbox = engine.execute(containers["mbox"], ["cat", f"/var/vmail/{BOB}"])
    assert status == 0
    assert re.search(r"(?m)^From writer@example\.net ", mbox), "each message begins with a From_ line (RFC 4155)"
    assert "\n>From here on it could be cut in two\n" in mbox and message_id in mbox
    for store in ("maildir", "maildrop"):
        _, text = engine.execute(containers[store], ["sh", "-c", "cat /var/vmail/example.test/bob/Maildir/new/* /var/vmail/example.test/bob/Maildir/cur/*"])
        assert message_id in text and "\nFrom here on" in text and not re.search(r"(?m)^From writer@", text), "a Maildir has no From_ lines and quotes none"


# What a writer of one mbox does, in the MTA's container as the owner of the mail: messages that say their own number fifty times, again where the mbox is
# busy (EX_TEMPFAIL). The agents are called as the program `deliver` does, which itself would take most of the time.
WRITER = """
set -u
agent={agent} HOME=/var/vmail/virtual/inbox.example.test/load DEFAULT=/var/vmail/virtual/load@inbox.example.test rules=/etc/stackctl
export HOME
mkdir -p $HOME/mail && cd $HOME
by_maildrop() {{ maildrop -f w@example.net $rules/mailfilter "$HOME" "$DEFAULT" /dev/null /dev/null "" ""; }}
by_procmail() {{
    procmail -t -Y -f w@example.net "HOME=$HOME" "DEFAULT=$DEFAULT" "ORGMAIL=$DEFAULT" "MAILDIR=$HOME/mail" QUOTA= ROOM= BEFORE=/dev/null OWN=/dev/null $rules/procmailrc
}}
by_dovecot_lda() {{
    mailbox="-o mail_home=$HOME -o mail_driver=mbox -o mail_path=~/mail -o mail_inbox_path=$DEFAULT"
    /usr/lib/dovecot/dovecot-lda -c $rules/lda.conf $mailbox -e -f w@example.net -a load@inbox.example.test
}}
for number in $(seq {first} {last}); do
    lines=$(yes $agent.$number | head -50)
    until printf 'From: w@example.net\\nSubject: load %s\\n\\n%s\\n' $agent.$number "$lines" | by_$agent >/dev/null; do [ $? = 75 ] || exit 1; sleep 0.05; done
done
"""
# Who finds the mbox locked looks again after a second: several do, or each would wait for the other. dovecot-lda, which reads it whole, holds it longest.
WRITERS = [(agent, first, first + 119) for agent in ("maildrop", "procmail") for first in range(1, 481, 120)] + [("dovecot_lda", 1, 20)]
BY_VIRTUAL = 20


@pytest.mark.feature("C1")
def test_writers_and_readers_of_an_mbox_lose_and_mix_nothing(of_mboxes: Ways) -> None:
    """Writers of four kinds: virtual(8) through the MTA, and three agents; two readers by IMAP, of whom one marks as seen, which rewrites the file."""
    who, password, expected = "load@inbox.example.test", of_mboxes.endpoints["disposable"]["password"], 1000
    over = threading.Event()
    faults: list[str] = []

    def write(agent: str, first: int, last: int) -> None:
        script = WRITER.format(agent=agent, first=first, last=last)
        status, output = engine.execute(container(of_mboxes, "mta"), ["bash", "-c", script], user="vmail")
        if status:
            faults.append(f"{agent}: {output}")

    def send() -> None:
        with Smtp(Where.of(of_mboxes.endpoints, "mta", "smtp")) as smtp:
            for number in range(1, BY_VIRTUAL + 1):
                text = f"From: w@example.net\r\nSubject: load virtual.{number}\r\n\r\n" + f"virtual.{number}\r\n" * 50
                smtp.send("w@example.net", [who], text.encode())

    def read(item: str, pause: float) -> None:
        with Imap(Where.of(of_mboxes.endpoints, "virtual", "imaps")) as imap:
            imap.login(who, password)
            while not over.is_set():
                imap.library.select_folder("INBOX")
                numbers = imap.library.search(["UNSEEN"])
                for number, parts in imap.library.fetch(numbers[-20:], [item]).items():
                    if fault := _mixed(parts[b"BODY[]"]):
                        faults.append(f"{number}: {fault}")
                over.wait(pause)

    readers = [threading.Thread(target=read, args=how) for how in (("BODY[]", 4), ("BODY.PEEK[]", 2))]  # they hold it for long, too
    writers = [threading.Thread(target=write, args=one) for one in WRITERS] + [threading.Thread(target=send)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    with Imap(Where.of(of_mboxes.endpoints, "virtual", "imaps")) as imap:
        imap.login(who, password)
        deadline = time.monotonic() + 120
        while imap.library.select_folder("INBOX")[b"EXISTS"] < expected and time.monotonic() < deadline:
            time.sleep(0.2)
        over.set()
        for thread in readers:
            thread.join(30)
        imap.library.select_folder("INBOX", readonly=True)
        bodies = [parts[b"BODY[]"] for parts in imap.library.fetch(imap.library.search(["ALL"]), ["BODY.PEEK[]"]).values()]
    assert not faults
    assert not [fault for body in bodies if (fault := _mixed(body))]
    subjects = sorted(re.search(rb"Subject: load (\S+)", body)[1].decode() for body in bodies)  # type: ignore[index]
    written = [*WRITERS, ("virtual", 1, BY_VIRTUAL)]
    assert subjects == sorted(f"{agent}.{number}" for agent, first, last in written for number in range(first, last + 1))
    assert len(subjects) == expected


@pytest.mark.feature("B8", "C2", "C4")
def test_an_mbox_keeps_to_its_quota_by_whichever_agent(of_mboxes: Ways) -> None:
    """Two messages are all that there may be, besides the warning; what a filter throws away needs no room."""

    def subjects(store: str) -> list[str]:
        with of_mboxes.imap(store, SMALL) as imap:
            imap.library.select_folder("INBOX", readonly=True)
            heads = imap.library.fetch(imap.library.search(["ALL"]), ["BODY.PEEK[HEADER.FIELDS (SUBJECT)]"])
            return sorted(next(iter(value for key, value in parts.items() if key != b"SEQ")).decode().strip().removeprefix("Subject: ") for parts in heads.values())

    for number in (1, 2):
        message_id = of_mboxes.send(f"fits {number}", to=SMALL, sender=ALICE)
        for store in MBOXES:
            of_mboxes.arrives(store, message_id, who=SMALL)
    for store in MBOXES:
        until(lambda: "Your mailbox is 80 % full" in subjects(store), 30, f"{store} tells it")  # noqa: B023
    of_mboxes.send("throw away", to=SMALL, sender=ALICE)
    refused = of_mboxes.send("no room", to=SMALL, sender=ALICE)
    with of_mboxes.imap("virtual", ALICE) as imap:

        def reports() -> str:
            imap.library.select_folder("INBOX", readonly=True)
            return " ".join(b" ".join(parts[b"BODY[]"].split()).decode() for parts in imap.library.fetch(imap.library.search(["ALL"]), ["BODY.PEEK[]"]).values())

        until(lambda: reports().count("Quota exceeded (mailbox for user is full)") >= 4, 30, "a report for each store, and for the one without filters another")
        assert refused in reports()
    for store in MBOXES:
        assert subjects(store) == ["Your mailbox is 80 % full", "fits 1", "fits 2"], store


def _mixed(message: bytes) -> str:
    """What is wrong with a message that says its own number fifty times, "" if nothing is."""
    found = re.search(rb"Subject: load (\S+)", message)
    if not found:
        return f"no subject in {message[:200]!r}"
    lines = message.partition(b"\r\n\r\n")[2].split()
    return "" if lines == [found[1]] * 50 else f"load {found[1].decode()} has {len(lines)} lines, of {set(lines)}"


# --- The MTA of a store


def inside(ways: Ways, service: str, script: str) -> str:
    """What a shell command says in a service's container."""
    status, output = engine.execute(container(ways, service), ["bash", "-c", script])
    assert status == 0, output
    return output


def container(ways: Ways, service: str) -> str:
    return next(one.id for one in inventory.containers(ways.cli.name) if one.service == service)


@pytest.mark.feature("C5")
class TestSmtp:
    def test_its_headers_say_how_the_message_came(self, ways: Ways) -> None:
        message = ways.arrives("smtp", ways.send("headers", to="alice+detail@example.test")).decode()
        head, trace, _ = message.split("Received: ", 2)
        assert head == f"Return-Path: <writer@example.net>\r\nDelivered-To: {ALICE}\r\n"
        assert re.match(r"from mail\.example\.test .*TLS: TLS1\.3.*\sby smtp\.example\.test with ESMTPS\s", trace, re.DOTALL)
        assert "Verified TLS connection established to smtp[" in engine.logs(container(ways, "mta"))

    def test_the_mta_alone_may_hand_in_mail(self, ways: Ways) -> None:
        greeting = "exec 3<>/dev/tcp/smtp/25; read -r -t 10 line <&3; echo $line"
        assert inside(ways, "mta", greeting).startswith("220 smtp.example.test")
        assert inside(ways, "maildrop", greeting).startswith("421 4.7.0 mail comes from mta only")
        assert "25/tcp" not in subprocess.run(["docker", "port", container(ways, "smtp")], capture_output=True, text=True, check=True).stdout

    def test_a_store_without_it_runs_no_second_mta(self, ways: Ways) -> None:
        daemons = "for pid in /proc/[0-9]*; do cat $pid/comm; done | sort -u"
        assert {"courierd", "syslog"} <= set(inside(ways, "smtp", daemons).split())
        assert not {"courierd", "syslog"} & set(inside(ways, "maildrop", daemons).split())

    def test_users_and_domains_of_this_moment_get_mail(self, ways: Ways) -> None:
        ways.cli("domain", "add", "live.example")
        for who in ("carol@example.test", "carol@live.example"):
            password = ways.cli("user", "add", who, "--generate", "--json")
            message_id = ways.send("hello", to=who)
            with Imap(Where.of(ways.endpoints, "smtp", "imaps")) as imap:
                imap.login(who, password.json["password"])
                imap.wait(count=1, timeout=30)
                assert _in(imap, "INBOX", message_id)
        ways.cli("user", "delete", "carol@example.test")
        ways.cli("domain", "delete", "live.example", "--force")
        with pytest.raises(StackctlError, match="550"):
            ways.send("hello", to="carol@example.test")

    def test_the_name_that_the_mta_uses_is_no_login(self, ways: Ways) -> None:
        tried = [(ALICE, ways.password(ALICE)), (f"who@{ways.endpoints['disposable']['domain']}", ways.endpoints["disposable"]["password"])]
        for who, password in tried:
            inside(ways, "smtp", f"authtest {who} '{password}'")
            for wrong in (password, "*"):
                inside(ways, "smtp", f"authtest {who.replace('@', '=40')}@store.internal && ! authtest {who.replace('@', '=40')}@store.internal '{wrong}'")

    @pytest.mark.parametrize("local", ["a-b-c-d-e", "bang!path", "100%=2d", "o'hara|x", "UPPER+detail"])
    def test_no_letter_of_an_address_means_anything_to_it(self, local: str, ways: Ways) -> None:
        who, password = f"{local}@{ways.endpoints['disposable']['domain']}", ways.endpoints["disposable"]["password"]
        with Smtp(Where.of(ways.endpoints, "mta", "submission")) as smtp:  # port 25 relays no "!" and no "%"
            smtp.login(ALICE, ways.password(ALICE))
            smtp.send(ALICE, [who], f"From: {ALICE}\r\nTo: {who}\r\nSubject: letters\r\n\r\n".encode())
        with Imap(Where.of(ways.endpoints, "smtp", "imaps")) as imap:
            imap.login(who, password)
            imap.wait(subject="letters", timeout=30)

    def test_a_full_mailbox_sends_the_message_back(self, ways: Ways) -> None:
        """Each store that keeps to the quota has one message, or the MTA has for it, and says so; the reports come by the stack's MTA, to every store."""
        first = ways.send("first", to=SMALL, sender=BOB)
        for store in STORES:
            ways.arrives(store, first, who=SMALL)
        for store in ("lda", "mbox"):  # one message is all that there may be
            with ways.imap(store, SMALL) as imap:
                imap.wait(subject="Your mailbox is 80 % full", timeout=30)
        second = ways.send("second", to=SMALL, sender=BOB)
        keeping = [store for store, part in ways.endpoints["stores"].items() if "quota-enforced" in part["provides"]]
        assert keeping == list(STORES)
        with ways.imap("lda", BOB) as imap:

            def reports() -> list[bytes]:
                imap.library.select_folder("INBOX", readonly=True)
                texts = [parts[b"BODY[]"] for parts in imap.library.fetch(imap.library.search(["ALL"]), ["BODY.PEEK[]"]).values()]
                return [text for text in texts if second.encode() in text and b"Quota exceeded" in b" ".join(text.split())]

            until(lambda: sum(text.count(b"Final-Recipient:") for text in reports()) == len(keeping), 30, "a report for each store that is full")
        for store in keeping:
            ways.absent(store, second, who=SMALL)

    def test_its_certificate_is_verified_for_its_own_name(self, ways: Ways) -> None:
        probe = "posttls-finger -c -l secure -t 10 -o smtp_host_lookup=native -F /etc/stackctl/tls/ca.pem [smtp]:25 {} 2>&1 || true"
        assert "Verified TLS connection established" in inside(ways, "mta", probe.format("smtp.example.test"))
        assert "Verified TLS connection established" not in inside(ways, "mta", probe.format("other.example"))
        asked = inside(ways, "mta", "postconf -P deliver-smtp/unix/smtp_tls_security_level deliver-smtp/unix/smtp_tls_secure_cert_match")
        assert asked.split("\n")[:2] == ["deliver-smtp/unix/smtp_tls_security_level = secure", "deliver-smtp/unix/smtp_tls_secure_cert_match = smtp.example.test"]

    def test_nothing_is_lost_or_sent_back_while_it_is_down_or_when_it_dies(self, ways: Ways) -> None:
        """One message waits in the stack's MTA, one in the store's own, which is killed."""
        mailbox = "/var/vmail/example.test/bob/Maildir"
        ways.arrives("smtp", ways.send("there is a mailbox", to=BOB), who=BOB)
        inside(ways, "smtp", f"mv {mailbox} {mailbox}.away && touch {mailbox}")
        accepted = ways.send("accepted", to=BOB)
        try:
            until(lambda: "addr=<bob=40example.test@store.internal>,status: deferred" in engine.logs(container(ways, "smtp")), what="the store's MTA keeps it")
            engine.each("kill", [one for one in inventory.containers(ways.cli.name) if one.service == "smtp"])
            later = ways.send("later", to=BOB)
            until(lambda: ".smtp.store.internal" in inside(ways, "mta", "postqueue -p"), what="the stack's MTA keeps the other")
            ways.cli("up")
        finally:
            inside(ways, "smtp", f"rm {mailbox} && mv {mailbox}.away {mailbox}")
        for message_id in (accepted, later):
            ways.arrives("smtp", message_id, who=BOB)
        begun = time.monotonic()
        subprocess.run(["docker", "stop", container(ways, "smtp")], check=True, capture_output=True)
        assert time.monotonic() - begun < 5
        assert inventory.inspect(container(ways, "smtp"))["State"]["ExitCode"] == 0
        ways.cli("up")


# --- Filters

FILTERING = [
    pytest.param(store, marks=pytest.mark.feature(row)) for store, row in (("lmtp", "C3"), ("lda", "C3"), ("procmail", "C2"), ("maildrop", "C4"), ("smtp", "D6"))
]


@pytest.mark.parametrize("store", FILTERING)
def test_a_rule_files_by_sender(store: str, ways: Ways) -> None:
    news = ways.send("this week", sender="newsletter@example.net")
    other = ways.send("this week", sender="friend@example.net")
    ways.arrives(store, news, "News")
    ways.arrives(store, other)
    ways.absent(store, news)
    ways.absent(store, other, "News")


@pytest.mark.parametrize("store", FILTERING[2:])
def test_a_rule_looks_into_the_body_or_not(store: str, ways: Ways) -> None:
    inside = ways.send("see below", body="The body of the matter is this.\n")
    above = ways.send("body of the matter")
    ways.arrives(store, inside, "Body")
    ways.arrives(store, above)
    ways.absent(store, above, "Body")


@pytest.mark.parametrize("store", FILTERING)
def test_a_rule_sends_a_copy_on(store: str, ways: Ways) -> None:
    """What an agent or a store hands in goes through the MTA like all mail: bob has it in every store."""
    message_id = ways.send("a copy to bob")
    ways.arrives(store, message_id)
    ways.arrives(store, message_id, who=BOB)


@pytest.mark.parametrize("store", FILTERING[2:])
def test_common_rules_come_before_ones_own(store: str, ways: Ways) -> None:
    for who in (ALICE, BOB):
        common = ways.send("this week", to=who, sender="newsletter@example.net", more="X-Common: yes\n")
        ways.arrives(store, common, "Common", who)
        ways.absent(store, common, "INBOX", who)


@pytest.mark.feature("C2")
def test_procmail_filters_through_and_delivers_into_a_pipe(ways: Ways) -> None:
    stamped, piped = ways.send("stamp it"), ways.send("into a pipe")
    assert b"\r\nX-Stamped: yes\r\n" in ways.arrives("procmail", stamped)
    assert b"X-Stamped" not in ways.arrives("lmtp", stamped)
    ways.arrives("lmtp", piped)
    deadline, text = time.monotonic() + 20, ""
    while piped not in text and time.monotonic() < deadline:
        text = engine.execute(ways.endpoints["stores"]["procmail"]["container"], ["cat", "/var/vmail/example.test/alice/piped"])[1]
    assert piped in text
    ways.absent("procmail", piped)


@pytest.mark.feature("C3")
@pytest.mark.parametrize("store", ["lmtp", "lda"])
class TestSieve:
    def test_tests_and_folders(self, store: str, ways: Ways) -> None:
        both, any_, plain = ways.send("both of them"), ways.send("any of them"), ways.send("neither")
        absent = ways.send("both of them", more="X-Absent: no\n")
        ways.arrives(store, both, "Allof")
        ways.arrives(store, any_, "Anyof")
        ways.arrives(store, plain)
        ways.arrives(store, absent)

    def test_discard_loses_the_message_and_nothing_else(self, store: str, ways: Ways) -> None:
        thrown, kept = ways.send("throw away"), ways.send("throw away not")
        ways.arrives(store, kept)
        ways.arrives("maildir", thrown)  # which has no Sieve
        ways.absent(store, thrown)

    def test_reject_tells_the_sender(self, store: str, ways: Ways) -> None:
        message_id = ways.send("not wanted", sender=BOB)
        deadline = time.monotonic() + 30
        with ways.imap("maildir", BOB) as imap:
            found: list[bytes] = []
            while not found and time.monotonic() < deadline:
                imap.library.select_folder("INBOX", readonly=True)
                numbers = imap.library.search(["BODY", "Please do not write to me"])
                parts = imap.library.fetch(numbers, ["BODY.PEEK[]"]).values() if numbers else ()
                found = [part[b"BODY[]"] for part in parts if message_id.encode() in part[b"BODY[]"]]
        assert found
        ways.absent(store, message_id)

    def test_vacation_answers_once(self, store: str, ways: Ways) -> None:
        sender = f"caller-{store}@inbox.example.test"
        for _ in range(2):
            ways.arrives(store, ways.send("are you there", sender=sender, more=""))
        with Imap(Where.of(ways.endpoints, "maildir", "imaps")) as imap:
            imap.login(sender, ways.endpoints["disposable"]["password"])
            imap.wait(subject="I am away", timeout=30)

    def test_too_large_is_discarded(self, store: str, ways: Ways) -> None:
        large, small = ways.send("large", body="x" * 70 + "\n" + ("y" * 76 + "\n") * 30_000), ways.send("small")
        ways.arrives("maildir", large)
        ways.arrives(store, small)
        ways.absent(store, large)

    def test_a_virus_goes_to_the_administrator(self, store: str, ways: Ways) -> None:
        found, clean = ways.send("infected", more="X-Virus-Found: EICAR\n"), ways.send("clean")
        ways.arrives("maildir", found, who=ADMIN)
        ways.arrives(store, clean)
        ways.absent(store, found)

    def test_who_has_no_script_gets_the_default(self, store: str, ways: Ways) -> None:
        message_id = ways.send("for the default script", to=BOB)
        ways.arrives(store, message_id, "Default", BOB)
        mine = ways.send("for the default script")
        ways.arrives(store, mine)


@pytest.mark.parametrize(("store", "row"), [pytest.param("lda", "C3", marks=pytest.mark.feature("C3")), pytest.param("procmail", "C2", marks=pytest.mark.feature("C2"))])
def test_a_filter_is_tried_without_delivery(store: str, row: str, ways: Ways) -> None:
    message = "From: newsletter@example.net\nTo: alice@example.test\nSubject: tried\nMessage-ID: <tried@example.net>\n\nx\n"
    done = ways.cli("filter", "test", "--user", ALICE, "--eml", "-", "--store", store, "--json", stdin=message.encode())
    (trial,) = done.json
    assert trial["service"] == "mta" and "News" in trial["output"], trial["output"]
    other = ways.cli("filter", "test", "--user", BOB, "--eml", "-", "--store", store, stdin=message.encode()).out
    assert "News" not in other
    ways.absent(store, "<tried@example.net>", "News")
    ways.absent(store, "<tried@example.net>")


@pytest.mark.feature("C4", "D6")
@pytest.mark.parametrize("store", ["maildrop", "smtp"])
def test_maildrop_is_tried_too(store: str, ways: Ways) -> None:
    message = "From: friend@example.net\nTo: alice@example.test\nSubject: tried\n\nThe body of the matter\n"
    output = ways.cli("filter", "test", "--user", ALICE, "--eml", "-", "--store", store, stdin=message.encode()).out
    assert "would be filed as: ~/Maildir/.Body/" in output


@pytest.mark.feature("C2", "C3", "C4")
def test_a_trial_that_cannot_be_says_why(ways: Ways, tmp_path: Path) -> None:
    assert "no user" in ways.cli("filter", "test", "--user", "nobody@example.test", "--eml", "-", code=2).err
    assert "nothing is filtered" in ways.cli("filter", "test", "--user", ALICE, "--eml", "-", "--store", "maildir", code=2).err
    assert "no store" in ways.cli("filter", "test", "--user", ALICE, "--eml", "-", "--store", "none", code=2).err
    assert "No such file" in ways.cli("filter", "test", "--user", ALICE, "--eml", str(tmp_path / "none"), code=2).err


BROKEN: dict[str, tuple[str, str, str]] = {  # file -> text, what `check` says, store
    "alice.sieve": ('require "fileinto";\nif frobnicate { keep; }\n', "line 2", "lda"),
    "alice.procmailrc": (":0 H\n* ^X-None:\n.None/\n\nnonsense without an end\n:0 Q\n* (\n", "procmail/user/alice@example.test:5", "procmail"),
    "alice.mailfilter": ("if (/^Subject:/\n{\n", "maildrop/user/alice@example.test", "maildrop"),
}


@pytest.mark.feature("C2", "C3", "C4")
def test_broken_filters_lose_nothing_and_check_names_their_lines(ways: Ways) -> None:
    """Every script is broken at once, live: what comes meanwhile is there in the end."""
    try:
        for name, (text, _, _) in BROKEN.items():
            ways.cli.write(text, name)
        said = ways.cli("check", code=1)
        for _, words, _ in BROKEN.values():
            assert words in said.out, said.out
        ways.cli("up", code=None)  # the stores take it; the first message shows what that does
        message_id = ways.send("through broken filters")
        ways.arrives("maildir", message_id)
    finally:
        for name in BROKEN:
            ways.cli.write(textwrap.dedent(FILES[name]).lstrip(), name)
        ways.cli("up")
    for store in (*(store for _, _, store in BROKEN.values()), "smtp"):
        ways.arrives(store, message_id, within=60)


@pytest.mark.feature("A2")
def test_a_filter_that_stack_yaml_no_longer_has_is_gone(ways: Ways) -> None:
    path = ways.cli.work / "stack.yaml"
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(re.sub(r", filters: \{sieve: alice.*?\}", "", text), encoding="utf-8")
        ways.cli("up")
        message_id = ways.send("this week", sender="newsletter@example.net")
        for store in ("lda", "procmail", "maildrop", "smtp"):
            ways.arrives(store, message_id)
    finally:
        path.write_text(text, encoding="utf-8")
        ways.cli("up")
