"""Commands that make a stack.yaml of what a server has already. They decide nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import Json, Name
from stackctl.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Make a stack.yaml of a server's own files.\n\nExample: stackctl import mta /etc/postfix --output stack.yaml"
    )
    group.command("mta")(import_mta)
    app.add_typer(group, name="import")


def import_mta(
    path: Annotated[Path, typer.Argument(metavar="DIR-OR-FILE", help="The folder with the server's files, or its main file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - for standard output.")] = Path("stack.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    name: Name = None,
    json: Json = False,
) -> None:
    """Make a stack.yaml of an MTA's configuration, and list what could not be carried over, each with its line and why.

    Example: stackctl import mta /etc/postfix --output stack.yaml
    """
    from stackctl import conversion, model, state

    if str(output) != "-" and output.exists() and not force:
        raise UsageError(f"{output} is there already", "name another file, or say --force")
    made = conversion.convert(path)
    text = made.text
    if name:
        try:
            text = f"name: {model.name(name)}\n{text}"
        except ValueError as why:
            raise UsageError(str(why)) from why
    if str(output) != "-":
        try:
            state.write_private(output, text.encode())
            output.chmod(0o600 if made.secret else 0o644)
        except OSError as why:
            raise UsageError(f"{output}: {why.strerror}", "name a file in a folder that you may write to") from why
    lost = [{"place": one.place, "what": one.what, "why": one.why} for one in made.lost]
    if json:
        show.as_json({"path": str(output), "lost": lost, **({"text": text} if str(output) == "-" else {})})
        return
    if str(output) == "-":
        show.line(text)
    tell = show.note if str(output) == "-" else show.line
    for one in made.lost:
        tell(f"{one.place}: {one.what}: not carried over: {one.why}")
    if str(output) != "-":
        secret = " It holds a password, and is readable by you alone." if made.secret else ""
        tell(f"{output} written; {len(lost)} things are not carried over.{secret} `stackctl check --file {output}` lets the servers look at it.")
