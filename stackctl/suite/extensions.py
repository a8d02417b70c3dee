"""What a store can do beyond the first steps, RFC by RFC, as mail programs use it. Whether it has an extension it says itself: no list here decides it.

Messages are put into the mailboxes by APPEND where the way of a message is not what it is about.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable
from imaplib import IMAP4
from typing import Any

from stackctl.clients.imap import Imap
from stackctl.corpus import DATE
from stackctl.errors import StackctlError
from stackctl.scenario import Context, expect, offered, scenario
from stackctl.suite.access import refused
from stackctl.suite.declared import declared

GREETINGS = "Grüße"


def _refused(what: str, call: Callable[[], object]) -> None:
    """Fails unless the server refuses this, be it said by a client of ours or by the library below."""
    refused((StackctlError, IMAP4.error), call, what)


def _put(context: Context, imap: Imap, box: str, *messages: bytes | str) -> list[int]:
    """Puts messages, or short ones of these names, into the INBOX and opens it; their UIDs."""
    for one in messages:
        imap.append(context.message(box, box, one) if isinstance(one, str) else one)
    imap.select()
    return imap.uids()


def _same(found: object, expected: object, what: str) -> None:
    expect(found == expected, f"{what}: {found}, expected {expected}")


# --- POP3


@scenario(feature="D1", over=("store",), needs={"pop3"})
def pop3_unique_ids_outlive_deliveries_and_deletions(context: Context) -> None:
    """RFC 1939 7: the id of a message stays when others come and go, the id of a deleted one never comes back; 1 to 70 printable octets."""
    box, names = context.fresh(), ("first", "second", "third")
    ids: dict[str, str] = {}
    gone = ""
    for number, name in enumerate(names, 1):
        left = number - bool(gone)
        context.send(box, context.message(context.sender("smtp"), box, name), way="smtp")
        context.mailbox(box, left, way="imaps")
        with context.pop3(box) as pop3:
            offered(pop3, "UIDL")
            here = {name: unique for at, unique in pop3.uidl().items() for name in names if f"Subject: {name} ".encode() in pop3.top(at, 0)}
            expect(here.items() >= ids.items(), f"ids changed: {ids}, then {here}")
            expect(gone not in here.values(), f"the id {gone} of a deleted message is there again: {here}")
            expect(len(set(here.values())) == left, f"not an id for each of {left} messages: {here}")
            expect(all(re.fullmatch("[!-~]{1,70}", unique) for unique in here.values()), f"not ids: {here}")
            ids = here
            if name == "second":
                gone = ids.pop("first")
                pop3.dele(next(at for at, unique in pop3.uidl().items() if unique == gone))


# --- IMAP, what RFC 3501 asks of every server


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_keeps_keywords(context: Context) -> None:
    """RFC 3501 2.3.2, keywords of a program's own: searched for, copied along, there in the next session; one that nobody set is nowhere."""
    box = context.fresh()
    with context.imap(box) as imap:
        one, two = _put(context, imap, box, "one", "two")
        expect(b"\\*" in imap.library.select_folder("INBOX")[b"PERMANENTFLAGS"], "PERMANENTFLAGS says that there can be no new keyword")
        imap.library.add_flags([one], ["$Forwarded", "Project-X"])
        folder = f"{imap.prefix}Copies"
        imap.create(folder)
        imap.library.copy([one, two], folder)
    with context.imap(box) as imap:
        imap.select()
        for keyword, found in (("$Forwarded", [one]), ("Project-X", [one]), ("Never", [])):
            _same(imap.uids("KEYWORD", keyword), found, f"SEARCH KEYWORD {keyword}")
        _same(imap.uids("UNKEYWORD", "Project-X"), [two], "SEARCH UNKEYWORD Project-X")
        imap.library.remove_flags([one], ["Project-X"])
        _same(imap.uids("KEYWORD", "Project-X"), [], "after it was taken away")
        imap.select(folder)
        _same(len(imap.uids("KEYWORD", "Project-X")), 1, "copies with the keyword")


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_searches_in_utf_8(context: Context) -> None:
    """RFC 3501 6.4.4: what is looked for is text, whatever its encoding in the message; a charset that nobody knows is refused."""
    box = context.fresh()
    coded = base64.encodebytes(f"{GREETINGS} aus Köln, привет\n".encode()).replace(b"\n", b"\r\n")
    in_utf8 = (
        f"From: {box}\r\nSubject: =?utf-8?B?{base64.b64encode(GREETINGS.encode()).decode()}?= one\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    ).encode() + coded
    in_latin1 = (
        f"From: {box}\r\nSubject: =?iso-8859-1?Q?Gr=FC=DFe?= two\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe aus M=FCnchen\r\n"
    ).encode()
    with context.imap(box) as imap:
        one, two, _ = _put(context, imap, box, in_utf8, in_latin1, "Gruesse")
        for key, text, found in (
            ("SUBJECT", GREETINGS, [one, two]),
            ("BODY", "Köln", [one]),
            ("BODY", "München", [two]),
            ("TEXT", "привет", [one]),
            ("SUBJECT", "Grüsse", []),
            ("BODY", "Кёльн", []),
        ):
            _same(sorted(imap.library.search([key, text], "UTF-8")), found, f"SEARCH CHARSET UTF-8 {key} {text}")
        _refused("SEARCH CHARSET X-NOBODY", lambda: imap.library.search([b"SUBJECT", b"x"], "X-NOBODY"))


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_takes_folder_names_of_every_script(context: Context) -> None:
    """RFC 3501 5.1.3: modified UTF-7, in which "&" stands for itself as "&-"; octets that are none of it make no folder."""
    with context.imap(context.fresh()) as imap:
        prefix = imap.prefix
        for name, coded in (("台北日本語", "&U,BTF2XlZyyKng-"), ("Kärntner Ö", "K&AOQ-rntner &ANY-"), ("R&D", "R&-D")):
            imap.create(prefix + name)
            imap.append(b"Subject: x\r\n\r\nx\r\n", prefix + name)
            expect(prefix + name in imap.folders(), f"{name} is not among {imap.folders()}")
            expect(prefix + coded in _on_the_wire(imap), f"{name} goes over the wire as one of {_on_the_wire(imap)}, expected {coded}")
            _same(imap.select(prefix + name)["EXISTS"], 1, f"messages in {name}")
            _refused(f"SELECT of {name} with another letter", lambda name=name: imap.select(f"{prefix}{name}ü"))  # type: ignore[misc]
        _refused("CREATE with a broken name", lambda: imap.ask("CREATE", f'"{prefix}broken&AOQ"'))


def _on_the_wire(imap: Imap) -> list[str]:
    """The names of all mailboxes as the server sends them."""
    imap.library.folder_encode = False
    try:
        return [name.decode() if isinstance(name, bytes) else name for name in imap.folders()]
    finally:
        imap.library.folder_encode = True


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_sessions_see_what_the_others_do(context: Context) -> None:
    """RFC 3501 7.3 and 7.4: at its next command a session is told of new messages, flags and deletions by another one; of nothing where nothing happened."""
    box = context.fresh()
    with context.imap(box) as imap, context.imap(box) as other:
        one, two = _put(context, imap, box, "one", "two")
        other.select()
        _same([row for row in _told(other) if row[1] in (b"EXISTS", b"EXPUNGE", b"FETCH")], [], "told before anything happened")
        imap.append(context.message(box, box, "three"))
        expect((3, b"EXISTS") in _told(other), "the other session is not told of a new message")
        imap.library.add_flags([two], ["\\Flagged"])
        told = [row for row in _told(other) if row[1] == b"FETCH"]
        expect([row[0] for row in told] == [2] and b"\\Flagged" in repr(told).encode(), f"the other session is told of a flag so: {told}")
        imap.delete([one])
        expect((1, b"EXPUNGE") in _told(other), "the other session is not told of a deletion")
        _same(other.uids(), imap.uids(), "messages for the other session")
        _refused("FETCH of a message that another session deleted", lambda: other.fetch(one))


def _told(imap: Imap) -> list[Any]:
    """What the server has to say by itself, to a session that asks nothing."""
    _, rows = imap.library.noop()
    return [tuple(row) for row in rows]


# --- IMAP extensions


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_tells_where_folders_belong(context: Context) -> None:
    """RFC 2342 NAMESPACE: folders are made below its prefix with its separator, and none outside; "%" of LIST stops at the separator."""
    with context.imap(context.fresh()) as imap:
        offered(imap, "NAMESPACE")
        prefix, separator = imap.library.namespace().personal[0]
        imap.create(f"{prefix}Upper{separator}Lower")
        first = {name for _, _, name in imap.library.list_folders("", f"{prefix}%")}
        expect(f"{prefix}Upper" in first and f"{prefix}Upper{separator}Lower" not in first, f"LIST % shows {first}")
        expect(f"{prefix}Upper{separator}Lower" in imap.folders(), f"LIST * shows {imap.folders()}")
        if prefix:
            _refused("CREATE outside of the namespace", lambda: imap.create("Outside"))
        _refused("SELECT of a folder that is not there", lambda: imap.select(f"{prefix}Upper{separator}Other"))


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_sorts(context: Context) -> None:
    """RFC 5256 SORT: by subject without its "Re:", by size, backwards; of messages that are not there none."""
    box = context.fresh()
    with context.imap(box) as imap:
        offered(imap, "SORT")
        beta, alpha, gamma = _put(
            context, imap, box, "beta", context.message(box, box, "Re: alpha", body=b"x\r\n" * 99), context.message(box, box, "gamma", body=b"x\r\n" * 9)
        )
        for how, found in (
            ("SUBJECT", [alpha, beta, gamma]),
            ("REVERSE SUBJECT", [gamma, beta, alpha]),
            ("SIZE", [beta, gamma, alpha]),
        ):
            _same(imap.library.sort(how), found, f"SORT ({how})")
        _same(imap.library.sort("SUBJECT", ["SUBJECT", "delta"]), [], "SORT of messages with another subject")


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_threads_by_references(context: Context) -> None:
    """RFC 5256 THREAD=REFERENCES: answers stand below what they answer, whatever their subjects; a stranger with a thread's subject's half does not."""
    box = context.fresh()
    with context.imap(box) as imap:
        offered(imap, "THREAD=REFERENCES")
        ids = [f"<{name}.{context.tag}@{context.disposable}>" for name in ("question", "answer")]
        question, answer, more, other = _put(
            context,
            imap,
            box,
            "question",
            context.message(box, box, "answer", f"References: {ids[0]}\r\nIn-Reply-To: {ids[0]}\r\n"),
            context.message(box, box, "more", f"References: {' '.join(ids)}\r\nIn-Reply-To: {ids[1]}\r\n"),
            "other",
        )
        _same(imap.library.thread("REFERENCES"), ((question, answer, more), (other,)), "THREAD REFERENCES")
        _same(imap.library.thread("REFERENCES", ["SUBJECT", "other"]), ((other,),), "THREAD REFERENCES of some")


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_threads_by_subject(context: Context) -> None:
    """RFC 5256 THREAD=ORDEREDSUBJECT: messages with one subject stand together, without a reference; those with another do not."""
    box = context.fresh()
    with context.imap(box) as imap:
        offered(imap, "THREAD=ORDEREDSUBJECT")
        later = context.message(box, box, "Re: topic").replace(DATE.encode(), b"Wed, 03 Jan 2024 00:00:00 +0000")  # threads stand in the order of Date
        one, other, two = _put(context, imap, box, "topic", "different", later)
        _same(set(imap.library.thread("ORDEREDSUBJECT")), {(one, two), (other,)}, "THREAD ORDEREDSUBJECT")


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_tells_the_quota(context: Context) -> None:
    """RFC 2087 GETQUOTAROOT: the limit that stack.yaml has for a user, in units of 1024 octets; none for a mailbox without a limit."""
    limited = declared(context, "a user has a quota of octets", lambda stack: any(user.quota.storage for user in stack.users if user.quota))
    address, storage = next((user.address, user.quota.storage) for user in limited.users if user.quota and user.quota.storage)
    with context.imap(address) as imap:
        offered(imap, "QUOTA")
        _same(_limits(imap), [storage // 1024], f"the limit of {address}")
    with context.imap(context.fresh()) as imap:
        _same(_limits(imap), [], "limits of a mailbox without one")


def _limits(imap: Imap) -> list[int]:
    """The limits of the INBOX in units of 1024 octets; the library's reader takes no answer that names no limit."""
    return [int(limit) for row in imap.ask("GETQUOTAROOT", "INBOX").get("QUOTA", []) for limit in re.findall(rb"STORAGE \d+ (\d+)", row)]


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_tells_what_changed_since(context: Context) -> None:
    """RFC 7162 CONDSTORE: only what changed after a point in time; a change on the grounds of an old state is not made."""
    box = context.fresh()
    with context.imap(box) as imap:
        offered(imap, "CONDSTORE")
        one, two = _put(context, imap, box, "one", "two")
        before = _mark(imap)
        imap.library.add_flags([two], ["\\Flagged"])
        _same(set(imap.library.fetch([one, two], ["FLAGS"], [f"CHANGEDSINCE {before}"])), {two}, "changed since then")
        _same(imap.library.fetch([one, two], ["FLAGS"], [f"CHANGEDSINCE {_mark(imap)}"]), {}, "changed since now")
        answers = imap.ask("UID", "STORE", f"{one},{two}", f"(UNCHANGEDSINCE {before})", "+FLAGS", "(\\Answered)")
        _same(answers.get("MODIFIED"), [str(two).encode()], "what STORE (UNCHANGEDSINCE) left alone")
        _same(imap.uids("ANSWERED"), [one], "what it changed")


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_tells_what_vanished_since(context: Context) -> None:
    """RFC 7162 QRESYNC: a program that was away learns with SELECT which messages are gone; and that none is where none is."""
    box = context.fresh()
    with context.imap(box) as imap:
        offered(imap, "QRESYNC")
        imap.ask("ENABLE", "QRESYNC")
        uids = _put(context, imap, box, "one", "two", "three")
        validity, before = imap.select()["UIDVALIDITY"], _mark(imap)
        _same(imap.ask("SELECT", "INBOX", f"(QRESYNC ({validity} {before}))").get("VANISHED"), None, "vanished before anything did")
        with context.imap(box) as other:
            other.select()
            other.delete(uids[1:2])
        _same(imap.ask("SELECT", "INBOX", f"(QRESYNC ({validity} {before}))").get("VANISHED"), [f"(EARLIER) {uids[1]}".encode()], "vanished")


def _mark(imap: Imap) -> int:
    """The point in the time of the INBOX that CONDSTORE counts."""
    return int(imap.library.folder_status("INBOX", ["HIGHESTMODSEQ"])[b"HIGHESTMODSEQ"])


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_moves_messages(context: Context) -> None:
    """RFC 6851 MOVE: in one step, octets and flags the same; a message that is not there moves nothing, nor does a folder that is not."""
    box = context.fresh()
    with context.imap(box) as imap:
        offered(imap, "MOVE")
        one, two = _put(context, imap, box, "one", "two")
        folder = f"{imap.prefix}Moved"
        imap.create(folder)
        octets = imap.fetch(one)
        imap.library.add_flags([one], ["\\Flagged"])
        imap.library.move([one], folder)
        _same(imap.uids(), [two], "left in the INBOX")
        imap.library.move([two + 100], folder)
        _refused("MOVE to a folder that is not there", lambda: imap.library.move([two], f"{imap.prefix}Nowhere"))
        _same(imap.uids(), [two], "left in the INBOX after two moves of nothing")
        imap.select(folder)
        _same([imap.fetch(uid) for uid in imap.uids("FLAGGED")], [octets], "moved")
        _same(len(imap.uids()), 1, "messages in the folder")


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_marks_folders_for_special_use(context: Context) -> None:
    """RFC 6154 SPECIAL-USE: a program finds where drafts, sent mail, junk and trash go; other folders are marked as nothing."""
    with context.imap(context.fresh()) as imap:
        offered(imap, "SPECIAL-USE")
        uses = {b"\\Drafts", b"\\Sent", b"\\Junk", b"\\Trash", b"\\Archive"}
        imap.create(f"{imap.prefix}Ordinary")
        marked = {name: uses & set(flags) for flags, _, name in imap.library.list_folders()}
        _same(sorted(flag for flags in marked.values() for flag in flags), sorted(uses), f"uses of {marked}")
        _same((marked["INBOX"], marked[f"{imap.prefix}Ordinary"]), (set(), set()), "uses of the INBOX and an ordinary folder")


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_takes_utf_8_once_it_is_enabled(context: Context) -> None:
    """RFC 6855 UTF8=ACCEPT: after ENABLE names go over the wire as they are; a session that did not ask for it gets modified UTF-7."""
    box = context.fresh()
    with context.imap(box) as imap:
        offered(imap, "ENABLE", "UTF8=ACCEPT")
        imap.library._imap.enable("UTF8=ACCEPT")
        name = f"{imap.prefix}{GREETINGS}"
        imap.ask("CREATE", f'"{name}"')
        expect(name in _on_the_wire(imap), f"after ENABLE the folders are {_on_the_wire(imap)}")
    with context.imap(box) as imap:
        expect(f"{imap.prefix}Gr&APwA3w-e" in _on_the_wire(imap), f"without ENABLE the folders are {_on_the_wire(imap)}")


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_gives_rights_to_others(context: Context) -> None:
    """RFC 4314 ACL: the owner has every right and gives some, and takes them away; somebody else has none before and after."""
    owner, guest = context.fresh("owner"), context.fresh("guest")
    with context.imap(owner) as imap:
        offered(imap, "ACL")
        folder = f"{imap.prefix}Plans"
        imap.create(folder)
        mine = imap.ask("MYRIGHTS", folder)["MYRIGHTS"][0].split()[-1].decode()
        expect(set("lrswia") <= set(mine), f"the owner's rights are {mine}")
        expect(guest not in _rights(imap, folder), f"rights before any was given: {_rights(imap, folder)}")
        imap.library.setacl(folder, guest, "lr")
        _same(set(_rights(imap, folder).get(guest, "")), set("lr"), "rights of the guest")
        imap.library.setacl(folder, guest, '""')
        expect(not _rights(imap, folder).get(guest), f"rights after they were taken: {_rights(imap, folder)}")
        _refused("SETACL of a folder that is not there", lambda: imap.library.setacl(f"{folder}2", guest, "lr"))


@scenario(feature="D2", over=("store",), needs={"imap"})
def imap_lets_others_into_a_folder(context: Context) -> None:
    """RFC 4314 ACL and RFC 2342 NAMESPACE: who was given a right finds the folder among those of other people, and reads; before, after and without it nothing."""
    declared(context, "there are two users", lambda stack: len(stack.users) > 1)
    owner, guest = context.users[:2]
    name = f"Plans-{context.tag}"
    message = context.message(owner, guest, "plan")
    with context.imap(owner) as imap:
        offered(imap, "ACL", "NAMESPACE")
        folder = f"{imap.prefix}{name}"
        imap.create(folder)
        try:
            imap.append(message, folder)
            with context.imap(guest) as other:
                _same(_elsewhere(other, name), [], "what the guest finds before")
            imap.library.setacl(folder, guest, "lr")
            with context.imap(guest) as other:  # a server may look once in a session who else has folders
                found = _elsewhere(other, name)
                _same(len(found), 1, "folders that the guest finds")
                other.select(found[0], readonly=True)
                _same([other.fetch(uid) for uid in other.uids()], [message], "what the guest reads")
                _refused("APPEND without the right to it", lambda: other.append(message, found[0]))
            imap.library.setacl(folder, guest, '""')
            with context.imap(guest) as other:
                _same(_elsewhere(other, name), [], "what the guest finds afterwards")
        finally:
            imap.library.delete_folder(folder)


def _elsewhere(imap: Imap, name: str) -> list[str]:
    """The folders of this name among those of other people (RFC 2342)."""
    spaces = imap.library.namespace()
    shown = [folder for prefix, _ in (*(spaces.other or ()), *(spaces.shared or ())) for _, _, folder in imap.library.list_folders("", f"{prefix}*")]
    return [folder for folder in shown if folder.endswith(name)]


def _rights(imap: Imap, folder: str) -> dict[str, str]:
    """Who has which rights; the library's reader leaves quotes around names."""
    words = shlex.split(imap.ask("GETACL", folder)["ACL"][0].decode())[1:]
    return {who.removeprefix("user="): rights for who, rights in zip(words[::2], words[1::2], strict=True)}
