"""The command for the login host: a login. It keeps no account; stack.yaml names who has one."""

from __future__ import annotations

from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import UsageError
from stackctl.labels import VERBS
from stackctl.problems import shown


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    # What stands behind the user is the command's, options too: `login alice mail -s hello bob@example.test`.
    app.command(context_settings={"allow_interspersed_args": False})(login)


def login(
    user: Annotated[str, typer.Argument(help="A system user of the host, such as alice.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="What to run instead of a login shell.")] = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Log in to the login host on this terminal, without a password; or run one command there as that person.

    Without a terminal, the person's shell runs what comes on standard input.

    Example: stackctl login alice mail -s hello bob@example.test
    """
    import sys

    from stackctl import command, engine, running

    known = running.named(name, file)
    host = known.endpoints.get("host")
    if not host:
        raise UsageError(f"the stack {known.name} has no login host", "`host: {}` in stack.yaml adds one")
    people = [account["name"] for account in host.get("accounts", ())]
    if user not in people:
        raise UsageError(f"{shown(user)} has no login on the host of the stack {known.name}", f"there are: {', '.join(people)}")
    argv = [f"{VERBS}/login", user, *(words or [])]
    if json:
        status, output = engine.execute(host["container"], argv if words else [*argv, "true"])
        show.as_json({"exit_code": status, "output": output})
        raise typer.Exit(1 if status else 0)
    terminal = ["-it", "--env", "TERM"] if sys.stdin.isatty() and sys.stdout.isatty() else ["-i"]
    command.replace(["docker", "exec", *terminal, host["container"], *argv])
