"""Driving the MTA of a running stack: start, stop, reload and their like, by the verbs of its image. It knows no server's name.

A verb is a program in the image, /usr/local/lib/stackctl/verbs/NAME. These are the same for every MTA:

status             prints one JSON object: processes (program to number) and queue (name of a queue to number of messages)
stop SECONDS       finishes the deliveries under way, then ends the MTA, and the container with it; where that takes longer,
                   fails, says what is at work, and leaves the MTA running as before
abort              ends the MTA at once, and the container with it
reload             takes new configuration; fails, with the reason, where that is at fault, and changes nothing
check              lets the server's own checkers look at its configuration; fails where they complain
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stackctl import backends, engine, inventory, state
from stackctl.clients.where import Where, open_listeners
from stackctl.errors import CheckFailed, EngineError, TimedOut, UsageError
from stackctl.labels import VERBS

MTA = "mta"
STOP_WITHIN = 60  # seconds for the deliveries under way
STOP_AT_MOST = 100  # seconds; the engine's client gives up after 120 without an answer
_ENDS_WITHIN = 15.0  # seconds from the last word of a verb to the end of its container
_READY_WITHIN = 60.0  # seconds until every port greets
_PAUSE = 0.02
_NOT_FOUND = (126, 127)  # exit codes of the engine for a program that is not there
_ENDED = (0, 143, 137)  # exit codes of a verb that ends its own container, which may reach it with SIGTERM or SIGKILL


@dataclass(frozen=True)
class Status:
    """Whether the MTA runs. `state` is the engine's word, `since` a time of ISO 8601 (UTC): of its start, or of its end."""

    running: bool
    state: str
    since: str
    processes: Mapping[str, int]
    queue: Mapping[str, int]


def container(known: state.State) -> inventory.Container:
    """The MTA's container, whatever state it is in. Raises CheckFailed when it is gone."""
    for one in inventory.containers(known.name):
        if one.service == MTA:
            return one
    raise CheckFailed(f"the container of the MTA of {known.name} is gone", "`stackctl up` makes it anew; the queue is kept in its volume")


def running(known: state.State) -> inventory.Container:
    """The MTA's container if it runs. Raises CheckFailed when it does not."""
    one = container(known)
    if one.state == "paused":
        raise CheckFailed(f"the stack {known.name} is paused", "`stackctl resume` wakes it")
    if not one.running:
        raise CheckFailed(f"the MTA of {known.name} does not run ({one.state})", "`stackctl mta start` starts it; what it had accepted is in its queue")
    return one


def verb(known: state.State, name: str, *arguments: str) -> tuple[int, str]:
    """Runs a verb of the running MTA; (exit code, what it said). Raises UsageError for one that this MTA does not have, CheckFailed when it is stopped."""
    backend = backends.all_backends()[known.endpoints[MTA]["backend"]]
    if name not in backend.verbs:
        raise UsageError(f"{backend.name} has no verb {name}", f"it has {', '.join(backend.verbs)}")
    status, output = engine.execute(running(known).id, [f"{VERBS}/{name}", *arguments])
    if status in _NOT_FOUND:
        raise EngineError(f"the running MTA comes from an older image, without the verb {name}", "`stackctl up` renews it")
    return status, output


def done(known: state.State, name: str, *arguments: str) -> str:
    """Runs a verb that must succeed; what it said. Raises EngineError where it failed."""
    status, output = verb(known, name, *arguments)
    if status != 0:
        raise EngineError(f"the MTA's verb {name} failed ({status}): {output.strip()}", f"`stackctl logs {MTA}` shows more")
    return output


def status(known: state.State) -> Status:
    """Whether the MTA runs, since when, and what of it; no processes and queues where it does not."""
    one = container(known)
    about = inventory.inspect(one.id)["State"]
    since = about["StartedAt" if about["Running"] else "FinishedAt"][:19] + "Z"
    told = json.loads(done(known, "status")) if one.running else {"processes": {}, "queue": {}}
    return Status(one.running, one.state, since, dict(sorted(told["processes"].items())), told["queue"])


def start(known: state.State) -> bool:
    """Starts a stopped MTA and waits until every port greets; whether there was anything to do.

    Its ports are the ones it had. Raises CheckFailed when the stack is paused, EngineError when it does not start, TimedOut.
    """
    from stackctl.clients.probe import probe

    with state.lock(known.name):
        one = container(known)
        if one.state == "paused":
            running(known)  # which says what to do
        if not one.running:
            try:
                engine.each("start", [one])
            except EngineError as why:
                why.hint = why.hint or "`stackctl up` starts it too, at another port where its own is taken"
                raise
        deadline = time.monotonic() + _READY_WITHIN
        listeners = backends.all_backends()[known.endpoints[MTA]["backend"]].listeners
        for name in open_listeners(known.endpoints[MTA]):
            probe(Where.of(known.endpoints, MTA, name), listeners[name].protocol, deadline, lambda: engine.last_words(one.id), f"{MTA} {name}")
        return not one.running


def stop(known: state.State, within: int = STOP_WITHIN) -> None:
    """Stops the MTA when the deliveries under way are finished; what waits stays in the queue, and new clients find the ports closed.

    `within`: seconds for those deliveries. Raises TimedOut where it takes longer: the MTA runs on then.
    """
    with state.lock(known.name):
        one = running(known)
        code, output = verb(known, "stop", str(within))
        if code not in _ENDED and inventory.inspect(one.id)["State"]["Running"]:
            raise TimedOut(
                f"the MTA of {known.name} runs on: after {within} s it was still at work ({output.strip()})",
                "`stackctl queue list` shows the mail, --timeout gives it longer; `stackctl mta abort` ends it at once, and loses no accepted message either",
            )
        _ended(one)


def abort(known: state.State) -> None:
    """Ends the MTA at once. What it had accepted stays in the queue; what was being delivered may be delivered again."""
    with state.lock(known.name):
        one = running(known)
        code, output = verb(known, "abort")
        if code not in _ENDED:
            raise EngineError(f"the MTA's verb abort failed ({code}): {output.strip()}", f"`docker kill {one.id[:12]}` ends it")
        _ended(one)


def _ended(one: inventory.Container) -> None:
    _until(lambda: not inventory.inspect(one.id)["State"]["Running"], _ENDS_WITHIN, "the container of the MTA still runs")


def _until(true: Callable[[], bool], within: float, otherwise: str) -> None:
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            raise TimedOut(f"{otherwise} after {within:g} s", f"`stackctl logs {MTA}` shows what it is at")
        time.sleep(_PAUSE)


def reload(known: state.State) -> None:
    """Has the MTA take its configuration, tables and certificates again. Raises CheckFailed where they are at fault: then it goes on with the old ones."""
    code, output = verb(known, "reload")
    if code != 0:
        raise CheckFailed(f"the MTA goes on with what it had:\n{output.strip()}", "`stackctl render` shows its files")


def check(known: state.State) -> tuple[bool, str]:
    """Whether the MTA's own checkers are content with what it runs on, and what they said."""
    code, output = verb(known, "check")
    return code == 0, output.strip()


def counted(numbers: Mapping[str, int], words: Sequence[str] = ()) -> str:
    """Numbers by name as one line: `smtpd 3, lmtp 1`; those of 0 only where they are in `words`."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items() if number or name in words)
