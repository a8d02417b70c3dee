"""The queue of a running MTA: what waits and why, and what can be done with it, by the verbs of its image. It keeps no copy of the mail.

These verbs are the same for every MTA:

queue-list               prints a JSON object a line for each message: queue_name, queue_id, arrival_time (seconds since 1970), message_size
                         (octets), sender and recipients, each an object of address and, where it had to wait, delay_reason
queue-show ID            prints what is known of a message, for a person; `queue-show ID message`: its header and body alone
queue-flush              has the MTA try all deliveries at once
queue-hold ID...         no more delivery; queue-release ID... has what is on hold delivered again
queue-requeue ID...      through the address rewriting of now, with new ids
queue-delete ID...       away with them

Those that change messages take ALL instead of ids, and print the number of messages that they changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from stackctl import mta, state
from stackctl.errors import CheckFailed, UsageError
from stackctl.render import INTERNAL

ALL = "ALL"
HOLD = "hold"  # the name of the queue in which messages are that wait for a release
Action = Literal["hold", "release", "requeue", "delete"]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{4,31}")  # some MTAs have "-" or "." between the parts; none at the start, where a program could take it for an option


@dataclass(frozen=True)
class Recipient:
    """Whom a message waits for. `store` is the store whose mailbox it is, None for another destination; `delay_reason` None where it did not wait yet."""

    address: str
    store: str | None
    delay_reason: str | None


@dataclass(frozen=True)
class Message:
    """A message in the queue. `arrival_time`: ISO 8601, UTC; `message_size`: octets; `sender`: "" for a bounce."""

    queue_id: str
    queue_name: str
    arrival_time: str
    message_size: int
    sender: str
    recipients: tuple[Recipient, ...]


def messages(known: state.State) -> tuple[Message, ...]:
    """What is in the queue, the oldest first. Raises CheckFailed when the MTA does not run."""
    rows = [json.loads(line) for line in mta.done(known, "queue-list").splitlines() if line.startswith("{")]
    rows.sort(key=lambda row: (row["arrival_time"], row["queue_id"]))
    return tuple(
        Message(
            row["queue_id"],
            row["queue_name"],
            datetime.fromtimestamp(row["arrival_time"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            row["message_size"],
            row["sender"],
            tuple(_recipient(one["address"], one.get("delay_reason")) for one in row["recipients"]),
        )
        for row in rows
    )


def _recipient(address: str, reason: str | None) -> Recipient:
    """A recipient as its user knows it: a mailbox of a store has the store's name behind it inside the MTA."""
    if not address.endswith(f".{INTERNAL}"):
        return Recipient(address, None, reason)
    outer, _, store = address.removesuffix(f".{INTERNAL}").rpartition(".")
    return Recipient(outer, store, reason)


def message(known: state.State, queue_id: str) -> Message:
    """One message of the queue. Raises UsageError for an id that is none, or not in the queue."""
    return _chosen(known, [queue_id])[0]


def text(known: state.State, queue_id: str, content: bool = False) -> str:
    """What the MTA knows of a message, for a person; with `content` its header and body alone. Raises UsageError for an unknown id."""
    message(known, queue_id)
    code, output = mta.verb(known, "queue-show", queue_id, *(["message"] if content else []))
    if code != 0:
        raise CheckFailed(f"{queue_id} has left the queue meanwhile", "`stackctl queue list` shows what is there")
    return output


def flush(known: state.State) -> int:
    """Has the MTA try all that waits at once, to destinations that it took for dead too; the number of messages in the queue.

    What is on hold stays there. Raises CheckFailed when the MTA does not run.
    """
    here = messages(known)
    mta.done(known, "queue-flush")
    return len(here)


def change(known: state.State, action: Action, ids: Sequence[str]) -> int:
    """Holds, releases, requeues or deletes messages by their ids, or all of them: ids is then ("ALL",). The number of messages that it changed.

    Raises UsageError for an id that is none or not in the queue, and changes nothing then; CheckFailed where one left the queue meanwhile.
    """
    if list(ids) == [ALL]:
        return int(mta.done(known, f"queue-{action}", ALL))
    chosen = _chosen(known, ids)
    due = [one.queue_id for one in chosen if _is_due(action, one)]
    changed = int(mta.done(known, f"queue-{action}", *due)) if due else 0
    if changed < len(due):
        raise CheckFailed(f"{changed} of {len(due)} messages were there still: the rest was delivered meanwhile", "`stackctl queue list` shows what is there")
    return changed


def _is_due(action: Action, one: Message) -> bool:
    return {"hold": one.queue_name != HOLD, "release": one.queue_name == HOLD}.get(action, True)


def _chosen(known: state.State, ids: Sequence[str]) -> list[Message]:
    """The messages of these ids, each once. Raises UsageError unless all of them are in the queue."""
    if malformed := [one for one in ids if not _ID.fullmatch(one)]:
        hint = "ALL stands alone" if ALL in (one.upper() for one in malformed) else "an id is letters, digits, '-' and '.'; `stackctl queue list` shows them"
        raise UsageError(f"no queue id: {', '.join(map(repr, malformed))}", hint)
    here = {one.queue_id: one for one in messages(known)}
    if unknown := [one for one in ids if one not in here]:
        raise UsageError(f"not in the queue: {', '.join(unknown)}", "nothing was changed; `stackctl queue list` shows what is there")
    return [here[one] for one in dict.fromkeys(ids)]
