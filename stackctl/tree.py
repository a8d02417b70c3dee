"""YAML text to a tree of nodes that know their lines. Knows nothing of stacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from stackctl.problems import Place, Report, shown

MAX_OCTETS = 1024**2  # far beyond any stack that a person writes; keeps what a wrong file costs small
MAX_NODES = 100_000  # as expanded, aliases included: a "billion laughs" file is small but grows to 10**9 nodes
MAX_DEPTH = 24  # the deepest place of the model is 5; pass-through settings nest a few levels more
_YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.2.2 5.1 c-printable is what may stand in a file; anything else is damage, or an attempt. The rest of what it excludes
# is looked for otherwise: a pattern beyond Latin-1 takes milliseconds to compile.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
# YAML 1.1's words for a truth value: other tools read them so, and people write them.
_TRUTH = {w: value for value, words in ((True, "yes true on"), (False, "no false off")) for s in words.split() for w in (s, s.title(), s.upper())}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}")


@dataclass(slots=True)
class Scalar:
    """A single value: as it was written, and as Python sees it."""

    line: int
    text: str
    value: str | int | float | bool | None
    bad: bool = False


@dataclass(slots=True)
class Listing:
    """A list of values."""

    line: int
    items: list[Node]
    bad: bool = False


@dataclass(slots=True)
class Mapping:
    """Keys, each with the line on which it stands, and their values."""

    line: int
    entries: dict[str, tuple[int, Node]]
    bad: bool = False


Node = Scalar | Listing | Mapping


def composed(text: str, report: Report) -> Mapping:
    """The top level of the text. Raises BadStack when it is no YAML or no mapping."""
    text = text.removeprefix("\ufeff")
    unprintable = _UNPRINTABLE.search(text)
    at = [unprintable.start()] if unprintable else [place for c in "\ufeff\ufffe\uffff" if (place := text.find(c)) >= 0]
    try:
        size = len(text.encode())
    except UnicodeEncodeError as why:  # half of a surrogate pair
        at.append(why.start)
    if at:
        line = text.count("\n", 0, min(at)) + 1
        report.refuse(line, f"holds the character {text[min(at)]!a}, which no text has", "remove it; is this a text file in UTF-8?")
    if size > MAX_OCTETS:
        report.refuse(1, "larger than 1 MiB", "a stack.yaml is a few lines; is this the right file?")
    try:
        root = _Composer(yaml.parse(text, Loader=_YAML), report).document()
    except yaml.MarkedYAMLError as why:
        report.refuse(*_syntax(why, text))
    except yaml.YAMLError:  # the reader's, without a line; what it refuses was looked for above
        report.refuse(1, "not YAML", "is this a text file in UTF-8?")
    if isinstance(root, Scalar) and root.value is None and not root.bad:
        return Mapping(1, {})
    if not isinstance(root, Mapping) or root.bad:
        report.refuse(root.line, f"expected keys such as `domain: example.test`, found {worded(root)}", "`stackctl init` writes an example")
    return root


def _syntax(why: yaml.MarkedYAMLError, text: str) -> tuple[int, str, str]:
    """Line, message and hint for an error of the YAML parser, which speaks of its own states. Quotes no value: it may be a password."""
    mark = why.problem_mark or why.context_mark
    line = mark.line + 1 if mark else 1
    opened = why.context_mark.line + 1 if why.context_mark else line
    rows = text.splitlines()
    row = rows[line - 1] if line <= len(rows) else ""
    character = row[mark.column : mark.column + 1] if mark else ""
    match why.problem:
        case "found character that cannot start any token" if character == "\t" or "\t" in row[: len(row) - len(row.lstrip())]:
            return line, "a tab where YAML wants spaces", "indent by spaces"
        case "found character that cannot start any token":
            return line, f"a value cannot begin with {character}", "put it in quotes"
        case "mapping values are not allowed in this context":
            return line, "a ':' where no key can be", "put a text that holds ': ' in quotes; else look at the indentation"
        case "did not find expected key" | "did not find expected '-' indicator" | "block sequence entries are not allowed in this context":
            return line, "does not fit what is above it", "keys and list items of one level have the same indentation"
        case "could not find expected ':'":
            return line, "a key without ': ' after it", "write `key: value`, with a space"
        case "found unexpected end of stream" | "found unexpected document indicator":
            return opened, "a quote is opened here and never closed", "close it on the same line"
        case "did not find expected node content" | "did not find expected ',' or ']'" | "did not find expected ',' or '}'":
            return opened, "a bracket is opened here and not closed, or a value in it is missing", "put a text that begins with [ or { in quotes"
        case "found unknown escape character":
            return line, "a backslash in a double-quoted text that means nothing to YAML", "use single quotes"
        case "did not find expected <document start>":
            return line, "text after the end of the document", "look at the indentation"
    return line, f"not YAML: {why.problem or why.context or 'the parser does not say why'}", "look at indentation, colons and quotes"


def _value(text: str) -> str | int | float | bool | None:
    """What a plain word means. Of YAML 1.1's traps (010, 1_000, 22:30, 0x1F, dates) none is a number here: they stay text."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _row(event: yaml.Event) -> int:
    """The line on which an event begins."""
    return event.start_mark.line + 1 if event.start_mark else 1


class _Composer:
    """Events of the YAML parser to one tree, within bounds. What is no good in itself becomes a problem and a bad node."""

    def __init__(self, events: Iterator[yaml.Event], report: Report) -> None:
        self.events = events
        self.report = report
        self.anchors: dict[str, Node | None] = {}
        self.count = 0

    def document(self) -> Node:
        """The one document of the file; an empty one where there is none."""
        next(self.events)  # the start of the stream
        if not isinstance(next(self.events), yaml.DocumentStartEvent):
            return Scalar(1, "", None)
        root = self.node(next(self.events), 0)
        next(self.events)  # the end of the document
        if isinstance(after := next(self.events), yaml.DocumentStartEvent):
            self.report.refuse(_row(after), "a second document begins here", "one file describes one stack; remove the line `---`")
        return root

    def bounds(self, line: int, depth: int) -> None:
        """Refuse what is larger than any stack: before it costs time or stack frames."""
        self.count += 1
        if self.count > MAX_NODES:
            self.report.refuse(line, f"more than {MAX_NODES:,} values, aliases (*) expanded", "a stack is described by a few; is this the right file?")
        if depth > MAX_DEPTH:
            self.report.refuse(line, f"nested more than {MAX_DEPTH} deep", "no key of a stack is; look at the brackets and the indentation")

    def node(self, event: yaml.Event, depth: int) -> Node:
        line = _row(event)
        self.bounds(line, depth)
        assert isinstance(event, yaml.NodeEvent)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor or "", line, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = None  # known but not complete: an alias to it in here would make a ring
        made: Node
        if isinstance(event, yaml.ScalarEvent):
            made = Scalar(line, event.value, _value(event.value) if event.implicit[0] and event.tag is None else event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            made = Listing(line, [])
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                made.items.append(self.node(inner, depth + 1))
        else:
            made = Mapping(line, self.entries(depth))
        tag = getattr(event, "tag", None)
        if tag is not None and not (tag in ("!", "tag:yaml.org,2002:str") and isinstance(made, Scalar)):
            self.report.add(line, "a tag ('!…') has no meaning here", "remove it; put a text that begins with '!' in quotes")
            made.bad = True
        if event.anchor is not None:
            self.anchors[event.anchor] = made
        return made

    def entries(self, depth: int) -> dict[str, tuple[int, Node]]:
        """Keys and values up to the end of this mapping; what merge keys (<<) bring comes last and overrides nothing."""
        own: dict[str, tuple[int, Node]] = {}
        merged: list[Node] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _row(event)
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None:
                self.node(event, depth + 1)
                self.node(next(self.events), depth + 1)
                self.report.add(line, "a key that is no plain word", "write `key: value`; put a key that begins with [, {, & or * in quotes")
                continue
            value = self.node(next(self.events), depth + 1)
            if event.value == "<<" and event.implicit[0]:
                merged += value.items if isinstance(value, Listing) else [value]
            elif event.value in own:
                self.report.add(line, f"'{shown(event.value)}' is given twice", f"first on line {own[event.value][0]}; join the two")
                if depth == 0:
                    self.report.broken.add(event.value)
            else:
                own[event.value] = (line, value)
        for source in merged:
            if isinstance(source, Mapping):
                for key, entry in source.entries.items():
                    own.setdefault(key, entry)
            elif not source.bad:
                self.report.add(source.line, "'<<' takes the keys of a mapping, and this is none", "`<<: *anchor`, with `&anchor` before a mapping")
        return own

    def alias(self, anchor: str, line: int, depth: int) -> Node:
        """A copy of what the anchor names, so that every place can be bad for itself."""
        target = self.anchors.get(anchor)
        if target is not None:
            return self.copy(target, depth, line)
        # The name is not repeated: an unquoted password may begin with '*'.
        if anchor in self.anchors:
            self.report.add(line, "an alias (*) inside of what it stands for", "an anchor (&) cannot contain itself")
        else:
            self.report.add(line, "an alias (*) without its anchor (&) above", "put a text that begins with '*' in quotes")
        return Scalar(line, "", None, bad=True)

    def copy(self, node: Node, depth: int, line: int) -> Node:
        self.bounds(line, depth)
        if isinstance(node, Scalar):
            return Scalar(node.line, node.text, node.value, node.bad)
        if isinstance(node, Listing):
            return Listing(node.line, [self.copy(item, depth + 1, line) for item in node.items], node.bad)
        return Mapping(node.line, {key: (at, self.copy(value, depth + 1, line)) for key, (at, value) in node.entries.items()}, node.bad)


def worded(node: Node, *, secret: bool = False) -> str:
    """A node in words, which do not quote it when it may be a password."""
    match node:
        case Scalar(value=bool()):
            return "a truth value" if secret else f"the truth value {node.text}"
        case Scalar(value=int() | float()):
            return "a number" if secret else f"the number {node.text}"
        case Scalar(value=str()):
            return "a text" if secret else f"the text '{shown(node.text)}'"
        case Listing():
            return "a list"
        case Mapping():
            return "keys with values"
    return "nothing"


def walk(root: Node, place: Place) -> tuple[Node, int, int]:
    """The node at `place`, the line of its key, and how many steps of the way there exist."""
    node, line, steps = root, root.line, 0
    for part in place:
        if isinstance(node, Mapping) and isinstance(part, str) and part in node.entries:
            line, node = node.entries[part]
        elif isinstance(node, Listing) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
        else:
            break
        steps += 1
    return node, line, steps


def line_of(root: Node, place: Place) -> int:
    """The line to name for a place: a value's own, a list's or mapping's key's, the nearest above where it is not written."""
    node, line, _ = walk(root, place)
    return node.line if isinstance(node, Scalar) else line
