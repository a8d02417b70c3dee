"""A measured figure, and how figures become a table or JSON. It measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """`value` in `unit`; `reference` is what it is held against, measured in the same run. The target is about their ratio where there is one.

    `most` and `least` bound the ratio, or the value where there is no reference.
    """

    name: str
    what: str
    unit: str
    value: float
    reference: float | None = None
    against: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.reference if self.reference else None

    @property
    def good(self) -> bool | None:
        """Whether the target is met, None where there is none."""
        judged = self.value if self.ratio is None else self.ratio
        if self.most is not None:
            return judged <= self.most
        return judged >= self.least if self.least is not None else None

    def row(self) -> tuple[str, ...]:
        target = f"≤ {self.most:g}" if self.most is not None else f"≥ {self.least:g}" if self.least is not None else ""
        target += f" {self.unit}" if target and self.reference is None and self.unit else ""
        held = f"{_shown(self.reference)} {self.unit} ({self.against})" if self.reference is not None else ""
        ratio = f"{self.ratio:.2f}" if self.ratio is not None else ""
        return self.what, f"{_shown(self.value)} {self.unit}".rstrip(), held, ratio, target, {True: "yes", False: "NO", None: ""}[self.good]

    def json(self) -> dict[str, Any]:
        return {**self.__dict__, "ratio": self.ratio, "good": self.good}


HEADER = ("WHAT", "STACKCTL", "HELD AGAINST", "RATIO", "TARGET", "MET")


def table(figures: Sequence[Figure]) -> str:
    """Figures as text, a line each."""
    rows = [HEADER, *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def interleaved(runs: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Takes each measure in turn, again and again, so that a busy minute of the machine falls on all of them."""
    found: list[list[float]] = [[] for _ in measures]
    for _ in range(runs):
        for values, measure in zip(found, measures, strict=True):
            values.append(measure())
    return found


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """What 19 of 20 stay below."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.95))]


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
