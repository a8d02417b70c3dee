"""How a test reaches a running stack: where everything is, which store it reads, how long it waits. It starts and ends none."""

from __future__ import annotations

from pathlib import Path

from stackctl import running
from stackctl.clients.where import Where
from stackctl.state import State


class Access:
    """A stack that is up. `store`: the one whose mailboxes are read; `timeout`: seconds that a wait lasts unless it is told otherwise.

    `endpoints` is what `stackctl endpoints --json --secrets` prints, `environment` what `stackctl env --secrets` does: settings for a program under test.
    Raises UsageError for a store that the stack does not have.
    """

    def __init__(self, known: State, store: str | None, timeout: float) -> None:
        self.known, self.timeout = known, timeout
        self.name = known.name
        self.stores = running.stores(known)
        self.store = running.stores(known, store)[0]
        self.endpoints = running.endpoints(known, secrets=True)
        self.environment = running.environment(self.endpoints)
        self.ca = Path(self.endpoints["ca"])
        self.domain: str = self.endpoints["domain"]
        self.disposable: str = self.endpoints["disposable"]["domain"]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, store {self.store}>"

    def where(self, listener: str, service: str = "mta") -> Where:
        """Host, port and TLS of a listener (`smtp`, `submission`, `submissions`; `imaps` and its like of a store). Raises UsageError."""
        return Where.of(self.endpoints, service, listener)
