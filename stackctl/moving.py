"""Mailboxes of a running stack moved from one store to another, and proven to be the same to their clients. It asks no server's name.

A store that can do it has the verb `migrate` in its image, for one person's mailbox:

migrate out ADDRESS      writes it as a tar archive: `box`, a Maildir whose folders are as in Maildir++, and `whole`, an empty file, last. Names of folders
                         are in modified UTF-7 (RFC 3501 5.1.3). UIDVALIDITY, UIDs, POP3's unique ids, keywords and subscriptions are in the index files
                         dovecot-uidlist, dovecot-keywords and subscriptions. What has no UID yet is not in it.
migrate in ADDRESS       makes the mailbox what such an archive holds, at once and as a whole, or fails. A folder with the UIDVALIDITY that it had gets
                         what is new, and open sessions see it; else sessions end.
migrate adopt ADDRESS    the same of a Maildir as this server itself has left it.

None changes what it reads, and each can be done again after whatever ended it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from time import monotonic

from stackctl import belongings, command, mailbox, running, state
from stackctl.backends import all_backends
from stackctl.errors import CheckFailed, EngineError, UsageError
from stackctl.labels import VERBS
from stackctl.mailbox import Mailbox

VERB = "migrate"
_TIMEOUT = 24 * 3600.0  # seconds for one mailbox, however large


@dataclass(frozen=True)
class Moved:
    """One mailbox: what was moved, and what a client would find changed (`lost`), or notice. `refused` says why nothing was done, "" where it was."""

    address: str
    folders: int
    messages: int
    octets: int
    seconds: float = 0.0
    refused: str = ""
    lost: Sequence[str] = ()
    noticed: Sequence[str] = ()

    @property
    def same(self) -> bool:
        """Whether clients go on as before."""
        return not self.refused and not self.lost


def move(
    known: state.State,
    source: str,
    target: str,
    users: Sequence[str] = (),
    *,
    maildir: Path | None = None,
    replace: bool = False,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[Moved]:
    """Makes mailboxes in `target` what they are in `source`, of these users or of every one; with `maildir` first what they are in `source` what lies there.

    Messages that the target alone has are in the way, unless `replace`. With `dry_run` nothing is done. Raises UsageError for an unknown store or user,
    stores that cannot do it and a folder that is no Maildir, CheckFailed where a store does not run, EngineError where one fails: then nothing is lost,
    and the same again goes on.
    """
    from stackctl import model
    from stackctl.problems import valid

    parts = {store: known.endpoints["stores"][store] for store in (*running.stores(known, source), *running.stores(known, target))}
    if VERB not in all_backends()[parts[source]["backend"]].verbs:
        raise UsageError(f"{source} cannot hand its mailboxes over", "choose another store")
    if (form := parts[target]["mailbox"]) not in all_backends()[parts[target]["backend"]].migrates_into:
        raise UsageError(f"{target} keeps its mailboxes as {form}, into which none can be moved", "choose another store, or another `mailbox:` for it")
    if source == target:
        raise UsageError(f"--from and --to are both {source}", "name two stores of the stack")
    if maildir and dry_run:
        raise UsageError("--maildir with --dry-run: what a Maildir holds is known as soon as a server has read it", "leave out one of them")
    if maildir and len(users) != 1:
        raise UsageError("--maildir is one person's mailbox", "say whose with one --user")
    if maildir and not ((maildir / "cur").is_dir() and (maildir / "new").is_dir()):
        raise UsageError(f"{maildir}: no Maildir, which has the folders cur and new", "name the folder that holds them")
    named = dict.fromkeys(valid(model.mailbox, address.lower(), "an address of the stack") for address in users)
    people = named or [account["address"] for account in known.endpoints["accounts"]]
    passwords = {who: running.password_of(known, who) for who in people}
    running.require(known, (source, target))
    found = []
    with state.lock(known.name):
        for who in people:
            one = _Move(known, source, target, who, passwords[who])
            if maildir:
                report(f"{who}: {maildir} into {source} …")
                one.adopt(maildir, replace)
            found.append(one.look(replace) if dry_run else one.run(replace, report))
    return found


@dataclass(frozen=True)
class _Move:
    """Of one mailbox."""

    known: state.State
    source: str
    target: str
    who: str
    password: str

    def adopt(self, maildir: Path, replace: bool) -> None:
        """Makes the mailbox in the source what lies in a folder. Raises CheckFailed where it holds messages, unless `replace`."""
        if not replace and self.read(self.source).messages:
            raise CheckFailed(f"{self.who} has messages in {self.source} already", f"--replace puts {maildir} in their place")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "whole").touch()
            tar = ["tar", "-c", "--format=gnu", "--transform", r"s,^\.,box,", "-C", str(maildir), ".", "-C", folder, "whole"]
            self.pipe(tar, self.verb(self.source, "adopt"))

    def look(self, replace: bool) -> Moved:
        """What would be moved; as a client that only looks sees it."""
        before, there = self.both(look=True)
        return self.moved(before, refused="" if replace else self.in_the_way(before, there))

    def run(self, replace: bool, report: Callable[[str], None]) -> Moved:
        """Moves it, and compares what clients see."""
        report(f"{self.who}: reading {self.source} and {self.target} …")
        before, there = self.both()
        if refused := "" if replace else self.in_the_way(before, there):
            return self.moved(before, refused=refused)
        report(f"{self.who}: {len(before.messages)} messages from {self.source} into {self.target} …")
        start = monotonic()
        self.pipe(self.verb(self.source, "out"), self.verb(self.target, "in"))
        seconds = monotonic() - start
        had = belongings.read(self.known.endpoints, self.source, self.who, self.password)
        left = belongings.carry(self.known.endpoints, self.target, self.who, self.password, had, replace)
        report(f"{self.who}: reading {self.target} …")
        compared = mailbox.compare(before, self.read(self.target))
        return replaced(self.moved(before), seconds=seconds, lost=compared.lost, noticed=(*compared.noticed, *left))

    def in_the_way(self, before: Mailbox, there: Mailbox) -> str:
        count = mailbox.alone(there, before)
        return f"messages that {self.target} alone has, and that would be gone: {count}; --replace moves nevertheless" if count else ""

    def moved(self, before: Mailbox, refused: str = "") -> Moved:
        messages = before.messages
        return Moved(self.who, len(before.folders), len(messages), sum(message.octets for message in messages), refused=refused)

    def both(self, look: bool = False) -> tuple[Mailbox, Mailbox]:
        with ThreadPoolExecutor(2) as pool:
            before, there = pool.map(lambda store: self.read(store, look), (self.source, self.target))
        return before, there

    def read(self, store: str, look: bool = False) -> Mailbox:
        return mailbox.read(self.known.endpoints, store, self.who, self.password, look)

    def verb(self, store: str, word: str) -> list[str]:
        return ["docker", "exec", "-i", self.known.containers[store], f"{VERBS}/{VERB}", word, self.who]

    def pipe(self, producer: Sequence[str], consumer: Sequence[str]) -> None:
        try:
            command.pipe(producer, consumer, timeout=_TIMEOUT)
        except EngineError as why:
            raise EngineError(f"{self.who}: {why.message}", "nothing is lost in the store that is read; the same command again begins anew") from why
