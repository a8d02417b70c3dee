"""The command tree, and errors as words and exit codes."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from stackctl import __version__
from stackctl.cli import (
    addresses,
    auth,
    authority,
    browser,
    compare,
    config,
    faults,
    filter,
    host,
    imports,
    logs,
    machine,
    mail,
    mailboxes,
    matrix,
    mta,
    project,
    stacks,
    suite,
    users,
)
from stackctl.errors import StackctlError

# What the parser raises for a wrong command line; which package that class is in differs between versions of typer.
_Usage: Any = typer.BadParameter.__mro__[2]
INTERRUPTED = 130
EXIT_CODES = "Exit codes: 0 ok, 1 a check or test failed, 2 usage or bad stack.yaml, 3 engine trouble, 4 timed out, 130 interrupted."

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help=f"A real mail system on this machine: Postfix, Dovecot and Courier in containers, with TLS that verifies.\n\nstackctl up\n\n{EXIT_CODES}",
)


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        print(f"stackctl {__version__}")
        raise typer.Exit


for part in (
    *(stacks, logs, mail, mailboxes, mta, users, addresses, faults, auth, suite, project, imports, config),
    *(compare, matrix, authority, machine, filter, host, browser),
):
    part.register(app)


def _called(word: str) -> typer.Typer:
    """The tree with the command or the group of that name alone, the whole tree where there is none: typer makes all that it has, which takes 50 ms."""
    alone = copy.copy(app)
    alone.registered_commands = [one for one in app.registered_commands if one.callback and word == (one.name or one.callback.__name__)]
    alone.registered_groups = [one for one in app.registered_groups if word == one.name]
    return alone if alone.registered_commands or alone.registered_groups else app


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code. Errors are printed to standard error, as JSON where --json is given."""
    try:
        result = _called(arguments[0] if arguments else "")(list(arguments), standalone_mode=False)
        sys.stdout.flush()
        if result == INTERRUPTED:  # typer makes a code of Ctrl-C, and says nothing
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except StackctlError as why:
        if "--json" in arguments:
            print(json.dumps({"error": why.message, "hint": why.hint, "exit_code": why.exit_code}), file=sys.stderr)
        else:
            print(f"stackctl: {why.message}" + (f"\n  next: {why.hint}" if why.hint else ""), file=sys.stderr)
        return why.exit_code
    except typer.Exit as why:
        return why.exit_code
    except _Usage as why:
        why.show()
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print("\nstackctl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # `stackctl logs | head`; the second is what typer makes of the first
        sys.stderr.close()
        return 0
    except OSError as why:  # standard output on a full disk, say
        print(f"stackctl: {why.filename or 'output'}: {why.strerror or why}", file=sys.stderr)
        return 1
