"""Faults of mail, connections and logins for the time of a test: set on the running stack, undone by one call. The servers make them, not this process."""

from __future__ import annotations

import os

from stackctl import faults, lines, state
from stackctl.errors import UsageError


class SmtpFaults:
    """What the fixture `smtp_faults` gives. It ends only the faults that it has set: other tests may use the same stack."""

    def __init__(self, known: state.State, domain: str) -> None:
        self._known = known
        self._domain = domain
        self._set: dict[str, None] = {}

    def address(self, fault: str) -> str:
        """An address that is a fault by its name, and that no other test has: "450.rcpt", "552.end", "grey", "slow-2s" (docs/faults.md)."""
        return f"{fault}+{os.urandom(6).hex()}@fault.{self._domain}"

    def set(
        self, address: str, *, reply: int | None = None, at: str = "rcpt", text: str = "", times: int | None = None, delay: int = 0, store: str | None = None
    ) -> None:
        """Makes mail for an address fail from the next client on, as `stackctl fault set` does. Raises UsageError for what cannot be."""
        made = faults.put(self._known, address, reply=reply, at=at, text=text, times=times, delay=delay, store=store)
        self._set[made.address] = None

    def full(self, address: str) -> None:
        """Leaves no room in a user's mailbox, as `stackctl fault full` does. Raises UsageError for somebody without a mailbox of his own."""
        self._set[faults.put_full(self._known, address).address] = None

    def connection(
        self,
        listener: str,
        *,
        latency: float = 0.0,
        bandwidth: int | None = None,
        drop_after: int | None = None,
        no_starttls: bool = False,
        hang: bool = False,
        refuse: bool = False,
    ) -> None:
        """Has new connections to a listener, "dovecot.imaps", go so badly, as `stackctl fault connection` does. Raises UsageError for what cannot be."""
        faults.put_connection(self._known, lines.Line(listener, latency, bandwidth, drop_after, no_starttls, hang, refuse))
        self._set[listener] = None

    def logins(self) -> None:
        """Has every server answer that it can check no login for now, as `stackctl fault logins` does."""
        faults.put_logins(self._known)
        self._set[faults.LOGINS] = None

    def clear(self) -> None:
        """Ends what was set here."""
        for address in self._set:
            try:
                faults.clear(self._known, address)
            except UsageError:  # `stackctl fault clear` was quicker
                continue
        self._set.clear()
