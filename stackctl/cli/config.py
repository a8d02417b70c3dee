"""Commands that show a server's configuration in the server's own words. They decide nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import UsageError

ONE = typer.Argument(help="SERVICE: mta or the name of a store. All of them unless given.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="The configuration of each server, as the server itself understands it.\n\nExample: stackctl config show mta"
    )
    group.command("show")(config_show)
    group.command("diff")(config_diff)
    app.add_typer(group, name="config")


def config_show(
    service: Annotated[str | None, ONE] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every setting in effect, defaults too.")] = False,
    defaults: Annotated[bool, typer.Option("--defaults", help="The server's defaults instead.")] = False,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Print what a server's own program says of its configuration; of a stack that is down, of its files. Passwords and hashes are masked.

    Example: stackctl config show mta --all
    """
    from stackctl import config

    if everything and defaults:
        raise UsageError("--all and --defaults exclude each other", "say one of them")
    with show.progress(quiet=json) as report:
        found = config.show(service, "config-all" if everything else "config-defaults" if defaults else "config", file, name, report)
    if json:
        show.as_json({one.service: {"backend": one.backend, "running": one.running, "settings": one.settings, "text": one.text} for one in found})
        return
    for number, one in enumerate(found):
        if not one.running:
            show.note(f"{one.service} does not run: this is what its files say.")
        if service is None:
            show.line(f"{'' if number == 0 else chr(10)}==> {one.service} <==")
        show.line(one.text)


def config_diff(service: Annotated[str | None, ONE] = None, file: File = None, name: Name = None, json: Json = False) -> None:
    """Show only the settings that are not the server's default: parameter, default, and what it is here.

    Example: stackctl config diff mta
    """
    from stackctl import config

    with show.progress(quiet=json) as report:
        found = config.differences(service, file, name, report)
    if json:
        show.as_json([{"service": row.service, "parameter": row.parameter, "default": row.default, "here": row.here} for row in found])
        return
    head = ("PARAMETER", "DEFAULT", "HERE") if service else ("SERVICE", "PARAMETER", "DEFAULT", "HERE")
    rows = [(row.parameter, _short(row.default), _short(row.here)) for row in found]
    show.table(head, rows if service else [(row.service, *cells) for row, cells in zip(found, rows, strict=True)])


def _short(value: str | None) -> str:
    """A value fit for a column: "-" for none, "(empty)" for an empty one, not endless; --json has all of it."""
    if value is None:
        return "-"
    return "(empty)" if not value else value if len(value) <= 60 else value[:59] + "…"
