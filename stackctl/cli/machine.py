"""The command for the machine that stackctl runs on: doctor."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import Json, Name
from stackctl.errors import EngineError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Install and start what is missing (root on Debian or Ubuntu).")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before that.")] = False,
    name: Name = None,
    json: Json = False,
) -> None:
    """Look at what stackctl needs on this machine, and say what is missing; with --fix, set it up.

    Example: stackctl doctor --fix
    """
    from stackctl import doctor as machine

    findings = machine.diagnose(os.environ)
    if fix and not all(one.ok for one in findings):
        steps = machine.plan(findings)
        if not json:
            for step in steps:
                show.line(f"- {step}")
        if steps and not yes:
            typer.confirm("Do this?", abort=True)
        with show.progress(quiet=json) as report:
            machine.fix(findings, report)
        findings = machine.diagnose(os.environ)
    if json:
        show.as_json([{"name": one.name, "ok": one.ok, "detail": one.detail, "fix": one.fix.what if one.fix else None} for one in findings])
    else:
        show.table(("CHECK", "", "FOUND"), [(one.name, "ok" if one.ok else "MISSING", one.detail) for one in findings])
    bad = [one for one in findings if not one.ok]
    if bad:
        next_steps = "; ".join(one.fix.what for one in bad if one.fix)
        raise EngineError(f"not as it should be: {', '.join(one.name for one in bad)}", next_steps if fix or not next_steps else f"`stackctl doctor --fix`: {next_steps}")
