"""One message's way through a stack, hop by hop, from the lines of its log. It reads lines that it is given and never asks a server.

What no log says it does not claim: see `Trace.unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stackctl.errors import CheckFailed
from stackctl.logbook import Event, Line, Rules

# What the MTA adds to an address for each store: render.INTERNAL, without the time that loading it takes.
_STORE = re.compile(r"\.(?P<store>[^.@]+)\.store\.internal$")
_STEPS = ("accepted", "identified", "queued", "rejected", "delivery", "successor", "removed")


@dataclass(frozen=True)
class Hop:
    """A step of a message's way. `ms` counts from the first one, `id` is the queue id ("" in a store), `told` what the line says."""

    time: str
    ms: float
    service: str
    id: str
    step: str
    told: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Trace:
    """A message's way. `unknown`: what cannot be known, a sentence each."""

    message_ids: tuple[str, ...]
    queue_ids: tuple[str, ...]
    hops: tuple[Hop, ...]
    unknown: tuple[str, ...]


@dataclass
class _Found:
    """What belongs to a message, as it is found: queue ids and Message-IDs, each once, in the order of finding."""

    queue_ids: list[str] = field(default_factory=list)
    message_ids: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


def trace(wanted: str, lines: Sequence[Line], rules: Mapping[str, Rules]) -> Trace:
    """The way of a message by its Message-ID (RFC 5322 section 3.6.4; angle brackets or none) or its queue id, from lines in order of time.

    Messages that were made of it are followed too: what a store sends on (by its Message-ID), bounces and forwards (by their queue ids).
    Raises CheckFailed when no line knows it.
    """
    wanted = wanted.strip().removeprefix("<").removesuffix(">")
    found = _Found()
    if wanted:
        _collect(wanted, lines, rules, found)
    if not found.events:
        raise CheckFailed(
            f"no line of the log knows a message {wanted}",
            "give its Message-ID or its queue id; `stackctl logs --problems` shows what was refused before it became one, `stackctl up` after a change"
            " of what a container is made of starts a new log",
        )
    found.events += list(_in_stores(found, lines, rules))
    events = [event for event in found.events if event.kind in (*_STEPS, "stored")]
    reads, unknown = _reads(events, lines, rules)
    ordered = sorted({(event.line, event.kind): event for event in [*events, *reads]}.values(), key=lambda event: event.line.time)
    tls = _tls(ordered, lines, rules)
    start = _seconds(ordered[0].line.time)
    hops = tuple(
        Hop(
            event.line.time,
            round((_seconds(event.line.time) - start) * 1000, 1),
            event.line.service,
            event.groups.get("id", ""),
            _step(event),
            _told(event, tls),
            event.line.text,
        )
        for event in ordered
    )
    return Trace(tuple(found.message_ids), tuple(found.queue_ids), hops, tuple(unknown))


def _collect(wanted: str, lines: Sequence[Line], rules: Mapping[str, Rules], found: _Found) -> None:
    """Follows queue ids and Message-IDs from one to the next until nothing new comes. Only lines that hold the text of an id are parsed."""
    open_ids, seen = [wanted], set()
    while open_ids:
        current = open_ids.pop(0)
        if not current or current in seen:  # a message without a Message-ID has an empty one
            continue
        seen.add(current)
        for line in [line for line in lines if current in line.text]:
            for event in rules[line.service].events(line, _STEPS):
                if event.kind == "identified" and current in (event.groups["id"], event.groups["message_id"]):
                    open_ids += [event.groups["id"], event.groups["message_id"]]
                    _add(found.message_ids, event.groups["message_id"])
                if event.groups.get("id") == current:
                    _add(found.queue_ids, current)
                    found.events.append(event)
                    open_ids += [event.groups["successor"]] if event.kind == "successor" else []


def _add(known: list[str], one: str) -> None:
    if one and one not in known:
        known.append(one)


def _in_stores(found: _Found, lines: Sequence[Line], rules: Mapping[str, Rules]) -> Iterator[Event]:
    """What stores say of these Message-IDs."""
    for line in lines:
        if any(one in line.text for one in found.message_ids):
            yield from (event for event in rules[line.service].events(line, ("stored",)) if event.groups["message_id"] in found.message_ids)


def _reads(events: Sequence[Event], lines: Sequence[Line], rules: Mapping[str, Rules]) -> tuple[list[Event], list[str]]:
    """For each mailbox that got the message the first session after it that fetched something; and what that leaves open."""
    arrived: dict[tuple[str, str], str] = {}
    for event in events:
        if place := _mailbox(event):
            arrived[place] = min(event.line.time, arrived.get(place, event.line.time))
    found = []
    for (service, user), since in arrived.items():
        after = (line for line in lines if line.service == service and line.time > since and user in line.text.lower())
        first = next((event for line in after for event in rules[service].events(line, ("read",)) if event.groups["user"].lower() == user), None)
        found += [first] if first else []
    unread = [f"{user} in {service}" for service, user in arrived if not any(e.line.service == service and e.groups["user"].lower() == user for e in found)]
    said = []
    if found:
        said.append("'read' is the end of the first later session that fetched a body from that mailbox: which message it was, the servers do not log")
    if unread:
        said.append(f"no session that fetched a body has ended since in {', '.join(unread)}")
    return found, said


def _mailbox(event: Event) -> tuple[str, str] | None:
    """The store and user in whose mailbox a message is after this event, None where it is in none."""
    groups = event.groups
    if event.kind == "stored" and "failure" not in groups and "user" in groups:
        return event.line.service, groups["user"].lower()
    if event.kind == "delivery" and groups["status"] == "sent" and "store" in (place := _placed(groups)):
        local, _, domain = place["recipient"].rpartition("@")
        return place["store"], f"{local.partition('+')[0]}@{domain}".lower()
    return None


def _placed(groups: Mapping[str, str]) -> dict[str, str]:
    """A recipient as its user knows it, and the store, which the MTA names apart or in the address; nothing for another destination."""
    if found := _STORE.search(groups.get("recipient", "")):
        return {"recipient": groups["recipient"][: found.start()], "store": found["store"]}
    return {key: groups[key] for key in ("recipient", "store")} if "store" in groups else {}


def _tls(events: Iterable[Event], lines: Sequence[Line], rules: Mapping[str, Rules]) -> dict[Line, str]:
    """How the connection was encrypted by which a message came: what its process said last of it, unless the connection has ended since."""
    found: dict[Line, str] = {}
    for event in events:
        process = event.groups.get("process")
        if event.kind != "accepted" or not process:
            continue
        before = (line for line in reversed(lines) if line.time <= event.line.time and line.service == event.line.service and process in line.text)
        said = (known for line in before for known in rules[line.service].events(line, ("tls", "closed")) if known.groups["process"] == process)
        if (last := next(said, None)) and last.kind == "tls":
            found[event.line] = last.groups["tls"]
    return found


def _step(event: Event) -> str:
    groups = event.groups
    if event.kind == "delivery":
        return "delivered" if groups["status"] == "sent" else groups["status"]
    if event.kind == "stored":
        return "not saved" if "failure" in groups else "saved"
    return {"identified": "message-id", "successor": "made", "rejected": groups.get("verdict", "rejected")}.get(event.kind, event.kind)


def _told(event: Event, tls: Mapping[Line, str]) -> dict[str, str]:
    """The groups of an event, with the store for its internal address, without what stands elsewhere in the hop."""
    told = {key: value for key, value in event.groups.items() if key not in ("id", "verdict", "status")}
    if event.line in tls:
        told["tls"] = tls[event.line]
    told |= _placed(told)
    if told.get("original") == told.get("recipient"):
        told.pop("original", None)
    return told


def _seconds(time: str) -> float:
    """Seconds since 1970 of a line's time, to the microsecond."""
    return datetime.fromisoformat(time[:26] + "+00:00").timestamp()


def as_json(found: Trace) -> dict[str, Any]:
    """A trace as other programs get it."""
    return {
        "message_ids": list(found.message_ids),
        "queue_ids": list(found.queue_ids),
        "hops": [{**vars(hop), "told": dict(hop.told)} for hop in found.hops],
        "unknown": list(found.unknown),
    }
