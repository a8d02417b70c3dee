"""The command that compares stores: compare. It uses a stack of its own and touches no other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import Json
from stackctl.errors import CheckFailed, StackctlError, UsageError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(compare)


def compare(
    stores: Annotated[list[str] | None, typer.Argument(metavar="[STORE]...", help="Two or more, such as dovecot, dovecot-2.3, courier; all unless given.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer runs and small mailboxes: under a minute.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page that needs nothing else.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write a page of Markdown.")] = None,
    baseline: Annotated[Path | None, typer.Option("--baseline", metavar="FILE", help="Exit with 1 where something is worse than in this earlier --json.")] = None,
    worse: Annotated[float, typer.Option("--worse", metavar="FACTOR", min=1.0, help="With --baseline: by how much a figure may be worse.")] = 1.5,
    name: Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="What the stack is called that comes up for it.")] = "compare",
    keep: Annotated[bool, typer.Option("--keep", help="Leave that stack up.")] = False,
    json: Json = False,
) -> None:
    """Compare stores side by side behind one MTA: what each announces, does and writes, how fast it is and what it takes. All of it is observed, with its evidence.

    Example: stackctl compare dovecot courier --quick --html compare.html
    """
    from stackctl import comparing, comparison, page

    before = None
    if baseline:
        try:
            before = comparison.read(baseline.read_text(encoding="utf-8"), str(baseline))
        except (OSError, UnicodeDecodeError) as why:
            raise UsageError(f"{baseline}: {getattr(why, 'strerror', None) or 'no UTF-8'}", "`stackctl compare --json >FILE` writes one") from why
    with show.progress(quiet=json) as report:
        found = comparing.compare(stores or [], name, quick, keep, report)
    for file, text in ((html, page.html), (markdown, comparison.Comparison.markdown)):
        if file:
            try:
                file.write_text(text(found), encoding="utf-8")
            except OSError as why:
                raise StackctlError(f"{file}: {why.strerror}", "choose a file in a folder that exists") from why
    if json:
        show.line(found.model_dump_json(indent=2))
    else:
        show.line(found.markdown().rstrip())
    if before and (regressions := found.regressions(before, worse)):
        raise CheckFailed("\n".join(regressions), f"{baseline} has what was before; --worse allows more")
