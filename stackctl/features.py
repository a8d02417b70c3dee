"""What a user can do with a stack, as features.yaml lists it: the rows that tests and scenarios prove. It knows no test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Feature:
    """One row. `sentence` ends what begins with "the user can"."""

    id: str
    area: str
    sentence: str


@cache
def all_features() -> dict[str, Feature]:
    """Every feature by its id, in the order of the file."""
    areas = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {one: Feature(one, area["area"], sentence) for area in areas for one, sentence in area["features"].items()}


def unknown(named: Iterable[str]) -> list[str]:
    """Those of the ids that are none."""
    return sorted(set(named) - set(all_features()))
