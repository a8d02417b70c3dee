"""A configuration of settings in nested sections, as it is in its files: read with every include and every fault, and written. It knows no setting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stackctl.errors import Problem
from stackctl.foreign import MAX_OCTETS
from stackctl.problems import shown

MAX_DEPTH = 20  # of includes, and of sections
MAX_FILES = 500
MAX_LINE = 16_384  # with what continues it
_WORD = r"(?:\$\{\w+\}|[^\s={}\"])+"  # of a template too
_SETTING = re.compile(rf"(?P<name>{_WORD})\s*=\s*(?P<value>.*)", re.DOTALL)
_SECTION = re.compile(rf"(?P<kind>{_WORD})(?:\s+(?P<label>\"(?:[^\"\\]|\\.)*\"|[^\s{{]+|{_WORD}))?\s*\{{")
_QUOTED_VALUE = r"^\s|\s$|(^|\s)#|^[\"']|[\"']$|\\$"
_QUOTED_LABEL = r"[\s{}\"'#=]"
_INCLUDE = re.compile(r"!(?P<how>include|include_try)\s+(?P<path>\S.*)")


@dataclass(frozen=True)
class Setting:
    """`name = value`, the value without its quotes; `place` is "file:line"."""

    place: str
    name: str
    value: str


@dataclass
class Section:
    """`kind label {` and what is in it; the label is empty where there is none."""

    place: str
    kind: str
    label: str
    content: list[Setting | Section] = field(default_factory=list)

    def value(self, name: str) -> str:
        """The value that a setting has at the end of the section, empty where it has none."""
        return next((one.value for one in reversed(self.content) if isinstance(one, Setting) and one.name == name), "")

    def sections(self, kind: str) -> Iterator[Section]:
        """The sections of a kind that are directly in it."""
        return (one for one in self.content if isinstance(one, Section) and one.kind == kind)


Node = Setting | Section


class Reader:
    """Reads a main file and what it includes. Every fault is in `problems`, in the order in which it was met."""

    def __init__(self, main: Path) -> None:
        self.main, self.folder = main, main.parent.resolve()
        self.root = Section(main.name, "", "")
        self.problems: list[Problem] = []
        self.files: dict[str, int] = {}  # name to number, in the order in which they were read
        self._read = 0
        self._open = [self.root]

    def read(self) -> Section:
        """The whole of it, as one section."""
        self._file(self.main, "", ())
        return self.root

    def name(self, path: Path) -> str:
        """What a file is called in places: relative to the main file's folder where it is below it."""
        path = path.resolve()
        return shown(str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path))

    def position(self, place: str) -> tuple[int, int]:
        """Where a place is in the order of the files that were read, and in its file; before all others where it is in none."""
        name, _, number = place.rpartition(":")
        if not number.isdigit():
            name, number = place, "0"
        return self.files.get(name, -1), int(number)

    def settings(self, path: Path) -> Section:
        """A file beside the configuration that has settings alone, as one section; its faults join the others."""
        self._open = [Section(self.name(path), "", "")]
        found = self._open[0]
        self._file(path, "", ())
        return found

    def _complain(self, where: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(where, message, hint))

    def _file(self, path: Path, asked: str, above: tuple[Path, ...]) -> None:
        real, name = path.resolve(), self.name(path)
        where = asked or name
        if real in above or len(above) >= MAX_DEPTH:
            return self._complain(where, f"{name} includes itself", "take one of the includes out")
        if self._read >= MAX_FILES:
            return self._complain(where, f"more than {MAX_FILES} files are included")
        self._read += 1
        self.files.setdefault(name, len(self.files))
        try:
            with path.open("rb") as file:
                data = file.read(MAX_OCTETS + 1)
        except OSError as why:
            return self._complain(where, f"{name} cannot be read: {why.strerror}", "copy it with the rest of the configuration, readable by you")
        if b"\0" in data or len(data) > MAX_OCTETS:
            return self._complain(where, f"{name} is no text file of at most 4 MiB", "is this the right file?")
        before = len(self._open)
        for number, line in _lines(data.decode("utf-8", "replace")):
            self._line(f"{name}:{number}", line, path, (*above, real))
        while len(self._open) > before:
            section = self._open.pop()
            self._complain(section.place, f"the section `{section.kind} {{` is never closed", "a line `}` ends it")
        return None

    def _line(self, place: str, line: str, path: Path, above: tuple[Path, ...]) -> None:
        if len(line) > MAX_LINE:
            self._complain(place, f"a line of more than {MAX_LINE} characters")
        elif found := _INCLUDE.fullmatch(line):
            self._include(place, found, path, above)
        elif line == "}":
            if len(self._open) == 1:
                return self._complain(place, "`}` ends no section", "take the line out")
            self._open.pop()
        elif (node := _begun(line, place)) is None or (isinstance(node, Section) and len(self._open) > MAX_DEPTH):
            self._complain(place, f"'{shown(line)}' is neither `name = value` nor `section {{`")
        else:
            _put(node, self._open)
        return None

    def _include(self, place: str, found: re.Match[str], path: Path, above: tuple[Path, ...]) -> None:
        wanted = _unquoted(found["path"])
        files = self._glob(wanted, path) if any(mark in wanted for mark in "*?[") else [one for one in self._candidates(wanted, path) if _is_file(one)][:1]
        if not files and found["how"] == "include":
            self._complain(place, f"{shown(wanted)} is not there", "copy it with the rest of the configuration")
        for file in files:
            self._file(file, place, above)

    def _candidates(self, wanted: str, path: Path) -> Iterator[Path]:
        """Where a file may be: as it is written, and for an absolute path in the tree that was copied with the main file."""
        if not wanted.startswith("/"):
            yield path.parent / wanted
            return
        parts = Path(wanted).parts[1:]
        if self.folder.name in parts:
            yield self.folder.joinpath(*parts[parts.index(self.folder.name) + 1 :])
        if len(parts) < 2:
            return  # nothing of a configuration lies in the root, and "/*" would be whatever lies around the copy
        yield from (root / wanted.lstrip("/") for root in self.folder.parents if root != Path("/"))
        yield self.folder.joinpath(*parts[-2:])

    def _glob(self, wanted: str, path: Path) -> list[Path]:
        for candidate in self._candidates(wanted, path):
            parts = [*candidate.parts]
            depth = next((number for number, part in enumerate(parts) if any(mark in part for mark in "*?[")), 0)
            base, rest = Path(*parts[:depth]), str(Path(*parts[depth:])).replace("**", "*")
            try:
                found = sorted(one for one in base.glob(rest) if depth and _is_file(one) and not one.name.startswith("."))
            except (OSError, ValueError, NotImplementedError):  # no name that a file could have
                continue
            if found:
                return found
        return []

    def beside(self, wanted: str) -> Path | None:
        """A file that a setting names, where a copy of it lies in the same tree."""
        here = [*self._candidates(wanted, self.main), self.folder / Path(wanted).name]
        return next((one for one in here if _is_file(one)), None)


def _begun(line: str, place: str) -> Node | None:
    """The setting that a line is, or the section that it begins."""
    if found := _SECTION.fullmatch(line):
        return Section(place, found["kind"], _unquoted(found["label"] or ""))
    found = _SETTING.fullmatch(line)
    return Setting(place, found["name"], _unquoted(found["value"])) if found else None


def _put(node: Node, opened: list[Section]) -> None:
    opened[-1].content.append(node)
    if isinstance(node, Section):
        opened.append(node)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for a file, say
        return False


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line with its number, without comments and empty ones; a `\\` at the end is joined with what follows."""
    begun, number = "", 0
    for at, raw in enumerate(text.splitlines(), 1):
        line = _uncommented(raw.strip()) if not begun else raw.strip()
        number = number if begun else at
        if line.endswith("\\"):
            begun = f"{begun}{line[:-1].rstrip()} "
            continue
        whole, begun = (begun + line).strip(), ""
        if whole:
            yield number, whole
    if begun.strip():
        yield number, begun.strip()


def _uncommented(line: str) -> str:
    """A line without a comment: `#` at its begin, or after white space and outside of quotes."""
    if line.startswith("#"):
        return ""
    quoted = ""
    for at, character in enumerate(line):
        if quoted:
            quoted = "" if character == quoted and line[at - 1] != "\\" else quoted
        elif character in "\"'" and (at == 0 or line[at - 1] in " \t="):
            quoted = character
        elif character == "#" and line[at - 1].isspace():
            return line[:at].rstrip()
    return line


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        inner = text[1:-1]
        return re.sub(r"\\(.)", r"\1", inner) if text[0] == '"' else inner
    return text


def value_written(text: str, label: bool = False) -> str:
    """A value, or a label, as it is written: in quotes where it would be read otherwise without."""
    wanted = _QUOTED_LABEL if label else _QUOTED_VALUE
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if re.search(wanted, text) else text


def written(nodes: Iterable[Node], indent: str = "") -> str:
    """The text of settings and sections."""
    lines = []
    for node in nodes:
        if isinstance(node, Setting):
            lines.append(f"{indent}{node.name} = {value_written(node.value)}".rstrip() + "\n")
        else:
            label = f" {value_written(node.label, label=True)}" if node.label else ""
            lines += [f"{indent}{node.kind}{label} {{\n", written(node.content, indent + "  "), f"{indent}}}\n"]
    return "".join(lines)


def parsed(text: str, place: str) -> Sequence[Node]:
    """Lines of a template as nodes that all have the place of what they stand for. Raises ValueError where they are no configuration."""
    stack = [Section(place, "", "")]
    for _, line in _lines(text):
        if line == "}":
            stack.pop()
        elif node := _begun(line, place):
            _put(node, stack)
        else:
            raise ValueError(f"no configuration: {line}")
    if len(stack) != 1:
        raise ValueError("a section is not closed")
    return stack[0].content
