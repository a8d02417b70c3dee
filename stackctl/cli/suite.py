"""The command that runs the scenarios against a running stack: test. It changes nothing but mailboxes of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import CheckFailed, StackctlError, UsageError

if TYPE_CHECKING:
    from stackctl.scenarios import Job, Outcome
    from stackctl.state import State


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(test)


def test(
    file: File = None,
    name: Name = None,
    store: Annotated[str | None, typer.Option("--store", "-s", metavar="STORE", help="Read from this store alone.")] = None,
    only: Annotated[str | None, typer.Option("--only", "-k", metavar="RE", help="Scenarios, or cases like 'name[smtp/dovecot/imaps]', that match.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML too.")] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write what --json prints too.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=64, help="How many cases at once.")] = 6,
    mta: Annotated[
        str | None, typer.Option("--mta", metavar="MTA", help="Test the same stack.yaml with this MTA: a stack NAME-MTA comes up for it and goes down afterwards.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Only list the scenarios.")] = False,
    json: Json = False,
) -> None:
    """Prove that a running stack does what a mail system must, with real clients: mail in by every way, out by every way, and all that must be refused.

    Every case uses mailboxes of its own; a failed one shows what was said and what the servers logged. Exit code 1 when one failed, or none ran.

    Example: stackctl test --only unknown_user --junit junit.xml
    """
    from stackctl import report as reports
    from stackctl import running, scenarios

    if listing:
        _list(only, json)
        return
    if mta and name:
        raise UsageError("--mta names its stack by itself", "leave --name out; --file says which stack.yaml")
    with _brought_up(file, mta) if mta else nullcontext(running.named(name, file)) as known:
        endpoints = running.endpoints(known, secrets=True)
        todo = scenarios.plan(list(endpoints["stores"]), only, store)
        if not todo:
            raise CheckFailed(f"no scenario matches {only!r}", "`stackctl test --list` names them all")
        start = time.monotonic()
        with _watched(todo, quiet=json) as seen:
            outcomes = scenarios.run(endpoints, chosen=todo, on_outcome=seen, jobs=jobs)
        seconds = time.monotonic() - start
    found = reports.as_dict(outcomes, endpoints["name"], seconds)
    if junit:
        _write(junit, reports.junit(outcomes, endpoints["name"], seconds))
    if report:
        _write(report, dumps(found, indent=2, ensure_ascii=False).encode() + b"\n")
    if json:
        show.as_json(found)
    else:
        show.line(reports.summary(outcomes, seconds))
    if failed := scenarios.count(outcomes, "failed"):
        raise CheckFailed(f"{failed} of {len(outcomes)} cases failed", "the transcripts and logs above say how; `stackctl test --only NAME` tries one again")
    if scenarios.count(outcomes, "passed") == 0:
        raise CheckFailed("no case ran: all were skipped, or are about what no server offers", "the reasons are above; a test that tries nothing proves nothing")


@contextmanager
def _brought_up(file: Path | None, mta: str) -> Iterator[State]:
    """The stack of a file with another MTA, for the time of a test. Raises UsageError where one of its name is there already: it would be changed, and lost."""
    from stackctl import inventory, load, running, stack

    name = load.with_mta(load.load(file), mta).stack.name
    if inventory.containers(name) or inventory.volumes(name):
        raise UsageError(f"there is a stack {name} already", f"`stackctl down --name {name} --volumes` removes it")
    try:
        yield stack.up(file, report=show.note, mta=mta).state
    finally:
        running.down(name, volumes=True)


@contextmanager
def _watched(todo: Sequence[Job], quiet: bool) -> Iterator[Callable[[Outcome], None]]:
    """Shows outcomes as they come: a live table on a terminal, a line for each scenario in a log, nothing where `quiet`."""
    from stackctl.report import Board

    board = Board(todo)
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(board.table(), console=Console(stderr=True), refresh_per_second=8, get_renderable=board.table):
            yield lambda outcome: _ignore(board.add(outcome))
    else:

        def seen(outcome: Outcome) -> None:
            if line := board.add(outcome):
                show.note(line)

        yield seen


def _ignore(_: object) -> None:
    pass


def _list(only: str | None, json: bool) -> None:
    from stackctl import report, scenarios

    chosen = {scenario.name for scenario, _ in scenarios.plan(["STORE"], only)}
    rows = [scenario for scenario in scenarios.all_scenarios().values() if scenario.name in chosen]
    if json:
        show.as_json(
            [
                {
                    "scenario": row.name,
                    "about": report.topic(row.name),
                    "features": list(row.features),
                    "over": list(row.over),
                    "needs": sorted({*row.needs, *row.of_mta}),
                    "says": (row.function.__doc__ or "").strip(),
                }
                for row in rows
            ]
        )
    else:
        show.table(
            ("ABOUT", "SCENARIO", "OVER", "FEATURES"),
            [(report.topic(row.name), row.name, " x ".join(axis.replace("_", " ") for axis in row.over) or "-", " ".join(row.features)) for row in rows],
        )


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as why:
        raise StackctlError(f"{path}: {why.strerror}", "the folder must exist, and be yours") from why
