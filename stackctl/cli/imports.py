"""Commands that make a stack.yaml of what a server has already. They decide nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import Json, Name
from stackctl.errors import UsageError
from stackctl.resource import families

if TYPE_CHECKING:  # the reading of files is no part of the program's start
    from stackctl.foreign import Lost


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Make a stack.yaml of a server's own files.\n\nExample: stackctl import mta /etc/postfix --output stack.yaml"
    )
    group.command("mta")(import_mta)
    for family in families():
        group.command(family)(_of_store(family))
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
    from stackctl import conversion

    _unused(output, force)
    made = conversion.convert(path)
    text = _named(made.text, name)
    _write(output, text, made.secret)
    if json:
        show.as_json({"path": str(output), "lost": _rows(made.lost), **({"text": text} if str(output) == "-" else {})})
        return
    if str(output) == "-":
        show.line(text)
    tell = show.note if str(output) == "-" else show.line
    for one in made.lost:
        tell(f"{one.place}: {one.what}: not carried over: {one.why}")
    if str(output) != "-":
        secret = " It holds a password, and is readable by you alone." if made.secret else ""
        tell(f"{output} written; {len(made.lost)} things are not carried over.{secret} `stackctl check --file {output}` lets the servers look at it.")


def _of_store(family: str) -> Callable[..., None]:
    """The command for a family of stores."""

    def import_store(
        path: Annotated[Path, typer.Argument(metavar="DIR-OR-FILE", help="The folder with the server's files, or its main file.")],
        to: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="The version to write it for; the other one than its own, unless given.")] = None,
        output: Annotated[
            Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the stack; stack.yaml unless --config is given alone.")
        ] = None,
        config: Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="Where to write the whole configuration in that version's words.")] = None,
        force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
        name: Name = None,
        json: Json = False,
    ) -> None:
        from stackctl import migration

        if output is None and config is None:
            output = Path("stack.yaml")
        places = [one for one in (output, config) if one is not None]
        for place in places:
            _unused(place, force)
        if len(places) == 2 and places[0] == places[1]:
            raise UsageError(f"{places[0]} cannot be both", "give --output and --config two names")
        made = migration.migrate(family, path, to, with_stack=output is not None)
        texts = {str(place): text for place, text in ((output, _named(made.stack, name)), (config, made.text)) if place is not None}
        for place in places:
            _write(place, texts[str(place)], made.secret)
        if json:
            show.as_json(
                {
                    "from": made.source,
                    "to": made.target,
                    "written": [one for one in texts if one != "-"],
                    "same": made.kept,
                    "changed": [{"place": one.place, "before": one.before, "after": list(one.after)} for one in made.changes],
                    "lost": _rows(made.lost),
                    "not_in_stack": _rows(made.left_out),
                    **({"text": texts["-"]} if "-" in texts else {}),
                }
            )
            return
        if "-" in texts:
            show.line(texts["-"])
        tell = show.note if "-" in texts else show.line
        for change in made.changes:
            tell(f"{change.place}: {change.before}: {change.told}")
        for lost, where in ((made.lost, f"version {made.target}"), (made.left_out, "stack.yaml")):
            for one in lost:
                tell(f"{one.place}: {one.what}: not in {where}: {one.why}")
        written = " and ".join(one for one in texts if one != "-")
        counts = f"{made.kept} settings as they were, {len(made.changes)} in other words, {len(made.lost)} not there"
        tell(f"{f'{written} written. ' if written else ''}From {made.source} to {made.target}: {counts}{f', {len(made.left_out)} not in stack.yaml' if output else ''}.")

    import_store.__doc__ = f"""Write a {family} configuration in the words of another version, and make a stack.yaml of it.

    Tells of each setting what it becomes, and lists what could not be carried over, each with its line and why.

    Example: stackctl import {family} /etc/{family} --to 2.4 --config {family}.conf
    """
    return import_store


def _rows(lost: Iterable[Lost]) -> list[dict[str, str]]:
    return [{"place": one.place, "what": one.what, "why": one.why} for one in lost]


def _unused(place: Path, force: bool) -> None:
    if str(place) != "-" and place.exists() and not force:
        raise UsageError(f"{place} is there already", "name another file, or say --force")


def _named(text: str, name: str | None) -> str:
    from stackctl import model

    try:
        return f"name: {model.name(name)}\n{text}" if name else text
    except ValueError as why:
        raise UsageError(str(why)) from why


def _write(place: Path, text: str, secret: bool) -> None:
    from stackctl import state

    if str(place) == "-":
        return
    try:
        state.write_private(place, text.encode())
        place.chmod(0o600 if secret else 0o644)
    except OSError as why:
        raise UsageError(f"{place}: {why.strerror}", "name a file in a folder that you may write to") from why
