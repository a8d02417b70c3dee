"""Commands that read the servers' logs: the timeline, one message's way, statistics. They change nothing."""

from __future__ import annotations

import json as json_text
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.logbook import Line, Rules
    from stackctl.state import State
    from stackctl.trace import Hop

# As `docker logs -f` and `tail -f` have it: here -f is not the stack file.
LongFile = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="The stack file; ./stack.yaml where there is one, else the demo stack.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="From then on: 30s, 5m, 2h, 1d ago, or a time (UTC) such as 2026-11-24T10:00.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Up to then, written like --since.")]
SEVERITY = "debug|info|notice|warning|err|crit"
_COLOURS = (36, 35, 34, 32, 33)  # of services, in turn; red is for problems
_RED = 31
# Control characters would reach the terminal: what a client said is in these lines.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), *range(127, 160))}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (logs, trace, stats):
        app.command()(command)


def _backends(known: State) -> dict[str, str]:
    from stackctl import state

    return {service: part["backend"] for service, part in state.parts(known.endpoints).items()}


def logs(
    service: Annotated[str | None, typer.Argument(help="SERVICE: mta or the name of a store. All of them unless given.")] = None,
    file: LongFile = None,
    name: Name = None,
    problems: Annotated[bool, typer.Option("--problems", help="Only refusals, failures, warnings and worse.")] = False,
    severity: Annotated[str, typer.Option("--severity", metavar=SEVERITY, help="Only lines that are this grave or worse.")] = "debug",
    grep: Annotated[str | None, typer.Option("--grep", metavar="RE", help="Only lines in which this regular expression is found.")] = None,
    since: Since = None,
    until: Until = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="The last of these lines only.")] = None,
    json: Json = False,
) -> None:
    """Print what the servers log, as one timeline; of a stopped or paused stack too.

    Example: stackctl logs --problems --since 10m
    """
    from stackctl import logbook, running

    if severity not in SEVERITY.split("|"):
        raise UsageError(f"--severity {severity} is not known", f"it is one of {SEVERITY.replace('|', ', ')}")
    if follow and until:
        raise UsageError("--follow goes on without end, so there is no --until", "leave one of them out")
    try:
        pattern = re.compile(grep) if grep is not None else None
    except re.error as why:
        raise UsageError(f"--grep {grep}: {why}", "it is a regular expression; put \\ before . * + ? ( ) [ ] { } | ^ $ that stand for themselves") from why
    start, end = (logbook.moment(one) if one else None for one in (since, until))
    known = running.named(name, file)
    if service is not None and service not in known.containers:
        raise UsageError(f"the stack {known.name} has no service {service}", f"it has {', '.join(known.containers)}")
    containers = {one: id_ for one, id_ in known.containers.items() if service in (None, one)}
    rules = logbook.rules({one: backend for one, backend in _backends(known).items() if one in containers})
    choice = logbook.Choice(severity, problems, pattern)  # type: ignore[arg-type]  # compared above
    printer = _Printer(rules, known.containers, json, follow)

    if follow:
        printer.print(line for line in logbook.follow(containers, start, tail, lambda line: choice.takes(line, rules[line.service])))
        return
    every = choice == logbook.Choice()
    lines = logbook.read(containers, start, end, tail if every else None)
    chosen = lines if every else [line for line in lines if choice.takes(line, rules[line.service])]
    printer.print(chosen if tail is None else chosen[max(0, len(chosen) - tail) :])


class _Printer:
    """Prints lines: the service in front, in colour on a terminal; or as JSON, one array, or an object a line where it `streams`."""

    def __init__(self, rules: Mapping[str, Rules], services: Iterable[str], json: bool, streams: bool) -> None:
        self._rules, self._json, self._streams = rules, json, streams
        self._width = max(map(len, rules))
        self._colours = {service: _COLOURS[number % len(_COLOURS)] for number, service in enumerate(services)}

    def print(self, lines: Iterable[Line]) -> None:
        from stackctl import logbook

        if self._json and not self._streams:
            show.as_json([logbook.as_json(line, self._rules[line.service]) for line in lines])
            return
        coloured = sys.stdout.isatty()
        for line in lines:
            row = json_text.dumps(logbook.as_json(line, self._rules[line.service]), ensure_ascii=False) if self._json else self._row(line, coloured)
            print(row, flush=self._streams)

    def _row(self, line: Line, coloured: bool) -> str:
        front, text = line.service.ljust(self._width), line.text.translate(_VISIBLE)
        if coloured:
            front = f"\x1b[{self._colours[line.service]}m{front}\x1b[0m"
            text = f"\x1b[{_RED}m{text}\x1b[0m" if self._rules[line.service].is_problem(line.text) else text
        return f"{front}  {line.time[11:23]}  {text}"


def trace(
    message: Annotated[str, typer.Argument(metavar="MESSAGE-ID|QUEUE-ID", help="The message, by either of its ids; angle brackets may be left out.")],
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Show one message's way, hop by hop, with milliseconds; exit code 1 where no log knows it.

    Example: stackctl trace 179550879342.1337.11958@example.test
    """
    from concurrent.futures import ThreadPoolExecutor

    from stackctl import logbook, running

    known = running.named(name, file)
    with ThreadPoolExecutor(1) as pool:  # the engine reads while this process loads what it needs
        reading = pool.submit(logbook.read, known.containers)
        from stackctl import trace as way

        rules = logbook.rules(_backends(known))
    found = way.trace(message, reading.result(), rules)
    if json:
        show.as_json(way.as_json(found))
        return
    show.line(f"Message-ID {' '.join(f'<{one}>' for one in found.message_ids) or '(none)'}".translate(_VISIBLE))
    show.table(("TIME", "MS", "SERVICE", "ID", "STEP", "DETAIL"), [(hop.time[11:23], f"{hop.ms:.1f}", hop.service, hop.id, hop.step, _detail(hop)) for hop in found.hops])
    for said in found.unknown:
        show.line(f"note: {said}.")


def _detail(hop: Hop) -> str:
    """What a hop tells, as words."""
    told = hop.told

    def word(key: str, form: str = "{}") -> str:
        return form.format(told[key]) if told.get(key) else ""

    if hop.step == "accepted":
        parts = [word("client", "from {}"), told.get("process", "").partition("[")[0], word("tls"), word("login", "login {}")]
    elif hop.step == "queued":
        parts = [f"from <{told.get('sender', '')}>", word("size", "{} octets"), word("recipients", "{} recipients")]
    elif "recipient" in told:
        parts = [word("recipient", "to {}") + word("store", " in {}"), word("original", "for {}"), word("relay", "by {}"), word("delay", "delay {} s"), word("dsn")]
        parts += [word("reply"), word("reason")]
    elif hop.step == "read":
        parts = [word("user", "by {}"), word("messages", "bodies: {}"), word("octets", "octets of bodies: {}")]
    else:
        parts = [word("message_id", "<{}>") if hop.step == "message-id" else "", *map(word, ("successor", "what", "user", "mailbox", "failure", "reason"))]
    return ", ".join(part for part in parts if part).translate(_VISIBLE)


def stats(
    file: File = None,
    name: Name = None,
    since: Since = None,
    until: Until = None,
    day: Annotated[str | None, typer.Option("--day", metavar="DAY", help="Of one day alone: today, yesterday or a date (UTC) such as 2026-11-24.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many entries each list has.")] = 10,
    json: Json = False,
) -> None:
    """Count the mail that went through: the report of the MTA's own analyser (pflogsumm); with --json the same numbers as data.

    Example: stackctl stats --since 1h
    """
    from stackctl import logbook, running, traffic

    if day and (since or until):
        raise UsageError("--day means a whole day", "leave --since and --until out")
    start, end = traffic.span(day) if day else (since, until)
    first, last = (logbook.moment(one) if one else None for one in (start, end))
    known = running.named(name, file)
    lines = logbook.read({"mta": known.containers["mta"]}, first, last)
    if json:
        show.as_json(traffic.as_json(traffic.count(lines, logbook.rules({"mta": _backends(known)["mta"]})["mta"]), top))
        return
    show.line(traffic.report(known, lines, top))
