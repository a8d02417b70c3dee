"""The files of a mail server as an administrator has them: logical lines, assignments, entries, tables. It judges nothing.

What is read are the files in one folder, and those that they name where a copy of them lies in the same tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stackctl.errors import UsageError
from stackctl.problems import shown

MAX_OCTETS = 4 * 1024**2  # of one file: a table of a few ten thousand addresses
_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|\((\w+)\)|(\w+))")


@dataclass(frozen=True)
class Line:
    """A logical line: where it begins ("main.cf:12"), and its text, continuations joined by a space."""

    place: str
    text: str


@dataclass(frozen=True)
class Lost:
    """Something that is not carried over: where it stands, what it is, and why."""

    place: str
    what: str
    why: str


@dataclass(frozen=True)
class Setting:
    """The value that a name has after the last line of a file, and where that line is."""

    place: str
    name: str
    value: str


@dataclass(frozen=True)
class Entry:
    """A line of columns, a service of master(5) say."""

    place: str
    fields: tuple[str, ...]
    rest: str


class Tree:
    """A folder of configuration, and the files that it names by absolute paths: looked for in the tree that was copied with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def lines(self, path: Path) -> list[Line]:
        """The logical lines of a file: without comments and empty lines; a line that begins with white space continues the one before.

        Raises UsageError when it cannot be read.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_OCTETS + 1)
        except OSError as why:
            raise UsageError(f"{path}: cannot be read: {why.strerror}", "name a folder with the server's files, or its main file") from why
        if len(data) > MAX_OCTETS:
            raise UsageError(f"{path}: larger than 4 MiB", "is this the right file?")
        name, found = path.name, list[Line]()
        for number, text in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if not text.strip() or text.lstrip().startswith("#"):
                continue
            if text[0].isspace() and found:
                found[-1] = Line(found[-1].place, f"{found[-1].text} {text.strip()}")
            else:
                found.append(Line(f"{name}:{number}", text.strip()))
        return found

    def find(self, path: str) -> Path | None:
        """The file that a configuration calls `path`: in the copied tree, else beside the configuration; None where it is not there."""
        wanted = Path(path)
        roots = [parent for parent in self.folder.parents if self.folder.relative_to(parent) == Path("etc") / self.folder.name]
        candidates = [*(root / path.lstrip("/") for root in roots), self.folder / wanted.name]
        return next((one for one in candidates if one.is_file()), None)


def assignments(lines: Sequence[Line]) -> tuple[dict[str, Setting], list[Lost]]:
    """Lines "name = value" (postconf(5)): the last of a name counts; and what is none, or does not count."""
    found: dict[str, Setting] = {}
    lost = []
    for line in lines:
        name, equals, value = (part.strip() for part in line.text.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            lost.append(Lost(line.place, shown(line.text), "no line `name = value`"))
            continue
        if name in found:
            lost.append(Lost(found[name].place, f"{name} = {shown(found[name].value)}", f"given again at {line.place}, which counts"))
            del found[name]  # its place in the order is that of the line that counts
        found[name] = Setting(line.place, name, value)
    return found, lost


def entries(lines: Sequence[Line], columns: int) -> tuple[list[Entry], list[Lost]]:
    """Lines of columns with a rest behind them; and what has too few."""
    found, lost = [], []
    for line in lines:
        parts = line.text.split(None, columns)
        if len(parts) < columns:
            lost.append(Lost(line.place, shown(line.text), f"fewer than {columns} columns"))
        else:
            found.append(Entry(line.place, tuple(parts[:columns]), parts[columns] if len(parts) > columns else ""))
    return found, lost


def table(lines: Sequence[Line]) -> Iterator[tuple[str, str, str]]:
    """Place, key and value of each line of a table in the form that postmap(1) reads."""
    for line in lines:
        key, *value = line.text.split(None, 1)
        yield line.place, key, value[0].strip() if value else ""


def aliases(lines: Sequence[Line]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Place, name and targets of each line of a file in the form of aliases(5)."""
    for line in lines:
        name, _, value = line.text.partition(":")
        targets = [target.strip().strip('"').strip() for target in re.findall(r'(?:"[^"]*"|[^,"])+', value)]
        yield line.place, name.strip().strip('"'), tuple(filter(None, targets))


def expanded(value: str, settings: Mapping[str, str]) -> str:
    """A value with `$name` filled in, at most ten deep; what is not known, or conditional, stays."""

    def fill(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        return settings.get(name, found[0]) if name else found[0]

    for _ in range(10):
        before, value = value, _REFERENCE.sub(fill, value)
        if value == before:
            break
    return value
