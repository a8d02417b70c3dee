"""A mailbox as a test uses it: wait for mail, look at it, send some. It makes none: every address of the disposable domain exists.

Nothing is asked of a server before the first call that needs one; a wait never sleeps blindly and always ends.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.utils import make_msgid
from pathlib import Path
from typing import Protocol

from stackctl.clients.imap import Imap
from stackctl.clients.message import Summary, compose, summary
from stackctl.clients.smtp import Smtp
from stackctl.errors import StackctlError, TimedOut
from stackctl.testing import bounce
from stackctl.testing.access import Access
from stackctl.testing.received import Attachment, Message

_ANSWER = 30.0  # seconds for an answer of a server
_SHOWN = 20  # messages of a mailbox in a report
STRANGER = "writer@elsewhere.example"  # RFC 2606: .example is nobody's


@dataclass(frozen=True)
class Wanted:
    """Which messages are meant; None for whatever it is."""

    subject: str | None = None
    sender: str | None = None
    body: str | None = None
    predicate: Callable[[Message], bool] | None = None

    def takes(self, one: Message) -> bool:
        """Whether a message is one of them; what a list shows of it is looked at first."""
        return (
            (self.subject is None or re.search(self.subject, one.subject) is not None)
            and (self.sender is None or self.sender.lower() in one.sender.lower())
            and (self.body is None or re.search(self.body, one.text + one.html) is not None)
            and (self.predicate is None or self.predicate(one))
        )

    def __str__(self) -> str:
        said = [f"{key} {value!r}" for key, value in (("subject", self.subject), ("sender", self.sender), ("body", self.body)) if value is not None]
        return " with " + " and ".join([*said, *(["what the predicate asks"] if self.predicate else [])]) if said or self.predicate else ""


class Mailbox:
    """The INBOX of an address. `stack` is where it is; `password` is good for every server of the stack, submission too."""

    def __init__(self, stack: Access, address: str, password: str) -> None:
        self.stack, self.address, self.password = stack, address, password
        self.timeout = stack.timeout  # seconds that a wait lasts unless it is told otherwise
        self._imap: Imap | None = None
        self._known: dict[int, Message] = {}
        self._at_work = False
        self._lock = threading.RLock()  # one session, and an asynchronous test may ask from several threads

    def __repr__(self) -> str:
        return f"<Mailbox {self.address}>"

    # --- What came

    def wait_for(
        self,
        subject: str | None = None,
        sender: str | None = None,
        body: str | None = None,
        predicate: Callable[[Message], bool] | None = None,
        timeout: float | None = None,
    ) -> Message:
        """The first message that matches, as soon as it is there; one that was there before counts too.

        `subject` and `body` are regular expressions (searched in the Subject; in text and HTML), `sender` is a part of From. Raises TimedOut
        after `timeout` seconds (the option's unless given), saying what was there instead.
        """
        __tracebackhide__ = True
        return self._wait(1, Wanted(subject, sender, body, predicate), timeout)[0]

    def wait_for_count(
        self,
        count: int,
        subject: str | None = None,
        sender: str | None = None,
        body: str | None = None,
        predicate: Callable[[Message], bool] | None = None,
        timeout: float | None = None,
    ) -> list[Message]:
        """The messages that match, as soon as there are `count` of them or more, the oldest first. Raises TimedOut."""
        __tracebackhide__ = True
        return self._wait(count, Wanted(subject, sender, body, predicate), timeout)

    def wait_for_bounce(self, of: str | None = None, timeout: float | None = None) -> bounce.Bounce:
        """The delivery status notification (RFC 3464) about the message with the Message-ID `of`, or about any. Raises TimedOut."""
        __tracebackhide__ = True

        def is_it(one: Message) -> bool:
            found = bounce.parse(one)
            return found is not None and (of is None or found.message_id.strip("<>") == of.strip("<>"))

        found = bounce.parse(self.wait_for(predicate=is_it, timeout=timeout))
        assert found
        return found

    def assert_none(
        self,
        within: float = 0.5,
        subject: str | None = None,
        sender: str | None = None,
        body: str | None = None,
        predicate: Callable[[Message], bool] | None = None,
    ) -> None:
        """Looks for `within` seconds; raises AssertionError as soon as a message that matches is there."""
        __tracebackhide__ = True
        wanted = Wanted(subject, sender, body, predicate)
        with contextlib.suppress(TimedOut):
            self._wait(1, wanted, within)
        # Looked at once more: a server that did not answer timed out as well.
        if here := [one for one in self.messages() if wanted.takes(one)]:
            raise AssertionError(f"{self.address}: there should be no message{wanted}; there {_are(here)}")

    def messages(self) -> list[Message]:
        """What is there now, the oldest first."""
        with self._session() as imap:
            return [self._message(one) for one in imap.summaries(imap.uids())]

    def links(self) -> list[str]:
        """The links of all messages that are there now."""
        return [link for one in self.messages() for link in one.links()]

    def codes(self) -> list[str]:
        """What may be one-time codes in the messages that are there now."""
        return [code for one in self.messages() for code in one.codes()]

    def attachments(self) -> list[Attachment]:
        """The attachments of all messages that are there now."""
        return [attachment for one in self.messages() for attachment in one.attachments]

    # --- What goes

    def send_from(
        self, sender: str = STRANGER, subject: str = "", body: str = "", attachments: Sequence[Path] = (), message: EmailMessage | bytes | None = None
    ) -> str:
        """Sends a message to this mailbox as the outside does, on port 25; `message` goes as it is instead. Its Message-ID, "" where it has none.

        Raises Refused.
        """
        octets = _octets(message, sender, self.address, subject, body, attachments)
        with Smtp(self.stack.where("smtp"), _ANSWER) as smtp:
            smtp.send(sender, [self.address], octets)
        return summary(octets).message_id

    def send_to(self, recipient: str, subject: str = "", body: str = "", attachments: Sequence[Path] = (), message: EmailMessage | bytes | None = None) -> str:
        """Sends a message from this mailbox, logged in at the submission port; otherwise as `send_from`. Raises Refused."""
        octets = _octets(message, self.address, recipient, subject, body, attachments)
        with Smtp(self.stack.where("submission"), _ANSWER) as smtp:
            smtp.login(self.address, self.password)
            smtp.send(self.address, [recipient], octets)
        return summary(octets).message_id

    # --- Its end

    def delete_all(self) -> None:
        """Removes every message, in every store of the stack."""
        with self._session() as imap:
            imap.delete(imap.uids())
        for store in self.stack.stores:
            if store != self.stack.store:
                with self._open(store) as imap:
                    imap.select()
                    imap.delete(imap.uids())

    def close(self) -> None:
        """Ends the session, where there is one; the next call opens another."""
        with self._lock:
            if self._imap:
                self._imap.close()
                self._imap = None

    def _wait(self, count: int, wanted: Wanted, timeout: float | None) -> list[Message]:
        __tracebackhide__ = True
        seconds = self.timeout if timeout is None else timeout
        with self._session() as imap:
            try:
                # By NOOP, and not by IDLE: a message that comes within 40 ms of the server's "+ idling" is told of after these 40 ms only
                # (Nagle's algorithm, RFC 1122 4.2.3.4, and a delayed acknowledgement), or half a second late by the server's own choice.
                found = imap.wait(matches=lambda one: wanted.takes(self._message(one)), count=count, timeout=seconds)
                return [self._message(one) for one in found]
            except TimedOut:
                here = [self._message(one) for one in imap.summaries(imap.uids())]
        many = sum(wanted.takes(one) for one in here)
        what = f"no message{wanted}" if not many else f"{many} of {count} messages{wanted}"
        raise TimedOut(f"{self.address} ({self.stack.store}): {what} within {seconds:g} s; there {_are(here)}", "`stackctl logs` shows what became of it") from None

    @contextlib.contextmanager
    def _session(self) -> Iterator[Imap]:
        """An open INBOX: the session that was left open, where it still stands; within a call that has it already, as it is."""
        with self._lock:
            if self._imap and self._at_work:
                yield self._imap
                return
            if self._imap:
                try:
                    self._imap.select()
                except StackctlError:  # a server ends a session that was idle for too long, or was started anew
                    self.close()
            if not self._imap:
                self._imap = self._open(self.stack.store)
                self._imap.select()
            self._at_work = True
            try:
                yield self._imap
            finally:
                self._at_work = False

    def _open(self, store: str) -> Imap:
        imap = Imap(self.stack.where("imaps", store), _ANSWER)
        try:
            imap.login(self.address, self.password)
        except StackctlError:
            imap.close()
            raise
        return imap

    def _message(self, listed: Summary) -> Message:
        """The message of a UID, made once: whoever has it already sees its octets too."""

        def fetch() -> bytes:
            with self._session() as imap:
                return imap.fetch(listed.uid)

        known = self._known.get(listed.uid)
        if known is None or known.listed != listed:  # a mailbox that was made anew counts from 1 again
            known = self._known[listed.uid] = Message(listed, fetch)
        return known


class MailboxFactory(Protocol):
    """Makes mailboxes; `label` is a word for the address."""

    def __call__(self, label: str = "") -> Mailbox:
        """A mailbox of its own."""


def _octets(message: EmailMessage | bytes | None, sender: str, recipient: str, subject: str, body: str, attachments: Sequence[Path]) -> bytes:
    """A message with CRLF line ends: the one that is given, or a composed one."""
    if message is None:
        return compose(sender, [recipient], [], subject, body, attachments)
    if isinstance(message, EmailMessage):
        if not message["Message-ID"]:
            message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
        return message.as_bytes(policy=policy.SMTP)
    return message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def table(messages: Sequence[Message]) -> list[str]:
    """A line for each message, of the last ones: when it arrived, its subject, its sender."""
    before = [f"{len(messages) - _SHOWN} before these"] if len(messages) > _SHOWN else []
    return before + [f"{one.arrived.strftime('%H:%M:%S') if one.arrived else '        '}  {one.subject!r} from {one.sender}" for one in messages[-_SHOWN:]]


def _are(messages: Sequence[Message]) -> str:
    return "\n  ".join([f"{'is' if len(messages) == 1 else 'are'} {len(messages)}:", *table(messages)]) if messages else "is nothing at all"
