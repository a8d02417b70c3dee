"""What the report of a failed test says of its mail: what arrived, what waits in the queue, what the servers logged. It changes nothing and never fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from stackctl import logbook, queue, state
from stackctl.errors import StackctlError
from stackctl.logbook import Line, Rules
from stackctl.testing.mailbox import Mailbox, table

_LINES = 40  # of each service


def section(box: Mailbox, since: str) -> str:
    """The section about a mailbox; `since` is when the test began, as logbook.moment gives it."""
    known = box.stack.known
    parts = (
        ("arrived", lambda: table(box.messages())),
        ("in the queue", lambda: list(_waiting(known, box.address))),
        ("logged", lambda: list(_logged(known, box.address, since))),
    )
    said = [line for title, look in parts for line in (f"{title}:", *(f"  {one}" for one in _tried(look)))]
    return "\n".join([*said, f"kept for a look, where the stack stays: stackctl inbox {box.address} --name {known.name} --store {box.stack.store}"])


def _tried(look: Callable[[], list[str]]) -> list[str]:
    try:
        return look() or ["nothing"]
    except StackctlError as why:
        return [f"cannot be told: {why.message}"]


def _waiting(known: state.State, address: str) -> Iterator[str]:
    for one in queue.messages(known):
        for recipient in one.recipients:
            if address in (recipient.address.lower(), one.sender.lower()):
                yield f"{one.queue_id} ({one.queue_name}) from <{one.sender}> to <{recipient.address}>: {recipient.delay_reason or 'not tried yet'}"


def _logged(known: state.State, address: str, since: str) -> Iterator[str]:
    """The lines of each service that name the address, or a message that another line says was for it."""
    parts = state.parts(known.endpoints)
    rules = logbook.rules({service: part["backend"] for service, part in parts.items()})
    lines = logbook.read({service: part["container"] for service, part in parts.items()}, since)
    words = {address, *_ids(address, lines, rules)}
    for service in parts:
        mine = [line for line in lines if line.service == service and any(word in line.text.lower() for word in words)]
        if len(mine) > _LINES:
            yield f"{service}: {len(mine) - _LINES} lines before these; `stackctl logs {service}` shows them"
        yield from (f"{line.time[11:23]} {service}: {line.text}" for line in mine[-_LINES:])


def _ids(address: str, lines: Iterable[Line], rules: dict[str, Rules]) -> Iterator[str]:
    """The queue ids of the messages to an address or from it, in lower case."""
    for line in lines:
        if address in line.text.lower():
            yield from (event.groups["id"].lower() for event in rules[line.service].events(line) if event.groups.get("id"))
