"""Somebody outside who writes to people of a stack, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stackctl.clients.smtp import Refused
from stackctl.scenario import Context

Quick = Callable[..., tuple[str, str]]  # what the fixture `quick` gives: a command in this process, and its two outputs


def send(mail: Context, to: str, name: str) -> None:
    """A message from outside."""
    mail.send(to, mail.message(mail.sender("smtp"), to, name), way="smtp")


def refused(mail: Context, to: str) -> Refused:
    """The answer to a recipient that is not taken."""
    with pytest.raises(Refused) as caught:
        send(mail, to, "refused")
    return caught.value


def absent(mail: Context, who: str, store: str) -> bool:
    """Whether nothing of this test is in a mailbox."""
    return not any(mail.tag.encode() in one for one in mail.look(who, store))
