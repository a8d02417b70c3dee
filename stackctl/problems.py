"""The problems of a file as they are found, each once, in the order of its lines. Looks for none itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from stackctl.errors import BadStack, Problem, UsageError

MAX_PROBLEMS = 100  # nobody reads more than that at a time
# What must not reach a terminal from a file: controls (C0, C1), line separators, changes of direction.
_UNSHOWABLE = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


Place = tuple[int | str, ...]


def shown(text: str, most: int = 60) -> str:
    """A text from a file, fit for a terminal: no control characters, not endless."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return re.sub(_UNSHOWABLE, lambda c: f"\\x{ord(c[0]):02x}" if ord(c[0]) < 256 else f"\\u{ord(c[0]):04x}", text)


def valid(check: Callable[[str], str], text: str, hint: str = "") -> str:
    """A value as the model takes it, which `check` tells by a ValueError. Raises UsageError; what is shown of the value is fit for a terminal."""
    try:
        return check(text)
    except ValueError as why:
        said = shown(str(why), 300)
        raise UsageError(said if said.startswith("'") else f"{shown(text)} {said}", hint) from why


@dataclass
class Report:
    """The problems so far, and the top-level keys of which a part is bad."""

    where: str
    found: dict[tuple[int, str], str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    more: int = 0

    @property
    def full(self) -> bool:
        """Whether more problems would help nobody."""
        return len(self.found) >= MAX_PROBLEMS

    def add(self, line: int, message: str, hint: str = "") -> None:
        """One more problem; what it quotes of the file is made fit for a terminal."""
        if self.full:
            self.more += 1
        else:
            self.found.setdefault((line, shown(message, 300)), shown(hint, 300))

    def guess(self, word: str, known: Iterable[str]) -> str:
        """A hint: the known word that was meant, or else which there are."""
        import difflib  # only a bad file needs it

        names = {name.lower(): name for name in known}
        if self.full or len(word) > 64 or len(names) > 1000:
            return ""
        if near := difflib.get_close_matches(word.lower(), names, 1, 0.6):
            return f"did you mean '{names[near[0]]}'?"
        return f"there are: {', '.join(names.values())}" if 0 < len(names) <= 40 else ""

    def refuse(self, line: int, message: str, hint: str) -> NoReturn:
        """A problem after which nothing more can be said of the file."""
        self.found = dict([*self.found.items()][: MAX_PROBLEMS - 1])
        self.add(line, message, hint)
        raise BadStack(self.problems())

    def finish(self) -> None:
        """Raise BadStack when there is a problem."""
        if self.found:
            raise BadStack(self.problems())

    def problems(self) -> list[Problem]:
        """All of them in file order."""
        ordered = sorted(self.found.items(), key=lambda entry: entry[0][0])
        problems = [Problem(f"{self.where}:{line}", message, hint) for (line, message), hint in ordered]
        return [*problems, Problem(self.where, f"and {self.more} more problems", "mend these first")] if self.more else problems
