"""Runs the scenarios against a running stack and says what came of each case. It prints nothing and starts no stack.

Cases run side by side in mailboxes of their own; those that disturb a server run alone, at the end.
"""

from __future__ import annotations

import imaplib
import os
import poplib
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from stackctl import inventory, state
from stackctl.backends import all_backends
from stackctl.errors import StackctlError, UsageError
from stackctl.scenario import AXES, Case, Context, NotOffered, Recorder, Scenario, Shared, Skipped, registry

Verdict = Literal["passed", "failed", "skipped", "not offered"]
LOG_LINES = 60  # of each service, the last ones, in an outcome
LOG_QUIET = 0.2  # seconds without a new line, after which a log is taken as complete
LOG_WITHIN = 3.0  # seconds at most until then


@dataclass(frozen=True)
class Outcome:
    """What came of a case. `transcript` and `logs` (by service) are the evidence of a failed one, empty for others.

    `servers`: the backends that it tells something of; `began`: in seconds since 1970.
    """

    name: str
    case: Case
    verdict: Verdict
    seconds: float
    reason: str = ""
    transcript: str = ""
    logs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    servers: tuple[str, ...] = ()
    began: float = 0.0

    @property
    def id(self) -> str:
        """Scenario and case in one word."""
        return f"{self.name}[{self.case}]"


Job = tuple[Scenario, Case]


def all_scenarios() -> dict[str, Scenario]:
    """Every scenario by its name, in the order in which they are written."""
    import stackctl.suite

    assert stackctl.suite.__all__
    return registry


def plan(stores: Sequence[str], only: str | None = None, store: str | None = None) -> list[Job]:
    """What there is to run on a stack with these stores: scenarios that match `only` (a regular expression), read from `store` alone.

    Raises UsageError for an expression that is none, and a store that the stack does not have.
    """
    if store is not None and store not in stores:
        raise UsageError(f"the stack has no store {store}", f"it has {', '.join(stores)}")
    try:
        pattern = re.compile(only or "")
    except re.error as why:
        raise UsageError(f"--only {only!r} is no regular expression: {why}", "a part of a scenario's name will do: `--only unknown_user`") from why
    found = [(scenario, case) for scenario in all_scenarios().values() for case in scenario.cases(stores)]
    return [
        (scenario, case)
        for scenario, case in found
        if (pattern.search(scenario.name) or pattern.search(f"{scenario.name}[{case}]")) and (store is None or case.store in (None, store))
    ]


def run(
    endpoints: Mapping[str, Any],
    *,
    only: str | None = None,
    store: str | None = None,
    chosen: Sequence[Job] | None = None,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
    jobs: int = 4,
    transcripts: bool = False,
) -> list[Outcome]:
    """Runs the chosen cases, or those that `only` and `store` choose; `on_outcome` is called as each ends, never twice at once.

    `transcripts`: good cases have theirs, too. `endpoints` hold the passwords. Raises UsageError for a choice that is none; a case that fails raises nothing.
    """
    todo = list(chosen) if chosen is not None else plan(list(endpoints["stores"]), only, store)
    shared, run_tag, lock = Shared(), os.urandom(3).hex(), threading.Lock()
    outcomes: list[Outcome] = []

    def one(numbered: tuple[int, Job]) -> None:
        number, (scenario, case) = numbered
        outcome = execute(scenario, case, endpoints, shared, run_tag, number, transcripts)
        with lock:
            outcomes.append(outcome)
            on_outcome(outcome)

    numbered = list(enumerate(todo))
    pool = ThreadPoolExecutor(jobs)
    try:
        for ended in [pool.submit(one, job) for job in numbered if not job[1][0].alone]:
            ended.result()
        for job in numbered:
            if job[1][0].alone:
                one(job)
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


def execute(
    scenario: Scenario, case: Case, endpoints: Mapping[str, Any], shared: Shared, run_tag: str = "run", number: int = 0, transcripts: bool = False
) -> Outcome:
    """Tries one case. What goes wrong is its outcome; a fault of the scenario's own code keeps its traceback."""
    recorder = Recorder()
    context = Context(endpoints, case, f"{run_tag}n{number:04d}", run_tag, recorder, shared)
    began, start = time.time(), time.monotonic()

    def outcome(verdict: Verdict, reason: str = "", evidence: bool = False) -> Outcome:
        seconds = time.monotonic() - start
        logs = service_logs(endpoints, context.tag, began) if evidence else {}
        servers = _servers(scenario, case, endpoints, recorder.services if verdict in ("passed", "failed") else set())
        return Outcome(scenario.name, case, verdict, seconds, reason, str(recorder) if evidence or transcripts else "", logs, servers, began)

    if missing := lacks(scenario, case, endpoints):
        return outcome("skipped", missing)
    try:
        scenario.function(context)
    except Skipped as why:
        return outcome("skipped", why.message)
    except NotOffered as why:
        return outcome("not offered", why.message)
    except StackctlError as why:
        return outcome("failed", why.message, True)
    except (OSError, EOFError, imaplib.IMAP4.error, poplib.error_proto) as why:
        return outcome("failed", f"{type(why).__name__}: {why}", True)
    return outcome("passed")


def lacks(scenario: Scenario, case: Case, endpoints: Mapping[str, Any]) -> str:
    """Why a case does not apply to this stack, "" if it does: what a server does not provide, a listener that is closed."""
    mta = all_backends()[endpoints["mta"]["backend"]]
    if absent := sorted(scenario.of_mta.difference(mta.provides)):
        reasons = [mta.lacks[name] for name in absent if name in mta.lacks]
        return f"the mta does not provide {', '.join(absent)}" + (f": {'; '.join(reasons)}" if reasons else "")
    stores = [case.store] if case.store else list(endpoints["stores"])
    for store in stores:
        if missing := scenario.needs - set(endpoints["stores"][store]["provides"]):
            return f"{store} does not provide {', '.join(sorted(missing))}"
        if case.way_out and not endpoints["stores"][store].get(case.way_out):
            return f"{store} has no open listener {case.way_out}"
    if case.way_in and not endpoints["mta"].get(case.way_in):
        return f"the mta has no open listener {case.way_in}"
    return ""


def _servers(scenario: Scenario, case: Case, endpoints: Mapping[str, Any], spoken: set[str]) -> tuple[str, ...]:
    """The backends that a case is about: of what it spoke to and its axes; where it did nothing, of that which lacks something."""
    parts = state.parts(endpoints)
    if spoken:
        services = spoken | ({"mta"} if case.way_in else set()) | ({case.store} if case.store else set())
    elif scenario.of_mta.difference(all_backends()[parts["mta"]["backend"]].provides) or not (case.store or case.way_out):
        services = {"mta"}
    else:
        services = {case.store} if case.store else set(endpoints["stores"])
    return tuple(dict.fromkeys(part["backend"] for name, part in parts.items() if name in services))


def service_logs(endpoints: Mapping[str, Any], tag: str, since: float) -> dict[str, list[str]]:
    """What each service logged since a time (in seconds since 1970), without lines that name other cases of the run.

    A line reaches the engine's log a little after the answer that it explains: this waits until the logs are quiet.
    """
    others = re.compile(rf"{re.escape(tag[:-4])}(?!{tag[-4:]})[0-9]{{4}}") if tag else None
    deadline = time.monotonic() + LOG_WITHIN
    found, quiet_since = _logged(endpoints, since), time.monotonic()
    while (now := time.monotonic()) < deadline and (now - quiet_since < LOG_QUIET or not any(found.values())):
        time.sleep(LOG_QUIET / 4)
        if (again := _logged(endpoints, since)) != found:
            found, quiet_since = again, time.monotonic()
    return {name: [line for line in lines if not (others and others.search(line))][-LOG_LINES:] for name, lines in found.items()}


def _logged(endpoints: Mapping[str, Any], since: float) -> dict[str, list[str]]:
    from docker.errors import DockerException

    found = {}
    for name, part in state.parts(endpoints).items():
        try:
            found[name] = inventory.client().api.logs(part["container"], since=since, timestamps=True).decode("utf-8", "replace").splitlines()
        except (StackctlError, DockerException) as why:
            found[name] = [f"(no log: {why})"]
    return found


def count(outcomes: Iterable[Outcome], verdict: Verdict) -> int:
    """How many cases ended like this."""
    return sum(outcome.verdict == verdict for outcome in outcomes)


def coverage(todo: Iterable[Job]) -> dict[str, set[Case]]:
    """The cases of each scenario that is tried over all three axes: the matrix."""
    found: dict[str, set[Case]] = {}
    for scenario, case in todo:
        if set(scenario.over) == set(AXES):
            found.setdefault(scenario.name, set()).add(case)
    return found
