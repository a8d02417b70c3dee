"""stack.yaml to a Stack: every problem in one run, each with its line and what to write instead. Never writes or starts anything.

Three steps: text to a tree of nodes that know their lines; tree to the model, with pydantic's findings
put in plain words; then what only the whole stack can tell (who is served where, which port is taken).
A part with a problem is taken out of the tree, so that the rest is still looked at.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stackctl.backends import Backend, all_backends, choices, find, versions
from stackctl.errors import BadStack, Problem, UsageError
from stackctl.model import Stack, Store, User

DEFAULT = Path("stack.yaml")
MAX_OCTETS = 1024**2  # far beyond any stack that a person writes; keeps what a wrong file costs small
MAX_NODES = 100_000  # as expanded, aliases included: a "billion laughs" file is small but grows to 10**9 nodes
MAX_DEPTH = 24  # the deepest place of the model is 5; pass-through settings nest a few levels more
MAX_PROBLEMS = 100  # nobody reads more than that at a time
BCRYPT_OCTETS = 72  # bcrypt takes no more of a password than that
LEAST_MEMORY = 6 * 1024**2  # the engine refuses a container with less
RESERVED = "store.internal"  # the part of the name space in which the MTA addresses the stores
SERVICES = ("mta", "mail")  # the MTA's service and its host name: no store can be called so

_YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.2.2 5.1 c-printable is what may stand in a file; anything else is damage, or an attempt. The rest of what it excludes
# is looked for otherwise: a pattern beyond Latin-1 takes milliseconds to compile.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
# What must not reach a terminal from a file: controls (C0, C1), line separators, changes of direction.
_UNSHOWABLE = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_CONTROL = re.compile("[\x00-\x1f\x7f]")
# YAML 1.1's words for a truth value: other tools read them so, and people write them.
_TRUTH = {w: value for value, words in ((True, "yes true on"), (False, "no false off")) for s in words.split() for w in (s, s.title(), s.upper())}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
_LABELS = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
_RELAYHOST = re.compile(rf"(\[([0-9a-f:.]+|{_LABELS})\]|{_LABELS})(:(?P<port>[0-9]{{1,5}}))?", re.IGNORECASE)
_CIPHERS = re.compile(r"[A-Za-z0-9+!@=_.:-]+")  # openssl-ciphers(1), with ':' as the one separator
_MIRROR = re.compile(r"(https?://[A-Za-z0-9\[][A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]*|file:///[A-Za-z0-9._~/+,=%-]*)")  # RFC 3986 2
_RELEASE = re.compile(r"[a-z][a-z0-9-]{2,31}")

Place = tuple[int | str, ...]


@dataclass(frozen=True)
class Loaded:
    """A stack and where it comes from: `path` and `source` (its octets) are None and b"" for the built-in demo stack."""

    stack: Stack
    path: Path | None
    source: bytes


def load(path: Path | None) -> Loaded:
    """The stack in `path`; without one, the one in ./stack.yaml, and without that the demo stack.

    Raises BadStack with every problem of the file, UsageError when it cannot be read.
    """
    if path is None and not DEFAULT.exists():
        return Loaded(Stack(), None, b"")
    path = path or DEFAULT
    try:
        with path.open("rb") as file:
            source = file.read(MAX_OCTETS + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", "`stackctl init` writes one") from None
    except (OSError, ValueError) as why:
        raise UsageError(f"{path}: cannot be read: {getattr(why, 'strerror', None) or why}", "name a readable file") from why
    report = _Report(str(path))
    if len(source) > MAX_OCTETS:
        report.refuse(1, "larger than 1 MiB", "a stack.yaml is a few lines; is this the right file?")
    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as why:
        report.refuse(source.count(b"\n", 0, why.start) + 1, "not UTF-8", "save the file in the encoding UTF-8")
    return Loaded(parse(text, str(path), path.parent), path, source)


def parse(text: str, where: str, folder: Path) -> Stack:
    """The stack that `text` describes. `where` is its name in messages, `folder` what password_file is relative to.

    Raises BadStack with every problem. A password from a file is in the result as if it had been written in `text`.
    """
    report = _Report(where)
    tree = _compose(text, report)
    stack = _validate(tree, report)
    checks = _Checks(stack, tree, report)
    checks.run()
    users = checks.passwords(folder)
    report.finish()
    return stack.model_copy(update={"users": users})


# ---------------------------------------------------------------------------------------- what was found


def shown(text: str, most: int = 60) -> str:
    """A text from a file, fit for a terminal: no control characters, not endless."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return re.sub(_UNSHOWABLE, lambda c: f"\\x{ord(c[0]):02x}" if ord(c[0]) < 256 else f"\\u{ord(c[0]):04x}", text)


@dataclass
class _Report:
    """The problems so far, and the top-level keys of which a part is bad."""

    where: str
    found: dict[tuple[int, str], str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    more: int = 0

    @property
    def full(self) -> bool:
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
        return f"there are: {', '.join(names.values())}" if 0 < len(names) <= 24 else ""

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


# ---------------------------------------------------------------------------------------- text to a tree


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


def _compose(text: str, report: _Report) -> Mapping:
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
        report.refuse(root.line, f"expected keys such as `domain: example.test`, found {_found(root)}", "`stackctl init` writes an example")
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

    def __init__(self, events: Iterator[yaml.Event], report: _Report) -> None:
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


def _found(node: Node, *, secret: bool = False) -> str:
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


def _walk(root: Node, place: Place) -> tuple[Node, int, int]:
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


def _line(root: Node, place: Place) -> int:
    """The line to name for a place: a value's own, a list's or mapping's key's, the nearest above where it is not written."""
    node, line, _ = _walk(root, place)
    return node.line if isinstance(node, Scalar) else line


# ---------------------------------------------------------------------------------------- tree to the model


@cache
def _keys(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """The keys of a model, each with the model of what is below it."""

    def inner(annotation: Any) -> type[BaseModel] | None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        return next((found for part in get_args(annotation) if (found := inner(part))), None)

    return {key: inner(info.annotation) for key, info in model.model_fields.items()}


def _model_at(place: Place) -> type[BaseModel] | None:
    """The model whose keys are valid at a place."""
    model: type[BaseModel] | None = Stack
    for part in place:
        model = _keys(model).get(part) if model and isinstance(part, str) else model
    return model


def dotted(place: Place) -> str:
    """A place as people write it: `stores[0].backend`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{shown(p)}" for p in place).removeprefix(".")


def _validate(tree: Mapping, report: _Report) -> Stack:
    """The model of what is good in the tree; what is bad is reported and taken out. Raises BadStack when nothing useful is left."""
    _settings(tree, report)
    _empty_passwords(tree, report)
    for _attempt in range(4):  # the second time all is well, unless a validator sees only now what another hid
        for key, (_, node) in list(tree.entries.items()):
            if _prune(node, _keys(Stack).get(key)) or node.bad:
                report.broken.add(key)
        _prune(tree, Stack)
        try:
            return Stack.model_validate(_plain(tree, Stack), strict=True)
        except ValidationError as why:
            last = why
            errors = why.errors(include_url=False)
            misspelt = _misspelt(errors, report)
            for error in errors:
                _translate(error, tree, report, quiet=error["type"] == "missing" and error["loc"] in misspelt)
    report.finish()
    raise last  # pydantic found what was put down to no key: a bug of ours, with its traceback


def _prune(node: Node, model: type[BaseModel] | None) -> bool:
    """Take the bad nodes out; a mapping without a key that it must have, and a list that became empty, are bad themselves."""
    removed = False
    if isinstance(node, Listing):
        removed = any([_prune(item, model) for item in node.items])
        good = [item for item in node.items if not item.bad]
        node.bad |= not good and bool(node.items)
        removed |= len(good) < len(node.items)
        node.items = good
    elif isinstance(node, Mapping):
        below = _keys(model) if model else {}
        for key, (_, child) in list(node.entries.items()):
            removed |= _prune(child, below.get(key))
            if child.bad:
                removed = True
                del node.entries[key]
                node.bad |= model is not None and key in below and model.model_fields[key].is_required()
    return removed


def _plain(node: Node, model: type[BaseModel] | None) -> object:
    """A node as the model takes it: tuples for lists, no key that is there without a value."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Listing):
        return tuple(_plain(item, model) for item in node.items)
    below = _keys(model) if model else {}
    plain: dict[str, object] = {}
    for key, (_, child) in node.entries.items():
        if key in below and isinstance(child, Scalar):
            if child.value is None:
                continue  # `tls:` with everything below it commented out
            # 2.3 is a number to YAML, but as it is written there is no doubt which version is meant
            plain[key] = child.text if key == "version" and type(child.value) in (int, float) else child.value
        else:
            plain[key] = _native(child) if key == "settings" and key in below else _plain(child, below.get(key))
    return plain


def _native(node: Node) -> object:
    """Pass-through settings: as they were written, where Python would change the spelling (2.30, YES, on)."""
    if isinstance(node, Listing):
        return [_native(item) for item in node.items]
    if isinstance(node, Mapping):
        return {key: _native(child) for key, (_, child) in node.entries.items()}
    if isinstance(node.value, bool):
        return node.value if node.text.lower() in ("true", "false") else node.text
    return node.text if isinstance(node.value, int | float) and str(node.value) != node.text else node.value


def _settings(tree: Mapping, report: _Report) -> None:
    """Problems inside of pass-through settings, which the model does not know in detail."""

    def look(node: Node, place: Place, line: int) -> None:
        if node.bad:
            return
        if isinstance(node, Scalar) and node.value is None:
            report.add(line, f"{dotted(place)}: has no value", 'write "" for an empty one')
            node.bad = True
        elif isinstance(node, Scalar) and _CONTROL.search(node.text):
            hint = "a long value is folded with `>-`" if "\n" in node.text else "remove it"
            report.add(line, f"{dotted(place)}: holds a control character: a line end would start another setting", hint)
            node.bad = True
        elif isinstance(node, Listing):
            for number, item in enumerate(node.items):
                look(item, (*place, number), item.line)
        elif isinstance(node, Mapping):
            for key, (key_line, child) in node.entries.items():
                if not key or _CONTROL.search(key):
                    report.add(key_line, f"{dotted((*place, key))}: a key that is empty or holds a control character", "write the setting's name")
                    child.bad = True
                else:
                    look(child, (*place, key), key_line)

    stores, _, found = _walk(tree, ("stores",))
    owners: list[Place] = [("mta",), *(("stores", n) for n in range(len(stores.items) if found and isinstance(stores, Listing) else 0))]
    for place in owners:
        settings, _, steps = _walk(tree, (*place, "settings"))
        if steps == len(place) + 1 and isinstance(settings, Mapping):
            for key, (line, child) in list(settings.entries.items()):
                if isinstance(child, Scalar) and child.value is None:
                    del settings.entries[key]  # everything below it is commented out
                else:
                    look(child, (*place, "settings", key), line)


def _empty_passwords(tree: Mapping, report: _Report) -> None:
    """A password key without a value: elsewhere that means the default, but here something was lost, such as `#…` or `&…`."""
    users, _, found = _walk(tree, ("users",))
    for user in users.items if found and isinstance(users, Listing) else ():
        for key, (line, child) in user.entries.items() if isinstance(user, Mapping) else ():
            if key in ("password", "password_file") and isinstance(child, Scalar) and child.value is None and not child.bad:
                report.add(line, f"{key} has no value", "put it in quotes (a plain # begins a comment, a plain & an anchor), or remove the key")
                child.bad = True


def _misspelt(errors: Sequence[ErrorDetails], report: _Report) -> set[Place]:
    """The keys that are missing only because they are misspelt: the unknown key says it all."""
    unknown: dict[Place, list[str]] = {}
    for error in errors:
        if error["type"] == "extra_forbidden":
            unknown.setdefault(error["loc"][:-1], []).append(str(error["loc"][-1]))
    missing = {error["loc"] for error in errors if error["type"] == "missing"}
    return {m for m in missing if any(f"'{m[-1]}'" in report.guess(key, [str(m[-1])]) for key in unknown.get(m[:-1], ())[:8])}


def _translate(error: ErrorDetails, tree: Mapping, report: _Report, *, quiet: bool) -> None:
    """One of pydantic's findings as a problem in plain words, unless `quiet`, and its node made bad."""
    at_key = error["loc"][-1:] == ("[key]",)
    place = error["loc"][:-1] if at_key else error["loc"]
    node, key_line, steps = _walk(tree, place)
    if steps == 0 or (steps < len(place) and error["type"] != "missing"):
        return  # made from something else that is bad and has its own problem
    line = key_line if at_key or error["type"] == "extra_forbidden" or not isinstance(node, Scalar) else node.line
    if error["type"] == "too_short" and isinstance(node, Listing) and node.items:
        return  # pydantic counts what is good of it
    if not node.bad and not quiet:
        message, hint = ("", "") if report.full else _words(error, place, node, report)
        report.add(line, message, hint)
    node.bad = True


# What stands below a key, for those that do not hold a single value.
_EXAMPLES: dict[int | str, str] = {
    "domains": "- example.org",
    "mta": "backend: …",
    "stores": "- backend: …",
    "users": "- address: alice@example.test",
    "aliases": "team@example.test: [alice@example.test]",
    "mynetworks": "- 192.0.2.0/24",
    "tls": "minimum_version: TLSv1.3",
    "ports": "fixed: {mta.smtp: 2525}",
    "debian": "release: trixie",
    "limits": "memory: 256M",
}


def _secret(place: Place) -> bool:
    """Whether a value at this place might be a password, which no message repeats."""
    return place[:1] == ("users",) and place[-1] not in ("address", "quota") and "aliases" not in place


def _words(error: ErrorDetails, place: Place, node: Node, report: _Report) -> tuple[str, str]:
    """What is wrong at a place, and what to write instead."""
    name, bound, secret = dotted(place), error.get("ctx", {}), _secret(place)
    written = "…" if secret else node.text if isinstance(node, Scalar) else ""
    found = _found(node, secret=secret)
    match error["type"]:
        case "extra_forbidden" if not place[-1]:
            return "an empty key", "remove it"
        case "extra_forbidden":
            return f"unknown key '{shown(str(place[-1]))}'", _belongs(str(place[-1]), place[:-1], report)
        case "missing":
            owner, key = dotted(place[:-1]), str(place[-1])
            examples = {"backend": f"there are: {', '.join(choices('store'))}", "address": "as in `- address: alice@example.test`"}
            return f"{owner} has no '{key}'", examples.get(key, f"add `{key}: …`")
        case "string_type":
            hint = f'put it in quotes: "{shown(written)}"' if isinstance(node, Scalar) else "write a single value"
            if isinstance(node, Scalar) and isinstance(node.value, bool) and not secret:
                hint = f'YAML reads {written} as {str(node.value).lower()}; put it in quotes: "{written}"'
            return f"{name}: expected a text, found {found}", hint
        case "int_type" | "float_type":
            kind = "a whole number" if error["type"] == "int_type" else "a number"
            hint = "write it in decimal, without quotes, separators or unit"
            if place[:2] == ("ports", "fixed") and isinstance(node, Mapping):
                listener, (_, port) = next(iter(node.entries.items()), ("smtp", (0, node)))
                hint = f"write `{shown(str(place[-1]))}.{shown(listener)}: {shown(port.text) if isinstance(port, Scalar) else 2525}`"
            return f"{name}: expected {kind}, found {found}", hint
        case "bool_type":
            return f"{name}: expected true or false, found {found}", "write true or false, without quotes"
        case "tuple_type":
            items = isinstance(node, Scalar) and node.value is not None and not _keys(Stack).get(str(place[0]))
            return (
                f"{name}: expected a list, found {found}",
                f"write [{shown(written)}]" if items else f"each item in its own line: `{_EXAMPLES[place[0]]}`",
            )
        case "dict_type" | "model_type":
            return _no_mapping(place, node, name, found, report)
        case "literal_error":
            model = _model_at(place[:-1])
            options = [str(o) for o in _options(model.model_fields[str(place[-1])].annotation)] if model else []
            return f"{name}: {found} is none of {', '.join(options)}", report.guess(written, options) if len(written) > 3 else ""
        case "greater_than_equal" | "less_than_equal":
            low = "ge" in bound
            most = int(bound["ge" if low else "le"])
            return f"{name}: {shown(written)} is too {'small' if low else 'large'}", f"at {'least' if low else 'most'} {most}"
        case "string_too_short" | "too_short":
            return f"{name}: is empty", "give one, or remove the key"
        case "string_too_long" | "too_long":
            return f"{name}: is longer than {bound['max_length']} characters", "shorten it"
    return f"{name}: {bound.get('error', 'is not valid here')}", "" if secret or written.isascii() else "write it in ASCII; a domain as `xn--…`"


def _no_mapping(place: Place, node: Node, name: str, found: str, report: _Report) -> tuple[str, str]:
    """A value where keys are expected."""
    if place == ("mta",) and isinstance(node, Listing):
        return f"mta: expected one MTA, found a list of {len(node.items)}", "a stack has one; another stack can run beside it under another `name:`"
    if "settings" in place:
        role = "mta" if place[0] == "mta" else "store"
        files = dict.fromkeys(file for backend in all_backends().values() if backend.role == role for file in backend.settings)
        return f"{name}: expected settings by file, found {found}", f"the file comes first: {', '.join(f'`{file}: {{…}}`' for file in files)}"
    return f"{name}: expected keys with values, found {found}", f"such as `{_EXAMPLES[place[0]].removeprefix('- ')}`"


def _belongs(key: str, place: Place, report: _Report) -> str:
    """A hint for an unknown key: where it would be right, or which was meant."""
    model = _model_at(place)
    homes = [f"{owner}" for owner, inner in _keys(Stack).items() if inner and inner is not model and key in _keys(inner)]
    here = _keys(model) if model else {}
    guess = report.guess(key, here)
    if key in _keys(Stack) and model is not Stack:
        return f"'{key}' is a key of the top level: indent it less"
    return f"'{key}' is a key of {' and '.join(homes)}" if homes else guess


def _options(annotation: Any) -> Iterator[object]:
    """The values of a Literal, wherever it is in an annotation."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        yield from chain.from_iterable(_options(part) for part in get_args(annotation))


# ---------------------------------------------------------------------------------------- what only the whole stack can tell


class _Checks:
    """The stack as a whole. A check that builds on a key which has a problem already is left out: it would only repeat it."""

    def __init__(self, stack: Stack, tree: Mapping, report: _Report) -> None:
        self.stack, self.tree, self.report = stack, tree, report
        self.seen: dict[str, tuple[str, int]] = {}  # address -> what it is, and on which line
        self.mta: Backend | None = None
        self.stores: dict[str, Backend | None] = {}  # by name; None where the backend is not known

    def bad(self, place: Place, message: str, hint: str = "") -> None:
        self.report.add(self.line(place), message, hint)

    def line(self, place: Place) -> int:
        return _line(self.tree, place)

    def sound(self, *keys: str) -> bool:
        return not self.report.broken.intersection(keys)

    def run(self) -> None:
        """All of them; the order matters only where a later one uses what an earlier one learned."""
        self.domains()
        self.users()
        self.aliases()
        if self.sound("users", "aliases", "catch_all", "domain", "domains"):
            self.targets()
            self.loops()
        self.servers()
        self.ports()
        self.values()

    # -- names and addresses

    def domains(self) -> None:
        stack = self.stack
        here: list[tuple[Place, str]] = [(("domain",), stack.domain), *((("domains", n), d) for n, d in enumerate(stack.domains))]
        first: dict[str, int] = {}
        for place, domain in here:
            if domain in first:
                again = "; `domains` are further ones" if domain == stack.domain else ""
                self.bad(place, f"domain '{domain}' is given twice", f"first on line {first[domain]}{again}")
            first.setdefault(domain, self.line(place))
        disposable: Place = ("disposable_domain",)
        if stack.disposable in first and self.sound("domain", "disposable_domain"):
            written = stack.disposable_domain is not None
            self.bad(
                disposable if written else ("domains", stack.domains.index(stack.disposable)),
                f"'{stack.disposable}' cannot be both: in the disposable domain every address exists, in the others only users",
                "choose another" if written else "it is the default of `disposable_domain`; give that another value",
            )
            self.report.broken.add("disposable_domain")
        if len(stack.disposable) > 253:
            hint = "choose a shorter one, or give `disposable_domain`"
            self.bad(("domain",), f"domain '{shown(stack.domain)}' leaves no room for 'inbox.' before it, with 253 octets in all", hint)
        if stack.disposable_domain is not None:
            here.append((disposable, stack.disposable_domain))
        for place, domain in (*here, *((("tls", "names", n), name) for n, name in enumerate(stack.tls.names))):
            self.reserved(place, domain)

    def reserved(self, place: Place, domain: str) -> bool:
        if domain == RESERVED or domain.endswith(f".{RESERVED}"):
            self.bad(place, f"'{domain}' is reserved: inside, the stores are addressed in '{RESERVED}'", "choose another domain")
            return True
        return False

    def served(self, what: str, address: str, place: Place, *, disposable: bool = False) -> bool:
        """Whether the stack has this address's domain among its own."""
        stack, host = self.stack, address.rpartition("@")[2]
        if not self.sound("domain", "domains", "disposable_domain"):
            return False
        if host == stack.disposable and not disposable:
            self.bad(place, f"{what} '{address}' is in the disposable domain, in which every address exists already", f"use {stack.domain}")
            return False
        if host in stack.strict_domains or host == stack.disposable:
            return True
        if not self.reserved(place, host):
            near = self.report.guess(host, stack.strict_domains)
            hint = f"{near} Else add" if near.startswith("did you mean") else "add"
            self.bad(place, f"{what} '{address}' is in a domain that the stack does not serve", f"{hint} '{host}' to `domains`")
        return False

    def claim(self, what: str, address: str, place: Place) -> None:
        """One more name for mail to arrive under; each can be only one thing."""
        line = self.line(place)
        if address in self.seen:
            other, first = self.seen[address]
            if other == what:
                self.report.add(line, f"{what} '{address}' is given twice", f"first on line {first}")
            else:
                self.report.add(line, f"{what} '{address}' is also a{'' if other == 'user' else 'n'} {other}", f"on line {first}; it can be only one")
        else:
            self.seen[address] = what, line

    def users(self) -> None:
        stack = self.stack
        for number, user in enumerate(stack.users):
            place: Place = ("users", number, "address")
            self.claim("user", user.address, place)
            self.served("user", user.address, place)
        if stack.catch_all is None:
            self.seen.setdefault(stack.catch_all_address, ("user", 1))
        for number, user in enumerate(stack.users):
            for index, alias in enumerate(user.aliases):
                place = ("users", number, "aliases", index)
                self.alias(alias, place)

    def alias(self, alias: str, place: Place) -> None:
        if alias == self.stack.catch_all_address and self.stack.catch_all is None and self.seen.get(alias) == ("user", 1):
            self.bad(place, f"alias '{alias}' is also the mailbox of mail for foreign domains", "give `catch_all` a user's address, or rename the alias")
            return
        self.claim("alias", alias, place)
        self.served("alias", alias, place)

    def aliases(self) -> None:
        written = self.tree.entries.get("aliases")
        for raw in written[1].entries if written and isinstance(written[1], Mapping) else ():
            alias = raw.lower()
            place: Place = ("aliases", raw)
            self.alias(alias, place)
            if not self.stack.aliases.get(alias, ("",)):
                self.bad(place, f"alias '{alias}' stands for nobody", "name at least one address")
        self.graph = {a: targets for a, targets in self.stack.aliases.items()} | {a: (u.address,) for u in self.stack.users for a in u.aliases}

    def targets(self) -> None:
        """Whether what aliases and catch_all name is there."""
        stack = self.stack
        for raw in self.alias_keys():
            for index, target in enumerate(stack.aliases[raw.lower()]):
                place: Place = ("aliases", raw, index)
                host = target.rpartition("@")[2]
                if host in stack.strict_domains and target not in self.seen:
                    self.bad(place, f"alias '{raw.lower()}' stands for '{target}', who is no user and no alias", self.guess_address(target))
                else:
                    self.reserved(place, host)
        if stack.catch_all is not None and self.served("catch_all", stack.catch_all, ("catch_all",), disposable=True):
            what = self.seen.get(stack.catch_all, ("nobody", 0))[0]
            if what != "user" and not stack.catch_all.endswith(f"@{stack.disposable}"):
                hint = "name the user's own address" if what == "alias" else self.guess_address(stack.catch_all, ("user",))
                self.bad(("catch_all",), f"catch_all '{stack.catch_all}' is {'an alias' if what == 'alias' else 'no user'}: it has no mailbox", hint)

    def guess_address(self, address: str, kinds: Sequence[str] = ("user", "alias")) -> str:
        if self.report.full or len(self.seen) > 1000:  # not worth a walk over all of them
            return ""
        return self.report.guess(address, [known for known, (what, _) in self.seen.items() if what in kinds])

    def alias_keys(self) -> list[str]:
        """The keys of `aliases` as they are written; of two that differ in case only, the last, which the model kept."""
        written = self.tree.entries.get("aliases")
        keys = written[1].entries if written and isinstance(written[1], Mapping) else {}
        return list({raw.lower(): raw for raw in keys}.values())

    def loops(self) -> None:
        """Aliases that lead back to themselves: each ring once, at the line of its first member in the file."""
        places: dict[str, Place] = {raw.lower(): ("aliases", raw) for raw in self.alias_keys()}
        done: set[str] = set()
        for start in places:
            path: dict[str, Iterator[str]] = {}
            queue = start
            while True:
                if queue not in done and queue not in path and queue in places:
                    path[queue] = iter(self.stack.aliases[queue])
                elif queue in path:
                    ring = [*list(path)[list(path).index(queue) :], queue]
                    first = min(ring, key=lambda a: self.line(places[a]))
                    self.bad(places[first], f"aliases in a ring: {' -> '.join(ring)}", "let one of them stand for a user")
                while path and (following := next(path[(last := next(reversed(path)))], None)) is None:
                    done.add(last)
                    del path[last]
                if not path:
                    break
                queue = following or ""

    # -- servers

    def server(self, role: Literal["mta", "store"], family: str, version: str | None, place: Place) -> Backend | None:
        """The backend that is meant, or a problem."""
        kinds = {"mta": "an MTA", "store": "a store"}
        other: Literal["mta", "store"] = "store" if role == "mta" else "mta"
        if family not in choices(role):
            if family in choices(other):
                hint = "it belongs under `stores`" if other == "store" else "it belongs under `mta`"
                self.bad((*place, "backend"), f"'{family}' is {kinds[other]}, not {kinds[role]}", f"{hint}; {self.report.guess('', choices(role))}")
            else:
                self.bad((*place, "backend"), f"unknown backend '{shown(family)}'", self.report.guess(family, choices(role)))
            return None
        try:
            return find(role, family, version)
        except KeyError:
            there = versions(family)
            hint = f"there are: {', '.join(there)}" if there else "it has no versions to choose from; remove the key"
            self.bad((*place, "version"), f"{family} has no version '{shown(version or 'by default')}'", hint)
            return None

    def servers(self) -> None:
        stack = self.stack
        self.mta = self.server("mta", stack.mta.backend, stack.mta.version, ("mta",))
        if self.mta:
            self.settings(self.mta, stack.mta.settings, ("mta", "settings"))
        lines: dict[str, int] = {}
        for number, store in enumerate(stack.stores):
            place: Place = ("stores", number)
            backend = self.server("store", store.backend, store.version, place)
            name = store.name or store.backend
            at = (*place, "name" if store.name else "backend")
            if name in SERVICES:
                self.bad(at, f"a store cannot be called '{name}': the MTA is", "give it another `name`")
            elif name in lines:
                hint = f"the first is on line {lines[name]}; give one a `name` of its own"
                self.bad(at, f"two stores are called '{name}'", hint)
            lines.setdefault(name, self.line(at))
            self.stores[name] = backend
            if backend:
                self.settings(backend, store.settings, (*place, "settings"))
                self.store(store, backend, place)

    def store(self, store: Store, backend: Backend, place: Place) -> None:
        """What this store is asked for, against what its backend and the MTA have."""
        if backend.mailboxes and store.mailbox not in backend.mailboxes:
            reason = f": {backend.mailbox_reason.rstrip('.')}" if backend.mailbox_reason else ""
            hint = f"`mailbox: {backend.mailboxes[0]}`, or another backend"
            self.bad((*place, "mailbox"), f"{backend.family} has no mailboxes in the format {store.mailbox}{reason}", hint)
        way = store.delivery or next(iter(backend.delivery), None)
        ways = [w for w in backend.delivery if self.mta is None or w in self.mta.delivers]
        if way is None or way in ways:
            return
        hint = f"{'there is' if len(ways) == 1 else 'there are'}: {', '.join(ways)}" if ways else "choose another MTA or store"
        if way not in backend.delivery:
            self.bad((*place, "delivery"), f"{backend.family} takes no mail by '{shown(way)}'", hint)
        elif self.mta:
            self.bad((*place, "delivery"), f"{self.mta.family} delivers no mail by '{shown(way)}'", hint)

    def settings(self, backend: Backend, settings: Iterable[str], place: Place) -> None:
        for file in settings:
            if file not in backend.settings:
                key = _walk(self.tree, (*place, file))[1]
                self.report.add(key, f"{backend.family} has no settings file '{shown(file)}'", self.report.guess(file, backend.settings))

    # -- ports

    def ports(self) -> None:
        ports = self.stack.ports
        try:
            if "%" in ports.address:
                raise ValueError
            ipaddress.ip_address(ports.address)
        except ValueError:
            self.bad(("ports", "address"), f"'{shown(ports.address)}' is no IP address", "such as 127.0.0.1 or ::1")
        taken: dict[int, tuple[str, int]] = {}
        for key, port in ports.fixed.items():
            place: Place = ("ports", "fixed", key)
            if port in taken:
                self.bad(place, f"port {port} is given twice", f"first to {taken[port][0]} on line {taken[port][1]}")
            taken.setdefault(port, (key, self.line(place)))
            if self.sound("mta", "stores"):
                self.listener(key, place)

    def listener(self, key: str, place: Place) -> None:
        """Whether a service has the listener that a fixed port is given to, and whether it is open."""
        servers: dict[str, Backend | None] = {"mta": self.mta, **self.stores}
        service, dot, name = key.partition(".")
        there = [f"{s}.{listener}" for s, backend in servers.items() if backend for listener in backend.listeners]
        if not dot:
            named = [full for full in there if full.endswith(f".{key}")]
            hint = f"write {' or '.join(named)}" if named else "write service.listener, such as mta.smtp"
            self.bad(place, f"'{shown(key)}' does not say of which service", hint)
        elif service not in servers:
            self.bad(place, f"'{shown(key)}': the stack has no service '{shown(service)}'", self.report.guess(service, servers))
        elif backend := servers[service]:
            listener = backend.listeners.get(name)
            if listener is None:
                self.bad(place, f"'{shown(key)}': {backend.family} has no listener '{shown(name)}'", self.report.guess(name, backend.listeners))
            elif listener.tls == "starttls" and listener.login and listener.protocol != "managesieve" and not self.stack.tls.plaintext_listeners:
                self.bad(place, f"'{key}' is closed by `plaintext_listeners: false`", "remove the port, or open the listeners")

    # -- values that need more than a type

    def values(self) -> None:
        stack = self.stack
        for number, network in enumerate(stack.mynetworks):
            self.network(network, ("mynetworks", number))
        if stack.relayhost is not None:
            found = _RELAYHOST.fullmatch(stack.relayhost)
            if not found or not 0 < int(found["port"] or 25) < 65536:
                self.bad(("relayhost",), f"relayhost '{shown(stack.relayhost)}' is not a host", "write [host]:port, host:port or host, without a scheme")
        if stack.tls.ciphers is not None and not _CIPHERS.fullmatch(stack.tls.ciphers):
            self.bad(("tls", "ciphers"), "tls.ciphers: not a cipher list in OpenSSL's syntax", "names joined by ':', such as ECDHE+AESGCM:!aNULL")
        # The mirror is not repeated: a URL may hold a password.
        if stack.debian.mirror is not None and not _MIRROR.fullmatch(stack.debian.mirror):
            self.bad(("debian", "mirror"), "debian.mirror: not a URL that begins with http://, https:// or file:///", "without spaces and quotes")
        if stack.debian.release is not None and not _RELEASE.fullmatch(stack.debian.release):
            self.bad(("debian", "release"), f"'{shown(stack.debian.release)}' is no Debian release", "a code name such as trixie")
        if stack.limits.memory is not None and stack.limits.memory < LEAST_MEMORY:
            self.bad(("limits", "memory"), f"limits.memory: {stack.limits.memory} octets are too few for any container", "at least 6M; a server needs more")

    def network(self, network: str, place: Place) -> None:
        bare = network.replace("[", "").replace("]", "")
        try:
            nets = ipaddress.ip_network(bare, strict=False)
        except ValueError:
            nets = None
        if nets is None or "%" in bare or not re.fullmatch(r"[0-9a-fA-F:.]+(/[0-9]+)?", bare):
            self.bad(place, f"'{shown(network)}' is no network", "address/bits, such as 192.0.2.0/24 or 2001:db8::/32")
        elif bare != network:
            self.bad(place, f"'{shown(network)}' has brackets", f"write {bare}")
        elif ipaddress.ip_interface(network).ip != nets.network_address:
            self.bad(place, f"'{network}' names a host in a network", f"write {nets} or {network.partition('/')[0]}")

    def passwords(self, folder: Path) -> tuple[User, ...]:
        """The users, with the passwords that are in files."""
        users = []
        for number, user in enumerate(self.stack.users):
            place: Place = ("users", number, "password_file" if user.password_file else "password")
            password = user.password
            if user.password is not None and user.password_file is not None:
                self.bad(place, f"user '{user.address}' has both password and password_file", "keep one of them")
            elif user.password_file is not None and (password := self.first_line(folder / user.password_file, place)) is not None:
                user = user.model_copy(update={"password": password})
            if password is not None and len(password.encode()) > BCRYPT_OCTETS:
                self.bad(place, f"the password of '{user.address}' is longer than {BCRYPT_OCTETS} octets, of which bcrypt would use no more", "shorten it")
            users.append(user)
        return tuple(users)

    def first_line(self, path: Path, place: Place) -> str | None:
        """The password in a file; None, with a problem that does not quote it, when there is none."""
        name = f"password_file '{shown(str(path))}'"
        try:
            if path.exists() and not path.is_file():
                raise IsADirectoryError  # or a pipe, which could keep us waiting
            with path.open("rb") as file:
                line = file.read(4096).split(b"\n")[0].removesuffix(b"\r")
            password = line.decode("utf-8")
        except FileNotFoundError:
            self.bad(place, f"{name} does not exist", "it is looked for from the folder of stack.yaml")
        except IsADirectoryError:
            self.bad(place, f"{name} is not a file", "name a file whose first line is the password")
        except UnicodeDecodeError:
            self.bad(place, f"{name} is not UTF-8", "write the password alone in its first line")
        except OSError as why:
            self.bad(place, f"{name} cannot be read: {why.strerror}", "let your own account read it")
        else:
            if password and not _CONTROL.search(password):
                return password
            what = "holds a control character in its first line" if password else "has nothing in its first line"
            self.bad(place, f"{name} {what}", "write the password alone in its first line")
        return None
