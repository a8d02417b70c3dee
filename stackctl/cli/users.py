"""Commands for the users of a running stack; every change counts at once, without a restart."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import UsageError

ADDRESS = typer.Argument(help="The user's mail address.")
FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
Generate = Annotated[bool, typer.Option("--generate", help="Make a password and print it.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Add, change, remove and list users of a running stack.\n\nExample: stackctl user list")
    for command in (add, passwd, delete):
        group.command()(command)
    group.command("list")(list_users)
    app.add_typer(group, name="user")


def _password(from_stdin: bool, generate: bool) -> str | None:
    """The password, None for one to be made. It is asked for twice on a terminal; a script says where it comes from."""
    if generate:
        return None
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        raise UsageError("no password", "say --password-stdin, or --generate for one that is made")
    if not password or len(password.encode()) > 72 or any(ord(char) < 32 or ord(char) == 127 for char in password):
        raise UsageError("the password is empty, longer than 72 octets, or holds a control character", "choose another")
    return password


def _done(json: bool, what: str, address: str, password: str | None = None) -> None:
    if json:
        show.as_json({"address": address, "done": what, "password": password})
    else:
        show.line(f"{address} {what}." + (f" Password: {password}" if password else ""))


def add(
    address: Annotated[str, ADDRESS],
    password_stdin: FromStdin = False,
    generate: Generate = False,
    quota: Annotated[str | None, typer.Option("--quota", help="What the mailbox may hold, such as 100M.")] = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Add a user, who can receive mail and log in at once.

    Example: stackctl user add carol@example.test --generate
    """
    from stackctl import live, running
    from stackctl.model import octets

    try:
        limit = octets(quota) if quota else None
    except ValueError as why:
        raise UsageError(f"--quota: {why}") from why
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UsageError(f"--quota {quota} is no size", "write octets, or 512K, 100M, 1G")
    password = live.user_add(running.named(name, file), address, _password(password_stdin, generate), limit)
    _done(json, "added", address.lower(), password if generate else None)


def passwd(
    address: Annotated[str, ADDRESS], password_stdin: FromStdin = False, generate: Generate = False, file: File = None, name: Name = None, json: Json = False
) -> None:
    """Set another password; it counts at once.

    Example: echo correct-horse | stackctl user passwd alice@example.test --password-stdin
    """
    from stackctl import live, running

    password = live.user_password(running.named(name, file), address, _password(password_stdin, generate))
    _done(json, "has a new password", address.lower(), password if generate else None)


def delete(address: Annotated[str, ADDRESS], file: File = None, name: Name = None, json: Json = False) -> None:
    """Remove a user: mail is refused and logins fail at once; the mailbox itself stays until `down --volumes`.

    Example: stackctl user delete carol@example.test
    """
    from stackctl import live, running

    live.user_delete(running.named(name, file), address)
    _done(json, "deleted", address.lower())


def list_users(file: File = None, name: Name = None, json: Json = False) -> None:
    """List the users.

    Example: stackctl user list --json
    """
    from stackctl import live, running

    known = running.named(name, file)
    found = live.users(known)
    rows = [{"address": address, "added_live": origin == "added live", **({"from": origin} if origin == "directory" else {})} for address, origin in found]
    if json:
        show.as_json(rows)
    else:
        show.table(("ADDRESS", "FROM"), found)
