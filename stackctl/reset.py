"""A running stack put back to where its tests began, by levels that each hold the ones before. It starts no server and none anew."""

from __future__ import annotations

from typing import Literal, get_args

from stackctl import contents, state
from stackctl.errors import UsageError

Level = Literal["messages", "mailboxes", "accounts", "everything"]
LEVELS: tuple[Level, ...] = get_args(Level)


def level(word: str) -> Level:
    """A level by its name. Raises UsageError for one that there is not."""
    for one in LEVELS:
        if one == word:
            return one
    raise UsageError(f"there is no level {word}", f"it is one of {', '.join(LEVELS)}")


def reset(known: state.State, what: Level = "messages") -> None:
    """Resets a running stack.

    messages: the queue and all folders are empty. mailboxes: and folders, subscriptions and people's own scripts are gone.
    accounts: and users, passwords, aliases and domains are what stack.yaml says. everything: and so are accounts that were changed in
    a directory by its own tools, and snapshots are gone.

    Raises CheckFailed where a server does not run, EngineError where one fails.
    """
    contents.empty(known, "messages" if what == "messages" else "mailboxes")
    if what in ("accounts", "everything"):
        from stackctl import live  # the model takes its time, and the levels below do without

        live.reset(known)
    if what == "everything":
        from stackctl import directory

        if directory.there_is(known):
            directory.reset(known)
        for snapshot in contents.snapshots(known):
            contents.delete(known, snapshot.name)
