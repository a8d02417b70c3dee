"""The mail that a running stack holds, in all its servers together: emptied, kept aside under a name, and put back. It knows no account.

A server that holds mail, an MTA or a store, has the verb `contents` in its image:

contents messages        no message is left; folders and what clients know of them stay, and open sessions see it as the work of another one
contents mailboxes       mailboxes are as before the first message, without folders, subscriptions and scripts of their own;
                         a UIDVALIDITY that was in use comes back with no other messages (RFC 9051 2.3.1.1). An MTA's queue is empty after both
contents save NAME       keeps a copy of everything in the server's own volume, under a name that was checked; one of that name is replaced
contents restore NAME    makes everything what the copy is, UIDs and flags too; open sessions end
contents delete NAME     removes the copy, if there is one

An MTA waits a moment for what it is delivering, so that this is in a mailbox and not in its queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from stackctl import command, running, state
from stackctl.backends import all_backends
from stackctl.errors import CheckFailed, EngineError, UsageError
from stackctl.labels import VERBS
from stackctl.mta import MTA
from stackctl.problems import shown, valid

VERB = "contents"
_NOT_FOUND = (126, 127)  # exit codes of the engine for a program that is not there


@dataclass(frozen=True)
class Snapshot:
    """A copy of all mail. `taken`: ISO 8601, UTC; `stores`: each with its backend and mailbox format."""

    name: str
    taken: str
    stores: dict[str, str]


def empty(known: state.State, what: Literal["messages", "mailboxes"]) -> None:
    """Empties the queue and every mailbox; with "mailboxes" folders, subscriptions and Sieve scripts go too.

    Raises CheckFailed where a server does not run, EngineError where one fails.
    """
    with _held(known) as stores:
        _ask(known, [MTA], what)
        _ask(known, stores, what)


def save(known: state.State, name: str, replace: bool = False) -> Snapshot:
    """Keeps a copy of the queue and all mailboxes, until it is deleted or the stack's volumes are.

    Raises UsageError for what is no name, and for one that is taken unless `replace`; CheckFailed where a server does not run.
    """
    from stackctl.model import name as checked

    name = valid(checked, name)
    with _held(known) as stores:
        if name in known.snapshots and not replace:
            raise UsageError(f"there is a snapshot {name} already", "--replace takes a new one in its place")
        if known.snapshots.pop(name, None):
            state.save(known)  # where it fails half-way, it is no snapshot any more
        _ask(known, [MTA], "save", name)  # first: what is delivered meanwhile is there twice, and not lost
        _ask(known, stores, "save", name)
        known.snapshots[name] = {"taken": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "stores": _formats(known, stores)}
        state.save(known)
    return _known(known, name)


def restore(known: state.State, name: str) -> Snapshot:
    """Makes the queue and all mailboxes what they were; mail that came since is gone, and open sessions end.

    Raises UsageError for an unknown name; CheckFailed where the stack has other stores by now, and where a server does not run.
    """
    with _held(known) as stores:
        found = _known(known, name)
        if (now := _formats(known, stores)) != found.stores:
            raise CheckFailed(
                f"the snapshot {name} is of other stores: {_listed(found.stores)}; the stack {known.name} has {_listed(now)}",
                "nothing was changed; `stackctl up` with the stack.yaml of then brings them back",
            )
        _ask(known, [MTA], "messages")  # nothing is delivered while mailboxes change
        _ask(known, stores, "restore", name)
        _ask(known, [MTA], "restore", name)
    return found


def delete(known: state.State, name: str) -> None:
    """Removes a snapshot. Raises UsageError for an unknown name, CheckFailed where a server does not run."""
    with _held(known) as stores:
        _known(known, name)
        _ask(known, [MTA, *stores], "delete", name)
        del known.snapshots[name]
        state.save(known)


def snapshots(known: state.State) -> tuple[Snapshot, ...]:
    """The snapshots of a stack, the oldest first."""
    return tuple(Snapshot(name, one["taken"], one["stores"]) for name, one in known.snapshots.items())


def _known(known: state.State, name: str) -> Snapshot:
    for one in snapshots(known):
        if one.name == name:
            return one
    there = ", ".join(known.snapshots)
    raise UsageError(f"the stack {known.name} has no snapshot {shown(name)}", f"it has {there}" if there else f"`stackctl snapshot save {shown(name)}` takes one")


@contextmanager
def _held(known: state.State) -> Iterator[list[str]]:
    """Holds the stack, whose servers all run, against other commands; the services besides the MTA that hold mail."""
    with state.lock(known.name):
        known.__dict__.update(vars(state.load(known.name)))
        holders = [name for name, part in state.parts(known.endpoints).items() if VERB in all_backends()[part["backend"]].verbs]
        running.require(known, holders)
        yield [name for name in holders if name != MTA]


def _formats(known: state.State, stores: Sequence[str]) -> dict[str, str]:
    """What a copy of each store's mailboxes is made for."""
    parts = state.parts(known.endpoints)
    return {name: f"{parts[name]['backend']} {parts[name].get('mailbox', '')}".strip() for name in stores}


def _listed(stores: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({what})" for name, what in stores.items())


def _ask(known: state.State, services: Sequence[str], *arguments: str) -> None:
    """Runs the verb in all of these services at once. Raises EngineError with the last words of the first that fails."""
    with ThreadPoolExecutor(len(services)) as pool:
        ended = pool.map(lambda service: command.run(["docker", "exec", known.containers[service], f"{VERBS}/{VERB}", *arguments], check=False), services)
        for service, done in zip(services, ended, strict=True):
            if done.status in _NOT_FOUND:
                raise EngineError(f"{service} comes from an older image, without the verb {VERB}", "`stackctl up` renews it")
            if done.status != 0:
                raise EngineError(f"{service}: the verb {VERB} {' '.join(arguments)} failed ({done.status}): {done.last_words}", f"`stackctl logs {service}` shows more")
