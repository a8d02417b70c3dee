"""Commands for all mail of a running stack at once: reset, snapshot, preload, migrate. They change no configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name

if TYPE_CHECKING:
    from stackctl.contents import Snapshot
    from stackctl.moving import Moved

SNAPSHOT = typer.Argument(metavar="SNAPSHOT", help="The snapshot's name: lower-case letters, digits and '-'.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(reset)
    app.command()(preload)
    app.command()(migrate)
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


def migrate(
    source: Annotated[str, typer.Option("--from", metavar="STORE", help="The store that has the mailboxes; it stays as it is.")],
    target: Annotated[str, typer.Option("--to", metavar="STORE", help="The store that gets them.")],
    user: Annotated[list[str] | None, typer.Option("--user", "-u", metavar="ADDRESS", help="Whose mailbox; may be repeated. Every user's unless given.")] = None,
    maildir: Annotated[Path | None, typer.Option("--maildir", metavar="DIR", help="First put a copy of this Maildir, with its index files, into --from.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also where a message would be gone that no other store has.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be moved, and what is in the way.")] = False,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Move mailboxes to another store, and prove by IMAP and POP3 that no client has to fetch them again.

    The mailbox in --to becomes what it is in --from: UIDVALIDITY, UIDs, POP3's unique ids, flags, keywords, folders, subscriptions, dates, octets. Run it again
    for what came meanwhile, and after an interruption. Exits 1 where something is not the same.

    Example: stackctl migrate --from courier --to dovecot
    """
    from dataclasses import asdict

    from stackctl import moving, running

    with show.progress(quiet=json) as report:
        found = moving.move(running.named(name, file), source, target, user or (), maildir=maildir, replace=replace, dry_run=dry_run, report=report)
    if json:
        show.as_json({"from": source, "to": target, "dry_run": dry_run, "mailboxes": [{**asdict(one), "same": one.same} for one in found]})
    else:
        rows = [(one.address, str(one.folders), str(one.messages), str(one.octets), f"{one.seconds:.1f} s" if one.seconds else "", _said(one, dry_run)) for one in found]
        show.table(("MAILBOX", "FOLDERS", "MESSAGES", "OCTETS", "MOVED IN", "TO ITS CLIENTS"), rows)
        for one in found:
            for what, lines in (("changed", one.lost), ("notice", one.noticed), ("refused", (one.refused,) if one.refused else ())):
                for text in lines:
                    show.line(f"{one.address}: {what}: {text}")
    if not all(one.same for one in found):
        raise typer.Exit(1)


def _said(one: Moved, dry_run: bool) -> str:
    if one.refused:
        return "not moved"
    return "not tried" if dry_run else "the same" if one.same else "changed"


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
