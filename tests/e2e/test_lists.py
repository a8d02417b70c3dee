"""Mailing lists as people use them: joining, writing and leaving by mail, on a real MTA and a real list manager. And what else that MTA does with mail: the .courier
files of people, and the filter of its administrator."""

from __future__ import annotations

import email
import email.policy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import pytest
from conftest import NAME
from program import Program, docker, until

from stackctl.clients.imap import Imap
from stackctl.clients.smtp import Refused, Smtp
from stackctl.clients.where import Where
from stackctl.labels import project_name

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D6")]

STACK = f"{NAME}-lists"
CONTAINER = f"{project_name(STACK)}-second-1"
FOLDER = "/var/lib/courier/lists"
ALICE, BOB, CAROL, GONE = "alice@example.test", "bob@example.test", "carol@example.test", "gone@example.test"
TEAM, NEWS = "team@example.test", "team-news@example.test"  # the second looks like an address for a command of the first
BOARD = "board@example.test"
DOT = "dot@example.test"  # has delivery instructions of its own
DOT_COURIER = f"""\
# a copy, a program, a folder
&{BOB}
| sed -n 's/^Subject: //p' >>piped
./Maildir/.Filed
"""
JUDGE = r"""
use IO::File;
my $socket = IO::File->new("+<&" . shift @ARGV) or die $!;
chomp(my $message = <$socket>);
while (my $line = <$socket>) { last if $line eq "\n" } # what else it is told: files with the recipients
my $said = "200 Ok";
my $in = IO::File->new($message) or die $!;
while (<$in>) { $said = "550 5.7.1 Forbidden words." if /^Subject:.*forbidden/i }
print $socket "$said\n";
$socket->close;
"""
FILE = f"""\
stores: [{{backend: dovecot}}, {{name: second, backend: courier, delivery: smtp}}]
users: [{{address: {ALICE}}}, {{address: {BOB}}}, {{address: {CAROL}}}, {{address: {GONE}}}, {{address: {DOT}, filters: {{instructions: dot.courier}}}}]
filters: {{perl: judge.pl}}
lists:
  {TEAM}: {{owner: {ALICE}, subscribers: [{ALICE}, {BOB}, {GONE}]}}
  {NEWS}: {{owner: {ALICE}, subscribers: [{BOB}], post: all}}
  {BOARD}: {{owner: {ALICE}, subscribers: [{BOB}, {CAROL}], post: moderated, digest: 24}}
limits: {{auth_failure_delay: 0}}
"""


@dataclass
class People:
    """Who writes to the lists, and what comes to whom."""

    found: Any

    def send(self, sender: str, to: str, subject: str = "", body: str = "") -> str:
        """A message from a person; returns its subject, which is its own unless it is given. It is the text too, unless that is given."""
        subject = subject or f"subject-{os.urandom(6).hex()}"
        text = f"From: {sender}\nTo: {to}\nSubject: {subject}\nMessage-ID: <{os.urandom(8).hex()}@example.test>\n\n{body or subject}\n"
        with Smtp(Where.of(self.found, "mta", "smtp")) as smtp:
            smtp.send(sender, [to], text.replace("\n", "\r\n").encode())
        return subject

    def look(self, who: str, *criteria: str, store: str = "dovecot") -> list[EmailMessage]:
        """The messages in a mailbox for which all of `criteria` hold (RFC 9051 SEARCH)."""
        passwords = {one["address"]: one["password"] for one in self.found["accounts"]}
        with Imap(Where.of(self.found, store, "imaps")) as imap:
            imap.login(who, passwords.get(who, self.found["disposable"]["password"]))
            imap.select("INBOX", readonly=True)
            return [email.message_from_bytes(imap.fetch(uid), policy=email.policy.default) for uid in imap.uids(*criteria)]

    def take(self, who: str, *criteria: str, store: str = "dovecot") -> EmailMessage:
        """The first such message, once it has come."""
        found: list[EmailMessage] = until(lambda: self.look(who, *criteria, store=store), 30, f"{criteria} for {who}")
        return found[0]

    def confirm(self, who: str, command: str, answer: str, to: str = "team") -> None:
        """A request by mail, subscribe or unsubscribe, its confirmation as the list manager asks for it, and its last word, which holds `answer`."""
        self.send(who, f"{to}-{command}@example.test")
        asked = self.take(who, "HEADER", "Reply-To", f"{to}-{command.replace('scribe', 'confirm')}-")
        self.send(who, str(asked["Reply-To"]), "yes")
        self.take(who, "BODY", answer)

    def decide(self, subject: str, word: str = "", reason: str = "") -> None:
        """What the owner of BOARD answers to the request to approve a message: as mail programs do it, with the text of the request quoted."""
        asked = self.take(ALICE, "HEADER", "Reply-To", "board-moderate@example.test", "BODY", subject)
        text = next(part for part in asked.walk() if part.get_content_type() == "text/plain").get_content()
        quoted = "".join(f"> {line}\n" for line in text.splitlines()).replace("> Insert any", f"{reason}\n> Insert any")
        self.send(ALICE, str(asked["Reply-To"]), f"{word} Re: {asked['Subject']}", f"On some day, the list wrote:\n{quoted}")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("lists")
    for name, text in (("dot.courier", DOT_COURIER), ("judge.pl", JUDGE)):
        Program.below(folder, STACK).write(text, name)
    with Program.started(folder, STACK, FILE) as program:
        yield program


@pytest.fixture
def people(program: Program) -> People:
    return People(program.endpoints)


def subscribers(address: str) -> set[str]:
    return {line.split()[0] for line in inside(f"couriermlm lsub {FOLDER}/{address}/list").splitlines()}  # behind it is the date


def inside(command: str) -> str:
    """What a command says in the store's container, as the user of its list manager."""
    return docker("exec", "-u", "courier", CONTAINER, "sh", "-c", command)


def upkeep(made_older: str, days: int) -> None:
    """What the store does each hour, after some days have gone by for a file or a folder of files."""
    inside(f"find {FOLDER}/{made_older} -type f -exec touch -d '{days} days ago' {{}} +")
    inside("/usr/local/lib/stackctl/lists upkeep")


def test_people_join_write_and_leave_by_mail(people: People) -> None:
    for who in (CAROL, "dave@inbox.example.test"):
        assert who not in subscribers(TEAM)
        people.confirm(who, "subscribe", "succesfully confirmed")
        assert who in subscribers(TEAM)
    subject = people.send(CAROL, TEAM)
    for who in (ALICE, BOB, CAROL, "dave@inbox.example.test"):
        for store in ("dovecot", "second"):
            message = people.take(who, "SUBJECT", subject, store=store)
            assert "team-unsubscribe@example.test" in message["List-Unsubscribe"] and message["From"] == CAROL
            assert message["List-Id"] == "<team.example.test>"
            assert message["Return-Path"].startswith("<team-bounce")
    people.confirm(CAROL, "unsubscribe", "succesfully processed")
    assert subscribers(TEAM) == {ALICE, BOB, GONE, "dave@inbox.example.test"}
    later = people.send(BOB, TEAM)
    people.take(ALICE, "SUBJECT", later)
    assert not people.look(CAROL, "SUBJECT", later)


def test_a_request_that_nobody_confirms_changes_nothing(people: People) -> None:
    before = subscribers(TEAM)
    people.send("nobody@inbox.example.test", "team-subscribe@example.test")
    asked = people.take("nobody@inbox.example.test", "SUBJECT", "confirmation request")
    assert subscribers(TEAM) == before
    upkeep(f"{TEAM}/list/commands", days=3)
    people.send("nobody@inbox.example.test", str(asked["Reply-To"]), "yes")
    people.take("nobody@inbox.example.test", "BODY", "Invalid confirmation")
    assert subscribers(TEAM) == before


def test_who_is_not_on_the_list_cannot_write_to_it(people: People) -> None:
    subject = people.send("stranger@inbox.example.test", TEAM)
    report = people.take("stranger@inbox.example.test", "BODY", "is not subscribed to this mailing list")
    assert report.get_content_type() == "multipart/report"
    assert not people.look(ALICE, "SUBJECT", subject)


def test_who_is_not_on_the_list_cannot_leave_it(people: People) -> None:
    people.confirm("other@inbox.example.test", "unsubscribe", "cannot find")


def test_everybody_writes_to_a_list_that_is_for_all(people: People) -> None:
    subject = people.send("stranger@inbox.example.test", NEWS)
    people.take(BOB, "SUBJECT", subject)


def test_addresses_of_a_list_and_others(people: People) -> None:
    subject = people.send("somebody@inbox.example.test", "team-owner@example.test")
    people.take(ALICE, "SUBJECT", subject)
    people.send("helpless@inbox.example.test", "team-help@example.test")
    people.take("helpless@inbox.example.test", "BODY", "team-subscribe@example.test")
    unknown = ["team-xyz", "team-subscribed", "team-subconfirm-abc", "team-digest", "team-digest-subscribe", "team-bounce", "board-digest-xyz"]
    unknown += ["teams", "tea-subscribe", "team=40example.test"]
    for address in (*(f"{one}@example.test" for one in unknown), "team=40example.test@store.internal"):
        with pytest.raises(Refused) as refused:
            people.send(ALICE, address)
        assert refused.value.code in (550, 554)


def test_the_owner_approves_a_message_or_not(people: People) -> None:
    approved, dropped, refused = (people.send(BOB, BOARD) for _ in range(3))
    people.decide(refused, "reject", "Not on this list.")
    people.take(BOB, "BODY", "Not on this list.")
    people.decide(dropped, "no")
    people.decide(approved)
    assert people.take(CAROL, "SUBJECT", approved)["From"] == BOB
    until(lambda: not inside(f"ls {FOLDER}/{BOARD}/list/modqueue"), 30, "the last decision")
    for subject in (dropped, refused):
        assert not people.look(CAROL, "SUBJECT", subject)
    people.send(BOB, "board-moderate@example.test", "yes")
    people.take(BOB, "BODY", "Invalid moderation message")


def test_a_digest_has_the_messages_of_a_day(people: People) -> None:
    reader = "reader@inbox.example.test"
    people.confirm(reader, "subscribe", "succesfully confirmed", to="board-digest")
    subject = people.send(BOB, BOARD)
    people.decide(subject)
    people.take(CAROL, "SUBJECT", subject)
    waiting = f"{BOARD}/digest/modqueue"
    upkeep(waiting, days=0)
    assert inside(f"ls {FOLDER}/{waiting}")
    upkeep(waiting, days=2)
    digest = people.take(reader, "BODY", subject)
    assert digest.get_content_type() == "multipart/digest" and digest["From"].endswith("<board-digest@example.test>")
    assert not inside(f"ls {FOLDER}/{waiting}")
    assert not people.look(reader, "HEADER", "Subject", subject), "it came within the digest alone"


def test_who_cannot_be_reached_is_asked_and_removed(program: Program, people: People) -> None:
    """The user is no more, the subscription is: the reports of what cannot be delivered lead to the list's address for that subscriber."""
    program("user", "delete", GONE)
    bounces = f"{TEAM}/list/bounces"
    assert not inside(f"ls {FOLDER}/{bounces}")
    people.send(BOB, TEAM)
    until(lambda: inside(f"ls {FOLDER}/{bounces}"), 30, "a bounce")
    upkeep(bounces, days=0)
    assert GONE in subscribers(TEAM)
    upkeep(bounces, days=4)
    until(lambda: GONE not in subscribers(TEAM), 30, "the end of a subscription")


# --- .courier files, and the filter of the MTA


def dots(people: People) -> Imap:
    """A session of DOT in the store that has .courier files, not yet logged in."""
    return Imap(Where.of(people.found, "second", "imaps"))


def password(people: People) -> str:
    return str(next(one["password"] for one in people.found["accounts"] if one["address"] == DOT))


def make(people: People, *folders: str) -> None:
    with dots(people) as imap:
        imap.login(DOT, password(people))
        for folder in folders:
            imap.create(folder)


def where(people: People, subject: str) -> list[str]:
    """The folders of DOT in which there is a message with this subject."""
    with dots(people) as imap:
        imap.login(DOT, password(people))
        found = []
        for _, _, folder in imap.library.list_folders():
            imap.select(folder, readonly=True)
            found += [folder] * len(imap.uids("SUBJECT", subject))
        return found


HOME = "/var/vmail/example.test/dot"


def test_a_courier_file_says_where_a_message_goes(people: People) -> None:
    make(people, "INBOX.Filed")
    subject = people.send(ALICE, DOT)
    assert until(lambda: where(people, subject), 30, "the folder") == ["INBOX.Filed"]
    assert people.take(BOB, "SUBJECT", subject)["From"] == ALICE
    assert people.take(DOT, "SUBJECT", subject)["From"] == ALICE, "the other store knows no such files"
    assert docker("exec", CONTAINER, "cat", f"{HOME}/piped").splitlines() == [subject]


def test_a_sub_address_has_a_courier_file_of_its_own(people: People) -> None:
    """dot-courier(5): `.courier-EXT`, else `.courier-default`; without either of the person's own, mail goes where that without a detail goes by default."""
    plain = people.send(ALICE, "dot+any.thing@example.test")
    assert until(lambda: where(people, plain), 30, "the mailbox") == ["INBOX"]
    make(people, "INBOX.Rest", "INBOX.News")
    own = "rm .courier-default; echo ./Maildir/.Rest >.courier-default; echo ./Maildir/.News >.courier-news"
    docker("exec", "-u", "vmail", "-w", HOME, CONTAINER, "sh", "-c", own)
    for to, folder in (("dot+NEWS@example.test", "INBOX.News"), ("dot+other@example.test", "INBOX.Rest"), (DOT, "INBOX.Filed")):
        subject = people.send(ALICE, to)
        assert until(lambda subject=subject: where(people, subject), 30, to) == [folder]  # type: ignore[misc]
    fresh = people.send(ALICE, "fresh+detail@inbox.example.test")
    people.take("fresh@inbox.example.test", "SUBJECT", fresh, store="second")


def test_a_program_that_fails_sends_the_message_back(people: People) -> None:
    """Exit code 67 is EX_NOUSER of sysexits.h."""
    docker("exec", "-u", "vmail", "-w", HOME, CONTAINER, "sh", "-c", "echo '| echo Nobody of this name.; exit 67' >.courier-gone")
    subject = people.send(CAROL, "dot+gone@example.test")
    assert people.take(CAROL, "BODY", "Nobody of this name.").get_content_type() == "multipart/report"
    assert where(people, subject) == []


def test_the_filter_of_the_mta_judges_each_message(people: People) -> None:
    good, bad = people.send(CAROL, ALICE), people.send(CAROL, ALICE, f"forbidden {os.urandom(6).hex()}")
    people.take(ALICE, "SUBJECT", good, store="second")
    people.take(ALICE, "SUBJECT", bad)  # the other store has no such filter
    assert "550" in people.take(CAROL, "BODY", "Forbidden words.").as_string()
    assert not people.look(ALICE, "SUBJECT", bad, store="second")


def test_a_fault_of_the_filter_is_told_with_its_line(program: Program) -> None:
    program.write("my $good = 1;\nmy $bad = ;\n1;\n", "judge.pl")
    try:
        assert "/etc/stackctl/perlfilter.pl line 2" in (said := program("check", code=1).out), said
    finally:
        program.write(JUDGE, "judge.pl")


def test_subscribers_change_in_stack_yaml_and_by_mail(program: Program, people: People) -> None:
    joined, named = "erin@inbox.example.test", "named@inbox.example.test"
    people.confirm(joined, "subscribe", "succesfully confirmed")
    people.confirm(BOB, "unsubscribe", "succesfully processed")
    before = subscribers(TEAM)
    program("down")
    after = FILE.replace(f"subscribers: [{ALICE}, {BOB}, {GONE}]", f"subscribers: [{BOB}, {named}]").replace(f", {{address: {GONE}}}", "")
    program.write(after.replace(", filters: {instructions: dot.courier}", ""))
    program("up")
    subject = people.send(BOB, DOT)
    assert until(lambda: where(people, subject), 30, "the mailbox") == ["INBOX"], "its .courier file is gone, too"
    assert {ALICE, joined} <= before and BOB not in before
    assert subscribers(TEAM) == before - {ALICE} | {named}
