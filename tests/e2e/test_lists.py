"""Mailing lists as people use them: joining, writing and leaving by mail, on a real MTA and a real list manager."""

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
ALICE, BOB, CAROL, GONE = "alice@example.test", "bob@example.test", "carol@example.test", "gone@example.test"
TEAM, NEWS = "team@example.test", "team-news@example.test"  # the second looks like an address for a command of the first
FILE = f"""\
stores: [{{backend: dovecot}}, {{name: second, backend: courier, delivery: smtp}}]
users: [{{address: {ALICE}}}, {{address: {BOB}}}, {{address: {CAROL}}}, {{address: {GONE}}}]
lists:
  {TEAM}: {{owner: {ALICE}, subscribers: [{ALICE}, {BOB}, {GONE}]}}
  {NEWS}: {{owner: {ALICE}, subscribers: [{BOB}], post: all}}
limits: {{auth_failure_delay: 0}}
"""


@dataclass
class People:
    """Who writes to the lists, and what comes to whom."""

    found: Any

    def send(self, sender: str, to: str, subject: str = "") -> str:
        """A message from a person; returns its subject, which is its own unless it is given."""
        subject = subject or f"subject-{os.urandom(6).hex()}"
        text = f"From: {sender}\nTo: {to}\nSubject: {subject}\nMessage-ID: <{os.urandom(8).hex()}@example.test>\n\nHello.\n"
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

    def confirm(self, who: str, command: str, answer: str) -> None:
        """A request by mail, subscribe or unsubscribe, its confirmation as the list manager asks for it, and its last word, which holds `answer`."""
        self.send(who, f"team-{command}@example.test")
        asked = self.take(who, "HEADER", "Reply-To", f"team-{command.replace('scribe', 'confirm')}-")
        self.send(who, str(asked["Reply-To"]), "yes")
        self.take(who, "BODY", answer)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program.started(tmp_path_factory.mktemp("lists"), STACK, FILE) as program:
        yield program


@pytest.fixture
def people(program: Program) -> People:
    return People(program.endpoints)


def subscribers(address: str) -> set[str]:
    listed = docker("exec", "-u", "courier", CONTAINER, "couriermlm", "lsub", f"/var/lib/courier/lists/{address}/list")
    return {line.split()[0] for line in listed.splitlines()}  # behind it is the date


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
    people.take("nobody@inbox.example.test", "SUBJECT", "confirmation request")
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
    for address in ("teams@example.test", "tea-subscribe@example.test", "team=40example.test@example.test", "team=40example.test@store.internal"):
        with pytest.raises(Refused) as refused:
            people.send(ALICE, address)
        assert refused.value.code in (550, 554)


def test_what_comes_back_counts_against_a_subscriber(program: Program, people: People) -> None:
    """The user is no more, the subscription is: the report of it leads to the list's address for that subscriber."""
    program("user", "delete", GONE)
    folder = f"/var/lib/courier/lists/{TEAM}/list/bounces"
    assert not docker("exec", CONTAINER, "ls", folder).split()
    people.send(BOB, TEAM)
    until(lambda: docker("exec", CONTAINER, "ls", folder).split(), 30, "a bounce")


def test_subscriptions_outlast_the_containers(program: Program, people: People) -> None:
    people.confirm("erin@inbox.example.test", "subscribe", "succesfully confirmed")
    before = subscribers(TEAM)
    program("down")
    program("up")
    assert subscribers(TEAM) == before >= {"erin@inbox.example.test"}
