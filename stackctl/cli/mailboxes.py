"""Commands for all mail of a running stack at once: reset, snapshot, preload. They change no configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name

if TYPE_CHECKING:
    from stackctl.contents import Snapshot

SNAPSHOT = typer.Argument(metavar="SNAPSHOT", help="The snapshot's name: lower-case letters, digits and '-'.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(reset)
    app.command()(preload)
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keep all mail of a running stack aside, and bring it back.\n\nExample: stackctl snapshot list")
    for command in (save, restore, delete):
        group.command()(command)
    group.command("list")(list_snapshots)
    app.add_typer(group, name="snapshot")


def reset(
    level: Annotated[str, typer.Argument(metavar="[messages|mailboxes|accounts|everything]", help="How much; each level holds the ones before.")] = "messages",
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Put a running stack back to where its tests began, without a restart.

    messages: the queue and all folders are empty; open sessions go on. mailboxes: folders, subscriptions and people's own Sieve scripts are gone too.
    accounts: users, passwords, aliases and domains are what stack.yaml says, and no fault is set. everything: accounts of a directory too, and snapshots are gone.

    Example: stackctl reset mailboxes
    """
    from stackctl import reset as resetting
    from stackctl import running

    chosen = resetting.level(level)
    known = running.named(name, file)
    resetting.reset(known, chosen)
    if json:
        show.as_json({"name": known.name, "reset": chosen})
    else:
        show.line(f"{known.name}: {chosen} reset.")


def preload(
    path: Annotated[Path, typer.Argument(help="An mbox file, a Maildir, a folder with .eml files, or one such file.")],
    to: Annotated[str, typer.Option("--to", "-t", metavar="ADDRESS", help="Whose mailbox: a user, or any address of the disposable domain.")],
    store: Annotated[str | None, typer.Option("--store", "-s", metavar="STORE", help="Which store; every one unless given.")] = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Put messages into an INBOX of every store, or of one, without sending them: with their flags, and the dates at which they were received.

    Example: stackctl preload tests/mail --to alice@example.test
    """
    import time

    from stackctl import preload as loading
    from stackctl import running

    start = time.monotonic()
    known = running.named(name, file)
    count = loading.preload(known, path, to.lower(), store)
    seconds = time.monotonic() - start
    stores = running.stores(known, store)
    if json:
        show.as_json({"address": to.lower(), "stores": list(stores), "messages": count, "seconds": round(seconds, 3)})
    else:
        show.line(f"{count} messages into the INBOX of {to.lower()}, in {', '.join(stores)}, after {seconds:.2f} s.")


def save(
    snapshot: Annotated[str, SNAPSHOT],
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a snapshot of that name.")] = False,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Keep a copy of the queue and all mailboxes; it stays until it is deleted, or the stack's volumes are.

    Example: stackctl snapshot save seeded
    """
    from stackctl import contents, running

    _show(json, "saved", contents.save(running.named(name, file), snapshot, replace))


def restore(snapshot: Annotated[str, SNAPSHOT], file: File = None, name: Name = None, json: Json = False) -> None:
    """Make the queue and all mailboxes what they were, with their UIDs and flags; mail that came since is gone, and open sessions end.

    Example: stackctl snapshot restore seeded
    """
    from stackctl import contents, running

    _show(json, "restored", contents.restore(running.named(name, file), snapshot))


def delete(snapshot: Annotated[str, SNAPSHOT], file: File = None, name: Name = None, json: Json = False) -> None:
    """Remove a snapshot. The mailboxes stay as they are.

    Example: stackctl snapshot delete seeded
    """
    from stackctl import contents, running

    contents.delete(running.named(name, file), snapshot)
    if json:
        show.as_json({"name": snapshot, "done": "deleted"})
    else:
        show.line(f"{snapshot} deleted.")


def list_snapshots(file: File = None, name: Name = None, json: Json = False) -> None:
    """List the snapshots of a stack, the oldest first.

    Example: stackctl snapshot list
    """
    from stackctl import contents, running

    found = contents.snapshots(running.named(name, file))
    if json:
        show.as_json([_row(one) for one in found])
    else:
        show.table(("NAME", "TAKEN", "STORES"), [(one.name, one.taken, ", ".join(one.stores)) for one in found])


def _row(one: Snapshot) -> dict[str, Any]:
    return {"name": one.name, "taken": one.taken, "stores": dict(one.stores)}


def _show(json: bool, done: str, one: Snapshot) -> None:
    if json:
        show.as_json({**_row(one), "done": done})
    else:
        show.line(f"{one.name} {done}: {', '.join(one.stores)}, taken {one.taken}.")
