"""The command that compares servers: compare. It uses stacks of its own and touches no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import Json
from stackctl.errors import CheckFailed, UsageError

_MOST = 1_000_000  # messages in a mailbox, of 4 KiB each and in every store


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(compare)


def compare(
    servers: Annotated[list[str] | None, typer.Argument(metavar="[SERVER]...", help="Two or more, such as dovecot, dovecot-2.3, courier; all unless given.")] = None,
    mta: Annotated[bool, typer.Option("--mta", help="Compare MTAs, such as postfix, exim, and not stores: each in front of the same stores.")] = False,
    sizes: Annotated[str | None, typer.Option("--sizes", metavar="N,N…", help="Messages in mailboxes of stores; 100,10000,100000 unless given; up to a million.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer runs and small mailboxes: under a minute.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page that needs nothing else.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write a page of Markdown.")] = None,
    baseline: Annotated[Path | None, typer.Option("--baseline", metavar="FILE", help="Exit with 1 where something is worse than in this earlier --json.")] = None,
    worse: Annotated[float, typer.Option("--worse", metavar="FACTOR", min=1.0, help="With --baseline: by how much a figure may be worse.")] = 1.5,
    name: Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="What the stack is called that comes up for it.")] = "compare",
    keep: Annotated[bool, typer.Option("--keep", help="Leave that stack up.")] = False,
    json: Json = False,
) -> None:
    """Compare servers side by side: what each announces, does and writes, how far it goes, how fast it is and what it takes. All of it is observed, with its evidence.

    Stores stand behind one MTA; with --mta each MTA stands in front of the same stores.

    Example: stackctl compare dovecot courier --quick --html compare.html
    """
    from stackctl import comparing, comparison, observing, page

    extent = observing.QUICK if quick else observing.FULL
    if sizes is not None:
        if mta:
            raise UsageError("--sizes is about the mailboxes of stores, and --mta compares MTAs", "leave out one of them")
        extent = replace(extent, sizes=_sizes(sizes))
    role: comparing.Role = "mta" if mta else "store"
    before = None
    if baseline:
        try:
            before = comparison.read(baseline.read_text(encoding="utf-8"), str(baseline))
        except (OSError, UnicodeDecodeError) as why:
            raise UsageError(f"{baseline}: {getattr(why, 'strerror', None) or 'no UTF-8'}", "`stackctl compare --json >FILE` writes one") from why
        if before.role != role:
            raise UsageError(f"{baseline}: a comparison of servers of the role {before.role}, not {role}", "`stackctl compare --json >FILE` writes one")
    with show.progress(quiet=json) as report:
        found = comparing.compare(servers or [], role, name, extent, keep, report)
    show.pages(found, ((html, page.html), (markdown, comparison.Comparison.markdown)))
    if json:
        show.line(found.model_dump_json(indent=2))
    else:
        show.line(found.markdown().rstrip())
    if before and (regressions := found.regressions(before, worse)):
        raise CheckFailed("\n".join(regressions), f"{baseline} has what was before; --worse allows more")


def _sizes(text: str) -> tuple[int, ...]:
    """The numbers of `--sizes`, in ascending order."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= _MOST for word in words):
        raise UsageError(f"--sizes {text}: numbers from 1 to {_MOST:,} with commas between", "such as --sizes 100,10000")
    return tuple(sorted({int(word) for word in words}))
