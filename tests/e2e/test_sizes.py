"""Sizes on real servers: of a message, and of a mailbox. What the sender gets, what the owner sees, and that nothing stored is lost."""

from __future__ import annotations

import re

import pytest
from outside import Quick
from program import Program, docker, until

from stackctl.clients.smtp import Refused
from stackctl.scenario import Context

pytestmark = [pytest.mark.e2e, pytest.mark.feature("B8")]
LIMIT = 200 * 1024
WAYS_IN = ("smtp", "submission", "submissions")


def lines(octets: int) -> bytes:
    """A body of so many octets."""
    return (b"x" * 98 + b"\r\n") * (octets // 100)


def send(mail: Context, to: str, name: str, octets: int, way: str = "smtp", sender: str = "") -> bytes:
    """A message with a body of so many octets, from outside or from somebody here; returns what was sent."""
    sender = sender or mail.sender(way)
    message = mail.message(sender, to, name, body=lines(octets))
    mail.send(to, message, way=way, sender=sender)
    return message


def of(mail: Context, provided: str) -> list[str]:
    """The stores that provide something."""
    return [name for name, store in mail.endpoints["stores"].items() if provided in store["provides"]]


def subjects(mail: Context, who: str, store: str) -> list[str]:
    """Of all that is in somebody's mailbox."""
    return [found[1].decode() for one in mail.look(who, store) if (found := re.search(rb"^Subject: (.*?)\r?$", one, re.MULTILINE))]


def quota(mail: Context, who: str, store: str) -> str:
    """What a store answers to GETQUOTAROOT."""
    with mail.imap(who, store) as imap:
        answer = imap.library._imap._simple_command("GETQUOTAROOT", "INBOX")
        lines = imap.library._imap.untagged_responses.get("QUOTA") or [b""]
    assert answer[0] == "OK"
    return re.sub(r"(\w+) (\d+) (\d+)", r"\1 \2/\3", lines[0].decode().partition("(")[2])


def empty(mail: Context, *who: str) -> None:
    """Deletes all mail of somebody, in every store."""
    for one in who:
        for store in mail.stores:
            with mail.imap(one, store) as imap:
                imap.select()
                imap.delete(imap.uids())


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_message_below_the_limit_reaches_every_store_and_one_above_is_refused(way: str, mail: Context) -> None:
    """The stores' own doors take what the MTA takes. Too large is told at MAIL with SIZE=, and after DATA without it."""
    box, sender = mail.fresh(), mail.sender(way)
    message = send(mail, box, "large", LIMIT - 2000, way, sender)
    for store in mail.stores:
        assert mail.mailbox(box, 1, store)[0].endswith(message)
    with pytest.raises(Refused) as caught:
        send(mail, box, "larger", LIMIT + 1000, way, sender)
    assert (caught.value.code, caught.value.enhanced) == (552, "5.3.4") and caught.value.message.startswith("MAIL: ")
    with mail.raw_smtp(way, login=None if way == "smtp" else sender) as smtp:
        for line, code in ((f"MAIL FROM:<{sender}>", 250), (f"RCPT TO:<{box}>", 250), ("DATA", 354)):
            smtp.expect(line, code)
        smtp.say(mail.message(sender, box, "undeclared", body=lines(LIMIT + 1000)) + b".\r\n")
        assert smtp.reply()[0] == 552
        smtp.expect("NOOP", 250)
    assert all(len(mail.look(box, store)) == 1 for store in mail.stores)


def test_every_store_shows_what_a_mailbox_may_hold(mail: Context) -> None:
    for store in mail.stores:
        assert re.search(r"STORAGE \d+/40\b", quota(mail, "small@example.test", store)), store
        assert re.search(r"MESSAGE \d+/50\b", quota(mail, "small@example.test", store)), store
        assert re.search(r"STORAGE \d+/30\b", quota(mail, "plain@example.test", store)), store
        assert re.search(r"STORAGE \d+/2048\b", quota(mail, "alice@example.test", store)), "mailbox_size_limit"
        assert not re.search(r"/(40|2048)\b", quota(mail, mail.fresh(), store)), "a disposable mailbox has no limit"


def test_what_a_full_mailbox_refuses_goes_back_and_what_it_holds_stays(mail: Context) -> None:
    empty(mail, "small@example.test", "info@example.test")
    kept = [send(mail, "small@example.test", f"kept{number}", 15_000, sender="info@example.test") for number in range(2)]
    for store in mail.stores:
        with mail.imap("small@example.test", store) as imap:
            imap.wait(count=2, timeout=30)
    send(mail, "small@example.test", "too-much", 15_000, sender="info@example.test")
    with mail.imap("info@example.test", mail.store) as imap:
        imap.wait(subject="Undelivered Mail", timeout=30)
    report = mail.look("info@example.test", mail.store)[-1]
    assert b"552 5.2.2" in report and b"Status: 5.2.2" in report and b"small@example.test" in report
    for store in of(mail, "quota-enforced"):
        found = mail.look("small@example.test", store)
        assert len(found) == 2 and all(any(one.endswith(message) for one in found) for message in kept), "two at one moment come in either order"


def test_a_mailbox_that_is_nearly_full_says_so(mail: Context) -> None:
    """32K of 40K are below the mark, a little more is above it; one message tells it, in each store that can."""
    empty(mail, "small@example.test")
    for number in range(2):
        send(mail, "small@example.test", f"below{number}", 15_000)
    for store in of(mail, "quota-warning"):
        with mail.imap("small@example.test", store) as imap:
            imap.wait(count=2, timeout=30)
        assert not any("full" in subject for subject in subjects(mail, "small@example.test", store))
    send(mail, "small@example.test", "above", 2_500)
    for store in of(mail, "quota-warning"):
        with mail.imap("small@example.test", store) as imap:
            imap.wait(subject="Your mailbox is 80 % full", timeout=30)
        assert sum("full" in subject for subject in subjects(mail, "small@example.test", store)) == 1


def test_a_number_of_messages_is_a_limit_too(mail: Context) -> None:
    empty(mail, "few@example.test", "bob@example.test")
    for number in range(3):
        send(mail, "few@example.test", f"n{number}", 100, sender="bob@example.test")
        for store in of(mail, "quota-enforced"):  # of deliveries at one moment both would find room
            with mail.imap("few@example.test", store) as imap:
                imap.wait(count=min(number + 1, 2), timeout=30)
    with mail.imap("bob@example.test", mail.store) as imap:
        imap.wait(subject="Undelivered Mail", timeout=30)
    for store in of(mail, "quota-enforced"):
        assert sum(mail.tag in subject for subject in subjects(mail, "few@example.test", store)) == 2


def test_append_is_refused_where_there_is_no_room(mail: Context) -> None:
    """By IMAP each store keeps to the limit, however its mail comes."""
    empty(mail, "plain@example.test")
    for store in mail.stores:
        with mail.imap("plain@example.test", store) as imap:
            imap.append(mail.message("a@example.test", "plain@example.test", "fits", body=lines(5_000)))
            with pytest.raises(Exception, match=r"(?i)quota"):
                imap.append(mail.message("a@example.test", "plain@example.test", "does-not", body=lines(40_000)))
        assert [subject.split()[0] for subject in subjects(mail, "plain@example.test", store)] == ["fits"]


def test_over_quota_defer_keeps_the_message_until_there_is_room(addressed: Program, quick: Quick, mail: Context) -> None:
    stack_yaml = addressed.work / "stack.yaml"
    before = stack_yaml.read_text()
    empty(mail, "few@example.test")
    try:
        stack_yaml.write_text(before + "over_quota: defer\n")
        quick("up", "--json")
        for number in range(3):
            send(mail, "few@example.test", f"wait{number}", 100)
            for store in of(mail, "quota-enforced"):  # of deliveries at one moment both would find room
                with mail.imap("few@example.test", store) as imap:
                    imap.wait(count=min(number + 1, 2), timeout=30)
        container = docker("ps", "-q", "--filter", f"name=stackctl-{addressed.name}-mta").strip()
        until(lambda: "452" in docker("exec", container, "postqueue", "-p"), 30, "the message waits in the queue with 452")
        for store in of(mail, "quota-enforced"):
            assert sum(mail.tag in subject for subject in subjects(mail, "few@example.test", store)) == 2
        empty(mail, "few@example.test")
        for store in of(mail, "quota-enforced"):
            with mail.imap("few@example.test", store) as imap:
                imap.wait(subject=f"wait2 {mail.tag}", timeout=60)
    finally:
        stack_yaml.write_text(before)
        quick("up", "--json")
