"""How much mail went through an MTA: counts from the lines of its log. It reads lines that it is given, never a server.

What is counted, and how, is what pflogsumm(1) counts, so that both give the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from stackctl import command
from stackctl.errors import EngineError, UsageError
from stackctl.labels import LABEL, VERBS
from stackctl.logbook import Event, Line, Rules
from stackctl.state import State

_KINDS = ("accepted", "queued", "delivery", "rejected")
_PER_HOUR = ("received", "delivered", "deferred", "bounced", "rejected")


@dataclass
class Tally:
    """Messages and their octets, by sender, recipient or domain."""

    messages: Counter[str] = field(default_factory=Counter)
    octets: Counter[str] = field(default_factory=Counter)

    def add(self, key: str, octets: int) -> None:
        """Counts one message."""
        self.messages[key] += 1
        self.octets[key] += octets

    def top(self, most: int) -> list[dict[str, Any]]:
        """Those with the most messages, then octets, then by name."""
        keys = sorted(self.messages, key=lambda key: (-self.messages[key], -self.octets[key], key))
        return [{"name": key, "messages": self.messages[key], "octets": self.octets[key]} for key in keys[:most]]


@dataclass
class Traffic:
    """What went through. `received` are messages that clients handed in; `delivered` and `bounced` are deliveries to one recipient;
    `deferred` are messages that had to wait, `deferrals` the tries of that kind."""

    received: int = 0
    delivered: int = 0
    forwarded: int = 0
    deferred: int = 0
    deferrals: int = 0
    bounced: int = 0
    rejected: int = 0
    reject_warnings: int = 0
    held: int = 0
    discarded: int = 0
    octets_received: int = 0
    octets_delivered: int = 0
    senders: Tally = field(default_factory=Tally)
    sender_domains: Tally = field(default_factory=Tally)
    recipients: Tally = field(default_factory=Tally)
    recipient_domains: Tally = field(default_factory=Tally)
    reasons: Counter[str] = field(default_factory=Counter)  # of refusals
    hours: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in range(24)])  # of the day, UTC


def count(lines: Iterable[Line], how: Rules) -> Traffic:
    """The traffic in the lines of an MTA, which are in order of time."""
    found = Traffic()
    clients: dict[str, str] = {}  # queue id -> client, until its sender is known
    sizes: dict[str, int] = {}
    waited: set[str] = set()
    for line in lines:
        hour = found.hours[int(line.time[11:13])]
        for event in how.events(line, _KINDS):
            groups, id_ = event.groups, event.groups.get("id", "")
            if event.kind == "accepted":
                found.received += 1
                hour["received"] += 1
                clients[id_] = groups.get("client", "")
            elif event.kind == "queued" and not sizes.get(id_):  # again at each try: once is enough
                sizes[id_] = int(groups.get("size", 0))
                if (client := clients.pop(id_, None)) is not None:  # not one that was made here: a bounce, a forward
                    _sent_by(found, groups.get("sender", ""), client, sizes[id_])
            elif event.kind == "delivery":
                _delivery(found, event, sizes.get(id_, 0), hour)
                if groups["status"] == "deferred":
                    found.deferred += id_ not in waited
                    waited.add(id_)
            elif event.kind == "rejected":
                _rejected(found, event, hour)
    return found


def _sent_by(found: Traffic, sender: str, client: str, size: int) -> None:
    found.octets_received += size
    who = _folded(sender) or "from=<>"
    found.senders.add(who, size)
    local, at, domain = who.partition("@")
    found.sender_domains.add(domain if local and at and domain else who if client == "pickup" else client.partition("[")[2].rstrip("]") or client, size)


def _delivery(found: Traffic, event: Event, size: int, hour: Counter[str]) -> None:
    status = event.groups["status"]
    if status == "sent" and event.groups.get("reply", "").startswith("forwarded as "):
        found.forwarded += 1
    elif status == "sent":
        found.delivered += 1
        found.octets_delivered += size
        hour["delivered"] += 1
        who = _folded(event.groups["recipient"])
        found.recipients.add(who, size)
        found.recipient_domains.add(who.partition("@")[2] or who, size)
    elif status == "deferred":
        found.deferrals += 1
        hour["deferred"] += 1
    elif status == "bounced":
        found.bounced += 1
        hour["bounced"] += 1


def _rejected(found: Traffic, event: Event, hour: Counter[str]) -> None:
    verdict = event.groups.get("verdict", "reject")
    if verdict in ("reject", "milter-reject"):
        found.rejected += 1
        found.reasons[event.groups["reason"]] += 1
    else:
        key = {"hold": "held", "discard": "discarded"}.get(verdict, "reject_warnings")
        setattr(found, key, getattr(found, key) + 1)
    hour["rejected"] += 1  # these too, as pflogsumm(1) has it


def _folded(address: str) -> str:
    """An address with its domain in lower case."""
    local, at, domain = address.partition("@")
    return local + at + domain.lower()


def span(day: str, now: datetime | None = None) -> tuple[str, str]:
    """The first moment of a day and of the next one, for logbook.moment: `today`, `yesterday` or a date of ISO 8601, in UTC.

    Raises UsageError for anything else.
    """
    today = (now or datetime.now(UTC)).date()
    try:
        first = {"today": today, "yesterday": today - timedelta(days=1)}.get(day) or date.fromisoformat(day)
        return first.isoformat(), (first + timedelta(days=1)).isoformat()
    except (ValueError, OverflowError) as why:
        raise UsageError(f"--day {day}: no such day", "write today, yesterday or a date (UTC) such as 2026-11-24") from why


def report(known: State, lines: Iterable[Line], top: int) -> str:
    """The report of the MTA's own analyser over these lines, the first `top` of each list in it.

    It runs in a container of its own, without network or privileges: the MTA may be paused or dead. Raises UsageError where the
    MTA's image has no analyser, EngineError when it fails.
    """
    from stackctl.backends import all_backends

    name = known.endpoints["mta"]["backend"]
    if "stats" not in all_backends()[name].verbs:
        raise UsageError(f"{name} brings no program that makes a report of its log", "`stackctl stats --json` counts by itself")
    confined = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=65534:65534", "--log-driver=none"]
    label = f"--label={LABEL}={known.name}"  # so that `down` and `prune` find it, should it be left
    argv = ["docker", "run", "--rm", "--interactive", *confined, label, f"--entrypoint={VERBS}/stats", known.images[name], str(top)]
    done = command.run(argv, stdin="".join(f"{line.text}\n" for line in lines).encode(), check=False, timeout=120)
    if done.status != 0:
        raise EngineError(f"no report: {done.last_words}", "`stackctl up` takes the image of this version; `stackctl stats --json` counts by itself")
    return done.text


def as_json(found: Traffic, top: int) -> dict[str, Any]:
    """Traffic as other programs get it, with the `top` first of each list."""
    return {
        **{key: value for key, value in vars(found).items() if isinstance(value, int)},
        **{key: getattr(found, key).top(top) for key in ("senders", "sender_domains", "recipients", "recipient_domains")},
        "totals": {key: len(getattr(found, key).messages) for key in ("senders", "sender_domains", "recipients", "recipient_domains")},
        "reject_reasons": [{"reason": reason, "count": times} for reason, times in found.reasons.most_common(top)],
        "by_hour": [{"hour": number, **{key: hour[key] for key in _PER_HOUR}} for number, hour in enumerate(found.hours)],
    }
