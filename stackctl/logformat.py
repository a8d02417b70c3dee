"""How to read a server's log: the key `log` of images/<backend>/backend.yaml. It reads no log.

It stands apart from the other keys, and without what validates them, because reading a log must not wait for that to load (0.1 s).
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, get_args

from stackctl.errors import UsageError
from stackctl.resource import resource

Severity = Literal["crit", "err", "warning", "notice", "info", "debug"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # worst first; the names are those of syslog.conf(5)
# What a log line can tell: each event with the groups that its patterns must have, and those that they may have.
EVENTS: dict[str, tuple[set[str], set[str]]] = {
    "tls": ({"process", "tls"}, set()),  # a client's connection is encrypted
    "closed": ({"process"}, set()),  # that connection is over
    "accepted": ({"id"}, {"process", "client", "login"}),  # a message gets a queue id
    "identified": ({"id", "message_id"}, set()),  # and its Message-ID is seen
    "queued": ({"id"}, {"sender", "size", "recipients"}),  # it is due for delivery
    "delivery": ({"id", "recipient", "status"}, {"original", "relay", "delay", "dsn", "reply", "store"}),  # one try for one recipient
    "successor": ({"id", "successor"}, {"what"}),  # another message was made of it: a bounce, a forward
    "rejected": ({"reason"}, {"id", "client", "sender", "recipient", "verdict"}),  # a command or a message is refused
    "removed": ({"id"}, set()),  # nothing is left to deliver
    "stored": ({"message_id"}, {"user", "mailbox", "failure"}),  # a store took it, or with `failure` did not
    "read": ({"user"}, {"messages", "octets"}),  # a session ended that had fetched this many bodies, or octets of them
}
_NEVER = re.compile(r"(?!)")


@dataclass(frozen=True)
class Log:
    """Regular expressions (Python's), searched for in each line.

    `level` finds the word of severity in its group `level`, and `levels` says what each word means. A line without one is info,
    or debug where `routine` finds that it says nothing new. `problem` finds lines that tell of a problem although their severity
    does not: a refusal, a failed login. `events` finds what a message goes through: see EVENTS. `statuses` says what the word or sign
    means that a server has for the end of a delivery.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    level: str = ""
    levels: dict[str, Severity] = field(default_factory=dict)
    routine: str = ""
    problem: str = ""
    statuses: dict[str, Literal["sent", "deferred", "bounced"]] = field(default_factory=dict)
    events: dict[str, tuple[str, ...]] = field(default_factory=dict)


@cache
def of(backend: str) -> Log:
    """What the backend.yaml of a backend says. Raises UsageError where there is none, or its `log` is no such thing."""
    import yaml

    path = where(backend)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)).get("log", {})
        return Log(**{**raw, "events": {kind: tuple(patterns) for kind, patterns in raw.get("events", {}).items()}})
    except FileNotFoundError as why:
        raise UsageError(f"the stack runs {backend}, which this version of stackctl does not know", "`stackctl up` starts what it does know") from why
    except (yaml.YAMLError, TypeError, AttributeError) as why:
        raise UsageError(f"{path}: log: {why}", "stackctl/logformat.py documents the key") from why


def where(backend: str) -> Path:
    """The file that says it."""
    return resource("images") / backend / "backend.yaml"


def compiled(pattern: str, place: str, required: AbstractSet[str] = frozenset(), allowed: AbstractSet[str] = frozenset()) -> re.Pattern[str]:
    """A pattern, one that finds nothing for "". `place` is for the error.

    Raises UsageError for what is no pattern, lacks one of the `required` groups, or has one that is not in `allowed` either.
    """
    if not pattern:
        return _NEVER
    try:
        found = re.compile(pattern)
    except re.error as why:
        raise UsageError(f"{place}: {why}: {pattern}", "it is a regular expression of Python's module re") from why
    groups = set(found.groupindex)
    if missing := required - groups:
        raise UsageError(f"{place}: the group {', '.join(sorted(missing))} is missing: {pattern}", "write (?P<name>…)")
    if unknown := groups - required - allowed:
        raise UsageError(f"{place}: unknown group {', '.join(sorted(unknown))}: {pattern}", f"known are {', '.join(sorted(required | allowed))}")
    return found
