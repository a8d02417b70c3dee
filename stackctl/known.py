"""Whether native settings say what their server knows: names, types, programs. It asks no server, and what it cannot tell it lets pass.

What is known comes from the backend's folder: the key `known` of backend.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stackctl.backends import Backend, Known

Native = Mapping[str, Mapping[str, Any]]
_SWITCHES = {"yes": "1", "on": "1", "true": "1", "no": "0", "off": "0", "false": "0"}


@dataclass(frozen=True)
class Slip:
    """A setting that its server would not know: the native file, the key, what is wrong with it.

    `word` is what is not known, and `candidates` what it may have been meant to be, `few` where they are worth a list;
    `hint` is what to do where none of them is near.
    """

    file: str
    key: str
    message: str
    word: str = ""
    candidates: tuple[str, ...] = ()
    few: bool = False
    hint: str = ""


def slips(backend: Backend, settings: Native) -> Iterator[Slip]:
    """Every slip in the pass-through settings of a service, in their order."""
    look = _Look(backend, settings)
    for file, entries in settings.items():
        if known := backend.known.get(file):
            for key, value in entries.items():
                yield from look.entry(file, known, key, value)


@cache
def names(path: Path) -> frozenset[str]:
    """The names in a file that has one a line."""
    return frozenset(path.read_text(encoding="utf-8").split())


class _Look:
    def __init__(self, backend: Backend, settings: Native) -> None:
        self.backend, self.settings = backend, settings
        self.texts = [text for entries in settings.values() for value in entries.values() for text in _texts(value)]

    def entry(self, file: str, known: Known, key: str, value: object) -> Iterator[Slip]:
        if known.shapes:
            yield from self.shaped(file, known, key, value)
        elif not self.knows(file, key):
            yield self.unknown(file, file, key, key)
        elif key in known.numbers and not isinstance(value, int) and not re.fullmatch(r"[+-]?\d+", text := " ".join(_texts(value))):
            hint = f"did you mean {_SWITCHES[text.lower()]}?" if text.lower() in _SWITCHES else "write digits"
            yield Slip(file, key, f"{file}.{key}: '{text}' is no number: {self.backend.family} takes it for 0", hint=hint)
        if known.inside:
            for text in _texts(value):
                for found in re.finditer(known.inside, text):
                    yield from self.groups(file, known, key, found.groupdict())

    def shaped(self, file: str, known: Known, key: str, value: object) -> Iterator[Slip]:
        for shape in known.shapes:
            if not (found := re.fullmatch(shape.key, key)):
                continue
            yield from self.groups(file, known, key, found.groupdict())
            if shape.value:
                text = " ".join(_texts(value))
                if inner := re.fullmatch(shape.value, text.strip()):
                    yield from self.groups(file, known, key, inner.groupdict())
                else:
                    yield Slip(file, key, f"{file}.{key}: '{text}' is no entry of this file", hint=f"such as `{shape.example}`")
            return
        yield Slip(file, key, f"'{key}' is no key of {file}")

    def groups(self, file: str, known: Known, key: str, found: Mapping[str, str | None]) -> Iterator[Slip]:
        for group, word in found.items():
            if word is None:
                continue
            if group in self.backend.known and not self.knows(group, word):
                yield self.unknown(file, group, key, word)
            elif group == "entry" and word not in (there := self.entries(known, file)):
                yield Slip(file, key, f"{file} has no entry '{word}'", word, tuple(there))
            elif group in known.words and word not in known.words[group]:
                yield Slip(file, key, f"{file}: unknown {group} '{word}'", word, known.words[group], few=len(known.words[group]) <= 8)

    def unknown(self, file: str, of: str, key: str, word: str) -> Slip:
        known = self.backend.known[of]
        near = tuple(name for name in sorted(names(self.backend.folder / known.names)) if abs(len(name) - len(word)) <= 4)
        hint = "a name of your own is right where another setting refers to it" if known.used else ""
        return Slip(file, key, f"{self.backend.family} has no setting '{word}'", word, near, hint=hint)

    def knows(self, file: str, name: str) -> bool:
        known = self.backend.known[file]
        if not known.names or name in names(self.backend.folder / known.names):
            return True
        for pattern in known.patterns:
            found = re.fullmatch(pattern, name)
            if found and ("entry" not in found.groupdict() or found["entry"] in self.entries(known, file)):
                return True
        if name in self.referred(known.used):
            return True
        if any(name.startswith(f"{begin}_") for begin in self.referred(known.begun)):
            return True
        return any(name in re.split(r"[\s,]+", text) for setting in known.listed for text in _texts(self.settings.get(file, {}).get(setting)))

    def entries(self, known: Known, file: str) -> list[str]:
        """The entries that a key may name: those that are there, and those that the user makes."""
        made = [*self.settings.get(known.entries_of or file, {}).items()]
        full = [key if "/" in key else f"{key}/{str(value).split(None, 1)[0] if str(value).split() else ''}" for key, value in made if key.count("/") < 2]
        return [*known.entries, *full, *(key.split("/")[0] for key in full if known.entries_of)]

    def referred(self, patterns: Iterable[str]) -> set[str]:
        return {found["name"] for pattern in patterns for text in self.texts for found in re.finditer(pattern, text)}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        yield str(value)
