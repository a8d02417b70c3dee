"""What `stackctl migrate` says of two mailboxes: every kind of difference is found, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackctl.mailbox import Folder, Mailbox, Message, alone, compare

INBOX, WORK = ("INBOX",), ("Work", "2024")
ONE = Message(frozenset({"\\Seen", "Work"}), 1e9, 5, "aa", "<1@x>")
TWO = Message(frozenset(), 1e9, 5, "bb", "<2@x>")
HERE = Mailbox({INBOX: Folder(7, 9, {3: ONE, 8: TWO}), WORK: Folder(8, 1, {})}, frozenset({WORK}), ("UID1-7", "UID2-7"), "INBOX.b.a")

pytestmark = pytest.mark.feature("D9")


def inbox(**changes: object) -> Mailbox:
    return replace(HERE, folders={**HERE.folders, INBOX: replace(HERE.folders[INBOX], **changes)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "lost"),
    [
        (HERE, []),
        (inbox(validity=6), ["INBOX: UIDVALIDITY is 6, and was 7"]),
        (inbox(following=8), ["INBOX: UIDNEXT is 8, and was 9"]),
        (inbox(following=10), []),
        (inbox(messages={3: ONE}), ["INBOX: messages missing: 1 (8)"]),
        (inbox(messages={3: ONE, 8: TWO, 9: TWO}), ["INBOX: new messages: 1 (9)"]),
        (inbox(messages={3: replace(ONE, digest="cc"), 8: TWO}), ["INBOX: messages with other octets: 1 (3)"]),
        (inbox(messages={3: ONE, 8: replace(TWO, date=2e9)}), ["INBOX: messages with other dates: 1 (8)"]),
        (inbox(messages={3: replace(ONE, flags=frozenset({"\\Seen"})), 8: TWO}), ["INBOX: messages with other flags: 1 (3)"]),
        (replace(HERE, folders={INBOX: HERE.folders[INBOX]}), ["Work/2024: the folder is missing"]),
        (replace(HERE, subscribed=frozenset()), ["Work/2024: no longer subscribed to"]),
        (replace(HERE, uidls=("UID1-7", "other")), ["POP3: other unique ids: 1 (UID2-7), new ones: 1"]),
        (replace(HERE, uidls=("UID1-7",)), ["POP3: other unique ids: 1 (UID2-7), new ones: 0"]),
        (replace(HERE, uidls=("UID1-7", "UID2-7", "third")), ["POP3: other unique ids: 0, new ones: 1"]),
        (replace(HERE, uidls=None), ["POP3: the other store does not speak it"]),
        (replace(HERE, folders={**HERE.folders, ("Sent",): Folder(1, 2, {1: ONE})}), ["Sent: new messages: 1"]),
    ],
)
def test_what_a_client_would_have_to_do_again_is_named(after: Mailbox, lost: list[str]) -> None:
    assert list(compare(HERE, after).lost) == lost


def test_what_it_needs_not_mind_is_told_apart() -> None:
    assert compare(HERE, HERE).noticed == ()
    more = {**HERE.folders, ("Sent",): Folder(1, 1, {})}
    after = Mailbox(more, HERE.subscribed | {("Sent",)}, ("UID2-7", "UID1-7"), "b/a")
    found = compare(HERE, after)
    assert not found.lost
    assert found.noticed == (
        "POP3 lists the messages in another order",
        "the folder a in the folder b is b/a, and was INBOX.b.a: NAMESPACE tells a client",
        "folders that were not there before: Sent",
        "subscriptions that were not there before: Sent",
    )


def test_a_message_is_the_same_whatever_its_way_added_to_the_header() -> None:
    there = inbox(messages={1: replace(ONE, digest="received by another way")})
    assert alone(there, HERE) == 0
    assert alone(HERE, there) == 1
