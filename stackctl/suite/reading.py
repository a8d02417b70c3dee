"""What a mail program does with a mailbox by POP3 and IMAP: leave, delete, flag, file, search, wait. Only in mailboxes of its own."""

from __future__ import annotations

import contextlib
import time
from imaplib import IMAP4

from imapclient.exceptions import IMAPClientError

from stackctl import engine, inventory
from stackctl.backends import all_backends
from stackctl.clients.probe import probe
from stackctl.errors import StackctlError
from stackctl.scenario import Context, Failed, expect, scenario

POP3, IMAP = ("pop3s", "pop3"), ("imaps", "imap")


def _fill(context: Context, count: int = 3) -> tuple[str, list[bytes]]:
    """A fresh mailbox with messages, in their order."""
    box = context.fresh()
    messages = [context.message(context.sender("smtp"), box, f"number{number}", body=b"Line 1\r\nLine 2\r\nLine 3\r\n") for number in range(count)]
    for number, message in enumerate(messages, 1):
        context.send(box, message, way="smtp")
        context.mailbox(box, number, way="imaps")
        # One after the other, so that the order is known; some servers give UIDs that last only to a mailbox that was selected, not examined.
        with context.imap(box, way="imaps") as imap:
            imap.select()
    return box, messages


@scenario(feature="D1", over=("store", "way_out"), ways_out=POP3, needs={"pop3"})
def pop3_leaves_a_copy_on_the_server(context: Context) -> None:
    """Downloading deletes nothing; the unique ids tell the next session what it has already."""
    box, messages = _fill(context, 2)
    with context.pop3(box) as pop3:
        first = pop3.uidl()
        got = [pop3.retr(number) for number in (1, 2)]
    # Not every server numbers messages in the order in which they came.
    expect(all(any(octets.endswith(message) for octets in got) for message in messages), "what was downloaded is not what was sent")
    with context.pop3(box) as pop3:
        expect(pop3.uidl() == first, f"the unique ids changed: {first}, then {pop3.uidl()}")
        expect(pop3.sizes() == {number: len(octets) for number, octets in enumerate(got, 1)}, f"LIST says {pop3.sizes()}, RETR gave {list(map(len, got))}")


@scenario(feature="D1", over=("store", "way_out"), ways_out=POP3, needs={"pop3"})
def pop3_deletes_what_it_is_told_and_nothing_else(context: Context) -> None:
    """DELE counts at QUIT; the others keep their unique ids."""
    box, _ = _fill(context)
    with context.pop3(box) as pop3:
        before = {unique: pop3.retr(number) for number, unique in pop3.uidl().items()}
        gone = pop3.uidl()[2]
        pop3.dele(2)
    with context.pop3(box) as pop3:
        after = {unique: pop3.retr(number) for number, unique in pop3.uidl().items()}
        expect(after == {unique: octets for unique, octets in before.items() if unique != gone}, f"left are {after.keys()} of {before.keys()} without {gone}")
        try:
            pop3.retr(3)
        except StackctlError:
            return
        raise Failed("a message that is not there was retrieved")


@scenario(feature="D1", over=("store", "way_out"), ways_out=POP3, needs={"pop3"})
def pop3_top_gives_the_header_and_some_lines(context: Context) -> None:
    """RFC 1939 7: TOP n 1 is the header, an empty line and one line."""
    box, messages = _fill(context, 1)
    with context.pop3(box) as pop3:
        top = pop3.top(1, 1)
    header, _, _ = messages[0].partition(b"\r\n\r\n")
    expect(top.endswith(header + b"\r\n\r\nLine 1\r\n"), f"TOP gave {top[-120:]!r}")


@scenario(feature="D1", over=("store", "way_out"), ways_out=POP3, needs={"pop3"})
def pop3_announces_what_it_can(context: Context) -> None:
    """RFC 2449: before TLS STLS and no USER, so that no program sends its password; inside it the other way about."""
    with context.pop3() as pop3:
        inside = pop3.capabilities
        expect({"TOP", "UIDL"} <= inside, f"CAPA inside TLS: {sorted(inside)}")
        expect({"USER", "SASL"} & inside, f"no login is announced inside TLS: {sorted(inside)}")
        expect("STLS" not in inside, "STLS is announced inside TLS")
    if context.case.way_out == "pop3":
        with context.pop3(tls="none") as pop3:
            expect("STLS" in pop3.capabilities, f"CAPA before TLS: {sorted(pop3.capabilities)}")


@scenario(feature="D2", over=("store", "way_out"), ways_out=IMAP, needs={"imap"})
def imap_announces_what_it_can(context: Context) -> None:
    """RFC 3501 6.2.1: before TLS STARTTLS and LOGINDISABLED; inside TLS neither, and IDLE and UIDPLUS after the login."""
    with context.imap() as imap:
        expect(not {"STARTTLS", "LOGINDISABLED"} & imap.capabilities, f"inside TLS: {sorted(imap.capabilities)}")
    with context.imap(context.fresh()) as imap:
        imap.library.capability = None
        expect({"IMAP4REV1", "IDLE", "UIDPLUS"} <= imap.capabilities, f"after the login: {sorted(imap.capabilities)}")
    if context.case.way_out == "imap":
        with context.imap(tls="none") as imap:
            expect({"STARTTLS", "LOGINDISABLED"} <= imap.capabilities, f"before TLS: {sorted(imap.capabilities)}")


@scenario(feature="D2", over=("store", "way_out"), ways_out=IMAP, needs={"imap"})
def imap_reads_headers_first_and_marks_nothing(context: Context) -> None:
    """A list of headers leaves every message unseen; reading one marks that one."""
    box, _ = _fill(context, 2)
    with context.imap(box) as imap:
        imap.select()
        one, two = imap.uids()
        expect([row.subject for row in imap.summaries([one, two])] == [f"number0 {context.tag}", f"number1 {context.tag}"], "the headers are others")
        expect(imap.uids("UNSEEN") == [one, two], "reading headers marked messages as seen")
        imap.library.fetch([one], ["BODY[]"])
        expect(imap.uids("UNSEEN") == [two], f"after reading one message unseen are {imap.uids('UNSEEN')} of {[one, two]}")


@scenario(feature="D2", over=("store", "way_out"), ways_out=IMAP, needs={"imap"})
def imap_keeps_flags_for_the_next_session(context: Context) -> None:
    """System flags and a keyword, set and taken away; a session that only looks changes nothing."""
    box, _ = _fill(context, 1)
    with context.imap(box) as imap:
        imap.select()
        uids = imap.uids()
        imap.library.add_flags(uids, [b"\\Flagged", b"\\Answered", b"Later"])
        imap.library.remove_flags(uids, [b"\\Answered"])
    with context.imap(box) as imap:
        imap.select(readonly=True)
        flags = set(imap.library.get_flags(uids)[uids[0]])
        expect({b"\\Flagged", b"Later"} <= flags and b"\\Answered" not in flags, f"the flags are {flags}")
        expect(imap.uids("FLAGGED") == uids and imap.uids("ANSWERED") == [], "SEARCH does not see the flags")
        with contextlib.suppress(IMAPClientError, IMAP4.error):  # to refuse is right, to do nothing as well
            imap.library.add_flags(uids, [b"\\Deleted"])
        expect(b"\\Deleted" not in imap.library.get_flags(uids)[uids[0]], "a mailbox that was only examined was changed")


@scenario(feature="D2", over=("store", "way_out"), ways_out=IMAP, needs={"imap"})
def imap_files_messages_in_folders(context: Context) -> None:
    """Create, copy, append, rename, delete, with a name outside ASCII (RFC 3501 5.1.3); a folder that is not there says so."""
    box, messages = _fill(context, 1)
    with context.imap(box) as imap:
        name = f"{imap.prefix}Entwürfe"
        imap.create(name)
        expect(name in imap.folders(), f"the folders are {imap.folders()}")
        imap.select()
        imap.library.copy(imap.uids(), name)
        imap.append(messages[0], name, ["\\Seen"])
        imap.select(name)
        copies = [imap.fetch(uid) for uid in imap.uids()]
        expect(len(copies) == 2 and all(octets.endswith(messages[0]) for octets in copies), "the folder holds something else")
        expect(len(imap.uids("SEEN")) == 1, "the flag of the appended message is gone")
        imap.select()
        imap.library.rename_folder(name, f"{name}2")
        imap.library.delete_folder(f"{name}2")
        expect(not [folder for folder in imap.folders() if folder.startswith(name)], f"the folders are {imap.folders()}")
        try:
            imap.select(name)
        except StackctlError:
            return
        raise Failed("a deleted folder was opened")


@scenario(feature="D2", over=("store", "way_out"), ways_out=IMAP, needs={"imap"})
def imap_searches(context: Context) -> None:
    """By header, text, size and set; what is not there is not found."""
    box, _ = _fill(context)
    with context.imap(box) as imap:
        imap.select(readonly=True)
        uids = imap.uids()
        for criteria, found in (
            (("SUBJECT", "number1"), uids[1:2]),
            (("FROM", context.sender("smtp")), uids),
            (("BODY", "Line 2"), uids),
            (("BODY", "no such text"), []),
            (("LARGER", "100000"), []),
            (("UID", f"{uids[1]}:*"), uids[1:]),
            (("NOT", "SUBJECT", "number1"), [uids[0], uids[2]]),
        ):
            expect(imap.uids(*criteria) == found, f"SEARCH {' '.join(criteria)} found {imap.uids(*criteria)} of {uids}, expected {found}")


@scenario(feature="D2", over=("store", "way_out"), ways_out=IMAP, needs={"imap"})
def imap_deletes_what_it_is_told_and_nothing_else(context: Context) -> None:
    """STORE and EXPUNGE; POP3 sees the same mailbox."""
    box, _ = _fill(context)
    with context.imap(box) as imap:
        imap.select()
        uids = imap.uids()
        kept = {imap.fetch(uids[0]), imap.fetch(uids[2])}
        imap.delete(uids[1:2])
        expect(imap.uids() == [uids[0], uids[2]], f"left are {imap.uids()} of {uids}")
    with context.pop3(box, way="pop3s") as pop3:
        left = {pop3.retr(number) for number in pop3.uidl()}
    expect(left == kept, "POP3 sees something else")


@scenario(feature="D2", over=("store", "way_out"), ways_out=IMAP, needs={"imap", "idle"})
def imap_idle_tells_of_a_new_message(context: Context) -> None:
    """RFC 2177; before the message nothing is told."""
    box = context.fresh()
    with context.imap(box) as imap:
        imap.select()
        imap.library.idle()
        early = [row for row in imap.library.idle_check(0.3) if row[1:2] == (b"EXISTS",)]
        context.send(box, context.message(context.sender("smtp"), box), way="smtp")
        told, deadline = False, time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            told = any(row[1:2] == (b"EXISTS",) for row in imap.library.idle_check(deadline - time.monotonic()))
        imap.library.idle_done()
        expect(not [row for row in early if row[0]], f"IDLE told of a message that was not there: {early}")
        expect(told, "IDLE told nothing for 10 s")
        expect(len(imap.uids()) == 1, "the message is not there")


@scenario(feature=("D1", "D2"), over=("store",), needs={"imap", "pop3"}, alone=True)
def ids_stay_the_same_over_a_restart(context: Context) -> None:
    """UIDVALIDITY and UIDs (RFC 3501 2.3.1.1), UIDL (RFC 1939 7), flags and octets; the MTA delivers again afterwards."""
    box, _ = _fill(context, 2)
    before = _identity(context, box)
    store = context.store
    engine.each("restart", [one for one in inventory.containers(context.endpoints["name"]) if one.service == store])
    part = context.endpoints["stores"][store]
    deadline = time.monotonic() + 30
    for listener, about in all_backends()[part["backend"]].listeners.items():
        if part.get(listener):
            probe(context.where(store, listener), about.protocol, deadline, lambda: engine.last_words(part["container"]), f"{store} {listener}")
    after = _identity(context, box)
    expect(before == after, f"before the restart {before.keys()}, afterwards {after.keys()}{'' if before.keys() != after.keys() else ', with other octets'}")
    context.send(box, context.message(context.sender("smtp"), box, "afterwards"), way="smtp")
    context.mailbox(box, 3)
    grown = _identity(context, box)
    expect(before.items() <= grown.items(), f"a new message changed what the old ones are known by: {before.keys()}, then {grown.keys()}")


def _identity(context: Context, box: str) -> dict[str, bytes]:
    """What a mail program remembers of a mailbox: the octets by UIDVALIDITY and UID, and by POP3's unique id."""
    with context.imap(box, way="imaps") as imap:
        validity = imap.select(readonly=True)["UIDVALIDITY"]
        found = {f"UID {validity}/{uid}": imap.fetch(uid) for uid in imap.uids()}
    with context.pop3(box, way="pop3s") as pop3:
        return found | {f"UIDL {unique}": pop3.retr(number) for number, unique in pop3.uidl().items()}
