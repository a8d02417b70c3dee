"""What the servers of a stack log, as one timeline. It reads the engine's log, which is the only one, and never writes.

The engine keeps the log of a container for as long as the container is there, running or not, up to 40 MB.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from stackctl import command, logformat
from stackctl.errors import EngineError, UsageError
from stackctl.logformat import EVENTS, SEVERITIES, Log, Severity, compiled

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# How long a live line waits for those of other services that were logged before it and are still on their way, in seconds.
_ORDER_WITHIN = 0.05
_HEARD_WITHIN = 0.2  # seconds
_BATCH = 1000  # lines, however fast they come


class Line(NamedTuple):
    """A line of a log. `time` is when the engine got it: UTC with nine decimals (RFC 3339), so that texts sort as times do."""

    time: str
    service: str
    text: str


class Event(NamedTuple):
    """What a line tells; logformat.EVENTS has the kinds and their groups. Groups that did not take part are absent."""

    kind: str
    line: Line
    groups: Mapping[str, str]


class Rules:
    """How to read the log of one server: a logformat.Log that is ready for use. Raises UsageError for one that has faults."""

    def __init__(self, log: Log, place: str) -> None:
        self._level = compiled(log.level, f"{place}: log.level", {"level"})
        self._problem = compiled(log.problem, f"{place}: log.problem")
        self._routine = compiled(log.routine, f"{place}: log.routine")
        if wrong := set[str](log.levels.values()) - set(SEVERITIES):
            raise UsageError(f"{place}: log.levels: {', '.join(map(str, wrong))} is no severity", f"there are {', '.join(SEVERITIES)}")
        self._levels, self._statuses = log.levels, dict[str | None, str](log.statuses)
        if wrong := set(log.events) - set(EVENTS):
            raise UsageError(f"{place}: log.events: unknown {', '.join(wrong)}", f"there are {', '.join(EVENTS)}")
        self._events = {kind: [compiled(one, f"{place}: log.events.{kind}", *EVENTS[kind]) for one in patterns] for kind, patterns in log.events.items()}

    def severity(self, text: str) -> Severity:
        """How grave a line says it is; where it says nothing, debug for what is routine and info for the rest."""
        if found := self._level.search(text):
            return self._levels.get(found["level"], "info")
        return "debug" if self._routine.search(text) else "info"

    def is_problem(self, text: str) -> bool:
        """Whether a line tells of something that went wrong: a warning or worse, or a refusal, a failed login and their like."""
        return self.severity(text) in ("warning", "err", "crit") or self._problem.search(text) is not None

    def events(self, line: Line, kinds: Iterable[str] | None = None) -> Iterator[Event]:
        """What a line tells, of these kinds (None: of all)."""
        for kind in self._events if kinds is None else kinds:
            for pattern in self._events.get(kind, ()):
                if found := pattern.search(line.text):
                    groups = {key: value for key, value in found.groupdict().items() if value is not None}
                    if (status := groups.get("status")) in self._statuses:
                        groups["status"] = self._statuses[status]
                    yield Event(kind, line, groups)
                    break


def rules(backends: Mapping[str, str]) -> dict[str, Rules]:
    """The rules of each service, from the name of its backend. Raises UsageError for a backend.yaml that has faults."""
    made = {name: Rules(logformat.of(name), str(logformat.where(name))) for name in set(backends.values())}
    return {service: made[name] for service, name in backends.items()}


@dataclass(frozen=True)
class Choice:
    """Which lines are wanted: at least this grave, only problems, only with this in them. The default is all of them."""

    severity: Severity = "debug"
    problems: bool = False
    grep: re.Pattern[str] | None = None

    def takes(self, line: Line, how: Rules) -> bool:
        """Whether a line is wanted."""
        if self.grep and not self.grep.search(line.text):
            return False
        if self.problems and not how.is_problem(line.text):
            return False
        return self.severity == "debug" or SEVERITIES.index(how.severity(line.text)) <= SEVERITIES.index(self.severity)


def moment(text: str, now: datetime | None = None) -> str:
    """A time as the engine writes it (see Line), from `5m`, `1.5h`, `30s`, `2d` before now, or a date or time of ISO 8601.

    A time without a zone is UTC, as in the logs. Raises UsageError for anything else.
    """
    now = now or datetime.now(UTC)
    try:
        if ago := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text):
            found = now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
        else:
            found = datetime.fromisoformat(text)
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as why:
        raise UsageError(f"{text!r} is no time", "write how long ago, such as 30s, 5m, 2h or 1d, or a time (UTC) such as 2026-11-24T10:00") from why
    return found.strftime("%Y-%m-%dT%H:%M:%S.") + f"{found.microsecond:06}000Z"


def read(containers: Mapping[str, str], since: str | None = None, until: str | None = None, tail: int | None = None) -> list[Line]:
    """The lines of services from their containers, in the order of time. `since` and `until` are as `moment` gives them.

    `tail`: the last lines of all, once they are in order. Raises EngineError where a log cannot be read.
    """
    with ThreadPoolExecutor(max(1, len(containers))) as pool:
        parts = pool.map(lambda service: _read(service, containers[service], since, until, tail), containers)
        lines = [line for part in parts for line in part]
    lines.sort(key=lambda line: line.time)  # stable: lines of one service at the same time stay as they were
    return lines if tail is None else lines[max(0, len(lines) - tail) :]


def follow(containers: Mapping[str, str], since: str | None = None, tail: int | None = None, takes: Callable[[Line], bool] = lambda _: True) -> Iterator[Line]:
    """The lines of services from a time on (None: all), and each new one, until every container has ended or the caller stops.

    Only those that `takes` wants; of what is there already the last `tail`.

    What is there already comes in the order of time, and so does what comes within some hundredths of a second. Raises EngineError
    where a log cannot be read.
    """
    start = read(containers, since)
    wanted = [line for line in start if takes(line)]
    yield from wanted if tail is None else wanted[max(0, len(wanted) - tail) :]
    seen = {service: next((line.time for line in reversed(start) if line.service == service), since) for service in containers}
    coming: queue.SimpleQueue[Line | EngineError | None] = queue.SimpleQueue()

    def listen(service: str, container: str) -> None:
        last = seen[service]
        options = ["--since", last] if last else []

        def heard(text: str) -> None:
            for line in _lines(service, text):
                if last is None or line.time > last:  # the engine's `since` gives that line once more
                    coming.put(line)

        try:
            done = command.follow(["docker", "logs", "--timestamps", "--follow", *options, container], heard)
            coming.put(_unreadable(service, done) if done.status > 0 else None)
        except EngineError as why:
            coming.put(why)

    for service, container in containers.items():
        threading.Thread(target=listen, args=(service, container), daemon=True).start()
    try:
        yield from (line for line in _in_order(coming, len(containers)) if takes(line))
    finally:
        command.end_all()


def _in_order(coming: queue.SimpleQueue[Line | EngineError | None], sources: int) -> Iterator[Line]:
    """Sorts what comes close together; ends when as many sources have said None."""
    while sources:
        found: list[Line | EngineError | None] = []
        while not found:
            with contextlib.suppress(queue.Empty):  # an interrupt that comes just before a wait is heard after it
                found.append(coming.get(timeout=_HEARD_WITHIN))
        deadline = time.monotonic() + _ORDER_WITHIN
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(coming.get(timeout=max(0.0, deadline - time.monotonic())))
                if len(found) == _BATCH:
                    break
        yield from sorted((line for line in found if isinstance(line, Line)), key=lambda line: line.time)
        for why in found:
            if isinstance(why, EngineError):
                raise why
        sources -= found.count(None)


def _read(service: str, container: str, since: str | None, until: str | None, tail: int | None) -> list[Line]:
    options = [word for key, value in (("--since", since), ("--until", until), ("--tail", tail)) if value is not None for word in (key, str(value))]
    # The client library would take longer to load than this takes, and reads one after the other.
    done = command.run(["docker", "logs", "--timestamps", *options, container], check=False)
    if done.status != 0:
        raise _unreadable(service, done)
    return [line for output in (done.stdout, done.stderr) for line in _lines(service, output.decode("utf-8", "replace"))]


def _lines(service: str, text: str) -> list[Line]:
    # Not splitlines: a line may hold other characters that end lines elsewhere. What has no time in front is the program's own word.
    parts = [row.partition(" ") for row in text.replace("\r\n", "\n").split("\n") if row[:1].isdigit()]
    return [Line(at, service, said) for at, _, said in parts]


def _unreadable(service: str, done: command.Done) -> EngineError:
    return EngineError(f"the log of {service} cannot be read: {done.last_words}", "`stackctl status` shows what is there, `stackctl up` starts what is not")


def as_json(line: Line, how: Rules) -> dict[str, Any]:
    """A line as other programs get it."""
    return {"time": line.time, "service": line.service, "severity": how.severity(line.text), "problem": how.is_problem(line.text), "text": line.text}
