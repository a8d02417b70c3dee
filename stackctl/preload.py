"""Messages that lie in files, put into an INBOX of a running stack without being sent, with their flags and dates. It asks no server's name.

The verb `preload ADDRESS` of a store's image takes them as a tar archive of a Maildir on standard input: maildir(5), flags in the files' names, the
time of each file is that at which its message was received.
"""

from __future__ import annotations

import io
import mailbox
import re
import tarfile
import time
from calendar import timegm
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stackctl import command, running, state
from stackctl.errors import EngineError, UsageError
from stackctl.labels import VERBS

VERB = "preload"
_HINT = "name an mbox file, a Maildir, or a folder with .eml files"
# Maildir's flags, and those of mbox files (Status, X-Status), by their letters.
_MAILDIR = {"D": "\\Draft", "F": "\\Flagged", "R": "\\Answered", "S": "\\Seen", "T": "\\Deleted"}
_MBOX = {"R": "\\Seen", "A": "\\Answered", "F": "\\Flagged", "T": "\\Draft", "D": "\\Deleted"}
_FROM = re.compile(r"^\S+\s+(?P<date>\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})")


@dataclass(frozen=True)
class Kept:
    """A message as it lies in a file: its octets with LF line ends, its IMAP flags, and when it was received, in seconds since 1970."""

    octets: bytes
    flags: tuple[str, ...]
    received: float


def preload(known: state.State, path: Path, who: str, store: str | None = None) -> int:
    """Puts the messages of an mbox file, a Maildir, or a folder with .eml files into the INBOX of a user, in one store or in all; how many.

    They keep their order, flags and dates. Raises UsageError for a path without messages, an unknown user or an unknown store;
    CheckFailed where a store does not run, EngineError where one does not take them.
    """
    count = put(known, messages(path), who, store)
    if not count:
        raise UsageError(f"{path}: no message in it", _HINT)
    return count


def put(known: state.State, found: Iterable[Kept], who: str, store: str | None = None) -> int:
    """The same of messages that lie nowhere."""
    running.password_of(known, who)  # an unknown user ends here
    stores = running.stores(known, store)
    archive, count = _archive(found)
    if not count:
        return 0
    running.require(known, stores)

    def into(store: str) -> None:
        done = command.run(["docker", "exec", "-i", known.containers[store], f"{VERBS}/{VERB}", who.lower()], stdin=archive, check=False)
        if done.status != 0:
            raise EngineError(f"{store}: the verb {VERB} failed ({done.status}): {done.last_words}", f"`stackctl logs {store}` shows more")

    with ThreadPoolExecutor(len(stores)) as pool:
        list(pool.map(into, stores))
    return count


def _archive(found: Iterable[Kept]) -> tuple[bytes, int]:
    """A Maildir with these messages as a tar archive, and how many they are. Their names are in their order, and no other archive has them."""
    out, count, unique = io.BytesIO(), 0, time.time_ns()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for count, kept in enumerate(found, 1):
            letters = "".join(sorted(letter for letter, flag in _MAILDIR.items() if flag in kept.flags))
            entry = tarfile.TarInfo(f"cur/{unique // 10**9}.M{unique % 10**9:09}Q{count:09}.preload:2,{letters}")
            entry.size, entry.mode, entry.mtime = len(kept.octets), 0o600, kept.received
            archive.addfile(entry, io.BytesIO(kept.octets))
    return out.getvalue(), count


def messages(path: Path) -> Iterator[Kept]:
    """The messages that lie at a path, in the order of their names, or of the mbox file. Raises UsageError for what cannot be read."""
    try:
        if path.is_file():
            yield from [_eml(path)] if path.suffix == ".eml" else _mbox(path)
        elif (path / "cur").is_dir() and (path / "new").is_dir():
            yield from _maildir(path)
        else:
            for file in sorted(path.rglob("*.eml")) if path.is_dir() else [path]:
                yield _eml(file)
    except OSError as why:
        raise UsageError(f"{why.filename or path}: {why.strerror}", _HINT) from why


def _lines(octets: bytes) -> bytes:
    return octets.replace(b"\r\n", b"\n")


def _eml(file: Path) -> Kept:
    return Kept(_lines(file.read_bytes()), (), file.stat().st_mtime)


def _maildir(path: Path) -> Iterator[Kept]:
    files = sorted((file for part in ("cur", "new") for file in (path / part).iterdir() if not file.name.startswith(".")), key=lambda file: file.name)
    for file in files:
        letters = file.name.partition(":2,")[2]
        yield Kept(_lines(file.read_bytes()), tuple(flag for letter, flag in _MAILDIR.items() if letter in letters), file.stat().st_mtime)


def _mbox(path: Path) -> Iterator[Kept]:
    for message in mailbox.mbox(path, create=False):  # a line that begins with From_ has the time in UTC (RFC 4155)
        letters = message.get("Status", "") + message.get("X-Status", "")
        for name in ("Status", "X-Status"):
            del message[name]
        found = _FROM.match(message.get_from())
        received = timegm(time.strptime(found["date"])) if found else path.stat().st_mtime
        yield Kept(_lines(message.as_bytes()), tuple(flag for letter, flag in _MBOX.items() if letter in letters), received)
