"""A mailbox as its clients see it, read through IMAP and POP3, and what of one another is not the same. It changes nothing, and asks no server's name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from typing import Any

from stackctl.clients.imap import Imap
from stackctl.clients.pop3 import Pop3
from stackctl.clients.where import Where, open_listeners
from stackctl.errors import UsageError

_BATCH = 4_000_000  # octets of messages that are asked for at once
_SHOWN = 3  # messages that one line names

Path = tuple[str, ...]  # of a folder: ("INBOX",), ("Work", "2024")


@dataclass(frozen=True)
class Message:
    """What a client knows of a message: flags and keywords but \\Recent, INTERNALDATE in seconds since 1970, octets, and a digest of them.

    `identity` is its Message-ID, the digest where it has none: the same in every store, whatever its way there added to the header.
    """

    flags: frozenset[str]
    date: float
    octets: int
    digest: str
    identity: str


@dataclass(frozen=True)
class Folder:
    """A folder: UIDVALIDITY, UIDNEXT, and its messages by UID."""

    validity: int
    following: int
    messages: Mapping[int, Message]


@dataclass(frozen=True)
class Mailbox:
    """All of a person's folders, which of them are subscribed to, and the unique ids of POP3 in the order of its numbers; None where it was not read.

    `style` is how the server writes the folder a in the folder b.
    """

    folders: Mapping[Path, Folder]
    subscribed: frozenset[Path]
    uidls: tuple[str, ...] | None
    style: str

    @property
    def messages(self) -> list[Message]:
        """Those of all folders."""
        return [message for folder in self.folders.values() for message in folder.messages.values()]


@dataclass(frozen=True)
class Compared:
    """`lost`: what a client finds changed that it had. `noticed`: what it finds besides, and needs not mind."""

    lost: tuple[str, ...]
    noticed: tuple[str, ...]


def read(endpoints: Mapping[str, Any], store: str, who: str, password: str, look: bool = False) -> Mailbox:
    """A mailbox by IMAP, then by POP3 where the store has that.

    A server may give UIDs and unique ids as they are asked for: after this every message has one. With `look` none are given, and POP3 is left out.
    Raises UsageError for a store without IMAP, StackctlError where it cannot be read.
    """
    opened = open_listeners(endpoints["stores"][store])
    listeners = {protocol: next((name for name in (f"{protocol}s", protocol) if name in opened), None) for protocol in ("imap", "pop3")}
    if not listeners["imap"]:
        raise UsageError(f"{store} has no open IMAP listener, by which its mailboxes are read", "`stackctl up` with `imaps` among the store's listeners opens it")
    uidls = None
    with Imap(Where.of(endpoints, store, listeners["imap"])) as imap:
        imap.login(who, password)
        folders, subscribed, style = _folders(imap, look)
    if listeners["pop3"] and not look:  # last: what came after IMAP was read has no UID, and counts for nothing yet
        with Pop3(Where.of(endpoints, store, listeners["pop3"])) as pop3:
            pop3.login(who, password)
            uidls = tuple(pop3.uidl().values())
    return Mailbox(folders, subscribed, uidls, style)


def _folders(imap: Imap, look: bool) -> tuple[dict[Path, Folder], frozenset[Path], str]:
    prefix, listed = imap.prefix, imap.listed()
    delimiter = next((between for _, between, _ in listed if between), "/")

    def path(name: str) -> Path:
        return tuple(name.removeprefix(prefix).split(delimiter)) if name.upper() != "INBOX" else ("INBOX",)

    found = {path(name): _folder(imap, name, look) for _, _, name in listed}
    return found, frozenset(path(name) for _, _, name in imap.listed(subscribed=True)), f"{prefix}b{delimiter}a"


def _folder(imap: Imap, name: str, look: bool) -> Folder:
    opened = imap.select(name, readonly=look)
    sizes = {uid: row[b"RFC822.SIZE"] for uid, row in imap.items(imap.uids() if opened["EXISTS"] else (), "RFC822.SIZE").items()}
    messages = {}
    for batch in _batches(sizes):
        for uid, row in imap.items(batch, "FLAGS", "INTERNALDATE", "BODY.PEEK[]").items():
            if b"BODY[]" in row:  # it may be gone by now
                messages[uid] = _message(row)
    return Folder(opened["UIDVALIDITY"], imap.following(name), messages)


def _batches(sizes: Mapping[int, int]) -> Iterator[list[int]]:
    batch, total = list[int](), 0
    for uid, size in sorted(sizes.items()):
        batch.append(uid)
        total += size
        if total > _BATCH:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _message(row: Mapping[bytes, Any]) -> Message:
    octets: bytes = row[b"BODY[]"] or b""
    digest = hashlib.sha256(octets).hexdigest()
    head = BytesHeaderParser().parsebytes(re.split(rb"\r?\n\r?\n", octets, maxsplit=1)[0])
    flags = frozenset(flag.decode() for flag in row[b"FLAGS"]) - {"\\Recent"}
    return Message(flags, row[b"INTERNALDATE"].timestamp(), len(octets), digest, str(head.get("Message-ID") or digest).strip())


def alone(here: Mailbox, there: Mailbox) -> int:
    """How many messages are in `here` and not in `there`, whatever folder they are in."""
    known = {message.identity for message in there.messages}
    return sum(message.identity not in known for message in here.messages)


def compare(before: Mailbox, after: Mailbox) -> Compared:
    """What a client that had `before` finds in `after`. RFC 9051 2.3.1: what it keeps is good while UIDVALIDITY and UIDs are the same."""
    lost: list[str] = []
    for path, old in before.folders.items():
        new = after.folders.get(path)
        lost += [f"{shown(path)}: the folder is missing"] if new is None else _differences(shown(path), old, new)
    lost += [f"{shown(path)}: no longer subscribed to" for path in sorted(before.subscribed - after.subscribed)]
    noticed = []
    if before.uidls is not None and after.uidls is not None:
        others = [one for one in before.uidls if one not in set(after.uidls)]
        more = len(after.uidls) - len(before.uidls) + len(others)
        if others or more > 0:
            lost.append(f"POP3: other unique ids: {len(others)}{_named(others)}, new ones: {max(more, 0)}")
        elif before.uidls != after.uidls:
            noticed.append("POP3 lists the messages in another order")
    elif before.uidls is not None:
        lost.append("POP3: the other store does not speak it")
    if before.style != after.style:
        noticed.append(f"the folder a in the folder b is {after.style}, and was {before.style}: NAMESPACE tells a client")
    if added := sorted(after.folders.keys() - before.folders.keys()):
        noticed.append(f"folders that were not there before: {', '.join(map(shown, added))}")
        lost += [f"{shown(path)}: new messages: {len(after.folders[path].messages)}" for path in added if after.folders[path].messages]
    if added := sorted(after.subscribed - before.subscribed):
        noticed.append(f"subscriptions that were not there before: {', '.join(map(shown, added))}")
    return Compared(tuple(lost), tuple(noticed))


def shown(path: Path) -> str:
    """A folder's name for people."""
    return "/".join(path)


def _differences(name: str, old: Folder, new: Folder) -> Iterator[str]:
    if old.validity != new.validity:
        yield f"{name}: UIDVALIDITY is {new.validity}, and was {old.validity}"
    if new.following < old.following:
        yield f"{name}: UIDNEXT is {new.following}, and was {old.following}"
    if missing := sorted(old.messages.keys() - new.messages.keys()):
        yield f"{name}: messages missing: {len(missing)}{_named(missing)}"
    if more := sorted(new.messages.keys() - old.messages.keys()):
        yield f"{name}: new messages: {len(more)}{_named(more)}"
    both = sorted(old.messages.keys() & new.messages.keys())
    for what, field in (("octets", "digest"), ("dates", "date"), ("flags", "flags")):
        if others := [uid for uid in both if getattr(old.messages[uid], field) != getattr(new.messages[uid], field)]:
            yield f"{name}: messages with other {what}: {len(others)}{_named(others)}"


def _named(some: Sequence[object]) -> str:
    return f" ({', '.join(map(str, some[:_SHOWN]))}{', …' if len(some) > _SHOWN else ''})" if some else ""
