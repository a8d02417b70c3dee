"""A bounce: a delivery status notification (RFC 3464), read. It sends and waits for none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message as Fields
from typing import cast

from stackctl.testing.received import Message


@dataclass(frozen=True)
class Recipient:
    """What became of a message for one recipient: `action` and `status` are the words of RFC 3464 2.3, `diagnostic_code` without its type."""

    address: str
    action: str
    status: str
    diagnostic_code: str


@dataclass(frozen=True)
class Bounce:
    """A notification: the message that it is, the Message-ID of the one that it is about ("" where it does not say), and its recipients."""

    message: Message
    message_id: str
    recipients: tuple[Recipient, ...]

    @property
    def action(self) -> str:
        """failed, delayed, delivered, relayed or expanded; of the first recipient, as are `status` and `diagnostic_code`."""
        return self.recipients[0].action

    @property
    def status(self) -> str:
        """An enhanced status code (RFC 3463), such as 5.1.1."""
        return self.recipients[0].status

    @property
    def diagnostic_code(self) -> str:
        """What the server said that refused it, such as `550 5.1.1 <x@example.test> User unknown`."""
        return self.recipients[0].diagnostic_code


def parse(message: Message) -> Bounce | None:
    """The notification that a message is, None where it is none."""
    if message.email.get_content_type() != "multipart/report":  # RFC 6522
        return None
    recipients = tuple(_recipients(message))
    return Bounce(message, _about(message), recipients) if recipients else None


def _recipients(message: Message) -> Iterator[Recipient]:
    for part in message.email.walk():
        if part.get_content_type() == "message/delivery-status":
            for fields in cast(list[Fields], part.get_payload()):  # the first group is about the message, those with an action about a recipient each
                if fields["Action"]:
                    yield Recipient(
                        _typed(fields["Original-Recipient"] or fields["Final-Recipient"]),  # the second is the MTA's own address of a store
                        fields["Action"].partition("(")[0].strip().lower(),  # RFC 3464 2.1.1: a comment may follow
                        str(fields["Status"] or "").partition(" ")[0].strip(),
                        _typed(fields["Diagnostic-Code"]),
                    )


def _typed(value: str | None) -> str:
    """The value of a field without the type in front of it (`rfc822;`, `smtp;`), its lines joined."""
    return " ".join(str(value or "").partition(";")[2].split())


def _about(message: Message) -> str:
    """The Message-ID of the message that came back, whole or its header alone (text/rfc822-headers)."""
    for part in message.email.walk():
        if part.get_content_type() == "message/rfc822":
            return str(cast(list[Fields], part.get_payload())[0]["Message-ID"] or "").strip()
        if part.get_content_type() == "text/rfc822-headers":
            found = re.search(r"^Message-ID:\s*(<[^>]*>)", str(part.get_payload()), re.IGNORECASE | re.MULTILINE)
            return found[1] if found else ""
    return ""
