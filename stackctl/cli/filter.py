"""The commands for mail filters: filter test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    text = "Try the filters of mail (Sieve, procmail, maildrop).\n\nExample: stackctl filter test --user alice@example.test --eml message.eml"
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=text)
    group.command("test")(test)
    app.add_typer(group, name="filter")


def test(
    user: Annotated[str, typer.Option("--user", metavar="ADDRESS", help="Whose mail it would be.")],
    eml: Annotated[Path, typer.Option("--eml", metavar="FILE", help="The message; - reads it from standard input.")],
    store: Annotated[str | None, typer.Option("--store", metavar="STORE", help="The way to this store alone.")] = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Show what the filters would do with a message, and why; nothing is delivered.

    Example: stackctl filter test --user alice@example.test --eml message.eml
    """
    from stackctl import filters, running

    try:
        message = sys.stdin.buffer.read() if str(eml) == "-" else eml.read_bytes()
    except OSError as why:
        raise UsageError(f"{eml}: {why.strerror}", "name a readable message file") from why
    found = filters.test(running.named(name, file), user, message, store)
    if json:
        show.as_json([trial.__dict__ for trial in found])
        return
    for trial in found:
        show.line(f"==> {trial.store}: {trial.language} in {trial.service} <==\n{trial.output}")
