"""What happens on the way up, told as it begins and remembered with its time. It makes nothing happen."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stackctl.state import State

Report = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """Something that happened, with the seconds it took, and when it was done by the monotonic clock."""

    what: str
    detail: str
    seconds: float
    ended: float = field(default_factory=time.monotonic)


@dataclass
class Up:
    """A stack on its way up, and what was done for it. `report` is told of each step."""

    state: State
    report: Report = lambda _: None
    steps: list[Step] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, what: str, detail: str = "") -> Iterator[None]:
        """Reports a step, and notes the time that it took."""
        self.report(f"{what} …")
        start = time.monotonic()
        yield
        self.steps.append(Step(what, detail, time.monotonic() - start))
