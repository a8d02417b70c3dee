"""Commands for the aliases and domains of a running stack; every change counts at once, without a restart. They decide nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name

ALIAS = typer.Argument(help="An address, or a name without @ for a system alias.")
TARGETS = typer.Argument(help="For whom it stands: addresses; of a system alias also names, '|command' and /file.")
DOMAIN = typer.Argument(help="The domain's name.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    alias = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Set, delete and list aliases of a running stack.\n\nExample: stackctl alias list")
    alias.command("set")(set_alias)
    alias.command("delete")(delete_alias)
    alias.command("list")(list_aliases)
    app.add_typer(alias, name="alias")
    domain = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Add, delete and list domains of a running stack.\n\nExample: stackctl domain list")
    domain.command("add")(add_domain)
    domain.command("delete")(delete_domain)
    domain.command("list")(list_domains)
    app.add_typer(domain, name="domain")


def set_alias(alias: Annotated[str, ALIAS], targets: Annotated[list[str], TARGETS], file: File = None, name: Name = None, json: Json = False) -> None:
    """Make an alias, or point it elsewhere; the next message takes the new way.

    Example: stackctl alias set team@example.test alice@example.test bob@example.test
    """
    from stackctl import live, running

    chosen = live.alias_set(running.named(name, file), alias, targets)
    if json:
        show.as_json({"alias": alias.lower(), "targets": chosen, "done": "set"})
    else:
        show.line(f"{alias.lower()} stands for {', '.join(chosen)}.")


def delete_alias(alias: Annotated[str, ALIAS], file: File = None, name: Name = None, json: Json = False) -> None:
    """Delete an alias: mail for it is refused at once.

    Example: stackctl alias delete team@example.test
    """
    from stackctl import live, running

    live.alias_delete(running.named(name, file), alias)
    if json:
        show.as_json({"alias": alias.lower(), "done": "deleted"})
    else:
        show.line(f"{alias.lower()} deleted.")


def list_aliases(file: File = None, name: Name = None, json: Json = False) -> None:
    """List the aliases, those with an address first.

    Example: stackctl alias list --json
    """
    from stackctl import live, running

    rows = live.alias_list(running.named(name, file))
    if json:
        show.as_json([asdict(row) for row in rows])
    else:
        show.table(("ALIAS", "STANDS FOR", "FROM"), [(row.name, ", ".join(row.targets), row.origin) for row in rows])


def add_domain(
    domain: Annotated[str, DOMAIN],
    catch_all: Annotated[str | None, typer.Option("--catch-all", metavar="ADDRESS", help="Who gets the mail for its unknown addresses; refused unless given.")] = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Serve one more domain; users and aliases can be added in it at once.

    Example: stackctl domain add sales.example --catch-all alice@example.test
    """
    from stackctl import live, running

    added = live.domain_add(running.named(name, file), domain, catch_all)
    if json:
        show.as_json({"domain": added, "catch_all": catch_all.lower() if catch_all else None, "done": "added"})
    else:
        show.line(f"{added} added" + (f"; its unknown addresses are {catch_all.lower()}'s." if catch_all else "."))


def delete_domain(
    domain: Annotated[str, DOMAIN],
    force: Annotated[bool, typer.Option("--force", help="Delete its users and aliases too; their mail stays until `down --volumes`.")] = False,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Serve a domain no longer; refused while it has users or aliases.

    Example: stackctl domain delete sales.example --force
    """
    from stackctl import live, running

    gone = live.domain_delete(running.named(name, file), domain, force)
    if json:
        show.as_json({"domain": domain.lower(), "done": "deleted", "gone": gone})
    else:
        show.line(f"{domain.lower()} deleted" + (f", and with it {', '.join(gone)}." if gone else "."))


def list_domains(file: File = None, name: Name = None, json: Json = False) -> None:
    """List the domains, and what becomes of mail for their unknown addresses.

    Example: stackctl domain list --json
    """
    from stackctl import live, running

    rows = live.domain_list(running.named(name, file))
    if json:
        show.as_json([asdict(row) for row in rows])
    else:
        show.table(
            ("DOMAIN", "UNKNOWN ADDRESSES", "USERS", "ALIASES", "FROM"), [(row.name, row.unknown, str(row.users), str(row.aliases), row.origin) for row in rows]
        )
