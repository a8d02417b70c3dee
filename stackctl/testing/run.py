"""What one process of a test run holds: stacks that are up, and why others could not be had. It knows no test, and loads nothing heavy before the first stack."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stackctl.errors import StackctlError
from stackctl.testing.settings import Settings

if TYPE_CHECKING:
    from stackctl.state import State
    from stackctl.testing.lease import Lease


@dataclass
class Run:
    """Its settings, the stacks that it holds, and those that could not be had, so that no test tries again.

    `used` is a folder with a file for each stack that any process of the run used: whoever ends the run ends these.
    """

    settings: Settings
    used: Path | None = None
    worker: bool = False
    held: dict[str, tuple[State, Lease]] = field(default_factory=dict)
    failed: dict[str, StackctlError] = field(default_factory=dict)

    def folder(self) -> Path:
        """Where the stacks are noted; made when it is asked for first."""
        self.used = self.used or Path(tempfile.mkdtemp(prefix="stackctl-tests-"))
        return self.used

    def stack(self, file: Path | None, name: str | None) -> State:
        """A stack that is up and held. Raises StackctlError, the same one again for the same stack."""
        from stackctl.testing import lease

        key = f"{file} {name}"
        if key in self.failed:
            raise self.failed[key]
        if key not in self.held:
            try:
                self.held[key] = lease.hold(file, name)
            except StackctlError as why:
                self.failed[key] = why
                raise
            (self.folder() / self.held[key][0].name).touch()
        return self.held[key][0]

    def stays(self, name: str) -> bool:
        """Whether a stack will be there after this run, as far as can be told now."""
        return self.settings.keep or not any(lease.mark for known, lease in self.held.values() if known.name == name)

    def release(self) -> None:
        """Lets go of all stacks."""
        for _, lease in self.held.values():
            lease.release()
        self.held.clear()

    def end(self) -> None:
        """Takes down what nobody uses any more, of all that this run used."""
        from stackctl.testing import lease

        for one in sorted(self.folder().iterdir()):
            lease.end(one.name, self.settings.keep)
            one.unlink()
