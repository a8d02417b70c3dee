"""A running stack that gives mailboxes. It makes no account for them: a user has one, and every address of the disposable domain."""

from __future__ import annotations

import os
import re

from stackctl import running
from stackctl.testing.access import Access
from stackctl.testing.mailbox import Mailbox

_LABEL = 40  # characters of a local part (64, RFC 5321 4.5.3.1.1) that say whose it is; the rest makes it unique


class MailStack(Access):
    """What the fixture `mail_stack` gives."""

    def fresh(self, label: str = "") -> Mailbox:
        """A mailbox whose address nobody used before, in the disposable domain; `label` is a word for the address."""
        name = re.sub(r"[^a-z0-9]+", "-", label.lower())[:_LABEL].strip("-") or "box"
        return self.mailbox(f"{name}-{os.urandom(6).hex()}@{self.disposable}")

    def mailbox(self, address: str) -> Mailbox:
        """The mailbox of an address of the stack, a user's too. Raises UsageError for one that it does not have."""
        return Mailbox(self, address, running.password_of(self.known, address))
