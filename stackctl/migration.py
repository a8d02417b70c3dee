"""A store's own configuration, of one version, as another version has it, and as a stack.yaml; with what neither says. It starts nothing.

What is particular to a server is in `conversion.yaml` of its folders: stackctl/rewriting.py explains it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stackctl import model
from stackctl.backends import Backend, all_backends
from stackctl.errors import BadStack, CheckFailed, Problem, UsageError
from stackctl.foreign import MAX_OCTETS, Lost
from stackctl.load import parse
from stackctl.problems import MAX_PROBLEMS, shown
from stackctl.rewriting import Change, Given, Names, Recipe, Rewriter, pattern, recipe
from stackctl.sections import Node, Reader, Section, Setting, value_written, written

_HEAD = "# From {file} of version {source} by `stackctl import`; `stackctl init` explains every key.\n"


@dataclass
class Migrated:
    """A configuration in the words of the version `target`, and the stack.yaml that says as much of it as one can say.

    `stack` is empty where none was asked for. `changes` are the settings that have other words, `kept` the number of those that have not;
    `lost` is what the version cannot say, `left_out` what a stack.yaml cannot. `secret` tells whether `text` holds a password.
    """

    source: str
    target: str
    text: str
    changes: list[Change]
    kept: int
    lost: list[Lost]
    stack: str
    left_out: list[Lost]
    secret: bool


def migrate(family: str, path: Path, to: str | None = None, with_stack: bool = True) -> Migrated:
    """What a main file (or the folder that has it), with all that it includes, is in version `to`; the other one than its own, unless given.

    Raises UsageError with every problem of the files, and where there is no such version; CheckFailed where it makes no stack.
    """
    there = [(backend, found) for backend in all_backends().values() if backend.family == family and (found := recipe(backend))]
    main = path / there[0][1].file if path.is_dir() else path
    if not main.is_file():
        raise UsageError(f"{path}: no such file, or a folder without {there[0][1].file}", f"name the folder with the server's files, or the file {there[0][1].file}")
    reader = Reader(main)
    root = reader.read()
    newer = any(isinstance(one, Setting) and one.name == there[0][1].says_version for one in root.content)
    source, own = next((backend, found) for backend, found in there if found.newer == newer)
    target, wanted = _target(there, source, to)
    # What its own version would refuse shows as it is rewritten, be it for the other version or for nothing.
    other, table = (target, wanted) if target is not source else next((backend, found) for backend, found in there if backend is not source)
    rewriter = Rewriter(table, Names(source, own), Names(other, table), reader)
    made = rewriter.run(root)
    _refuse(main, reader, rewriter.problems)
    if target is source:
        made, rewriter = root, Rewriter(wanted, Names(source, own), Names(target, wanted), reader, kept=sum(1 for _ in _settings(root)))
    carried = _Carried(target, wanted, reader, rewriter)
    stack = carried.stack(made, _HEAD.format(file=main.name, source=source.version)) if with_stack else ""
    text = written(made.content)
    secret = any(re.search(wanted.secret, one.name) and one.value for one in _settings(made)) or bool(wanted.secret_value and re.search(wanted.secret_value, text))

    def place(one: Lost | Change) -> tuple[int, int]:
        return reader.position(one.place)

    changes, lost, left_out = sorted(rewriter.changes, key=place), sorted(rewriter.lost, key=place), sorted(carried.lost, key=place)
    return Migrated(str(source.version), str(target.version), text, changes, rewriter.kept, lost, stack, left_out, secret)


def _target(there: Sequence[tuple[Backend, Recipe]], source: Backend, to: str | None) -> tuple[Backend, Recipe]:
    for backend, found in there:
        if backend.version == to or (to is None and backend is not source):
            return backend, found
    raise UsageError(f"there is no version {shown(str(to))}", f"there are: {', '.join(str(backend.version) for backend, _ in there)}")


def _refuse(main: Path, reader: Reader, further: Sequence[Problem]) -> None:
    """Raises UsageError where there is a problem, with all of them."""
    problems = list(dict.fromkeys(sorted([*reader.problems, *further], key=lambda one: reader.position(one.where))))
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more problems"] if len(problems) > MAX_PROBLEMS else []
        lines = [*map(str, problems[:MAX_PROBLEMS]), *more]
        raise UsageError(f"{main}: its server would refuse this:\n" + "\n".join(lines), "mend these in a copy of the files; nothing was written")


def _settings(section: Section) -> Iterator[Setting]:
    for node in section.content:
        if isinstance(node, Setting):
            yield node
        else:
            yield from _settings(node)


@dataclass
class _Carried:
    """What of a configuration a stack.yaml says."""

    backend: Backend
    recipe: Recipe
    reader: Reader
    rewriter: Rewriter  # knows paths, and what is not shown
    lost: list[Lost] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)  # dotted
    users: dict[str, None] = field(default_factory=dict)

    def stack(self, root: Section, head: str) -> str:
        """The text of a stack.yaml with one store. Raises CheckFailed where it is none."""
        native = self.native(root, "", "")
        domains = dict.fromkeys(address.rpartition("@")[2] for address in self.users)
        main = self.keys.pop("domain", None) or next(iter(domains), None)
        if main is None:
            main = "example.test"
            self.lost.append(Lost(self.reader.main.name, "the domain", f"no setting tells it; {main} stands for it"))
        domains.pop(main, None)
        store: dict[str, Any] = {"backend": self.backend.family, **({} if self.backend.default else {"version": self.backend.version})}
        raw: dict[str, Any] = {"domain": main, "domains": [*domains], "users": [{"address": address} for address in self.users], "stores": [store]}
        for key, value in self.keys.items():
            section, _, name = key.rpartition(".")
            place: dict[str, Any] = store if section == "store" else raw.setdefault(section, {}) if section else raw
            place[name] = value
        if native:
            store["settings"] = {self.recipe.key: native}
        text = head + yaml.safe_dump({key: value for key, value in raw.items() if value}, sort_keys=False, width=150, allow_unicode=True)
        try:
            parse(text, "the stack.yaml made of it", Path())
        except BadStack as why:
            raise CheckFailed(f"{self.reader.main}: what it says makes no stack:\n{why.message}", "mend these in a copy of the file, and try again") from why
        return text

    def native(self, section: Section, path: str, shown_path: str) -> dict[str, Any]:
        """The settings that are handed through as they are, in the nested form of stack.yaml."""
        found: dict[str, Any] = {}
        for node in section.content:
            key, where = self.path(path, node), f"{shown_path}{node.kind} {node.label}".strip() if isinstance(node, Section) else shown_path
            if isinstance(node, Setting):
                self.look(node, key)
                alone = section.kind in self.recipe.scopes  # what holds for some clients alone is no key of the whole stack
                if (not alone and self.given(node, key)) or self.dropped(node, key, f"{shown_path}{self.rewriter.say(node)}"):
                    continue
                if why := next((why for wanted, why in self.recipe.unfit.items() if re.search(wanted, node.value)), ""):
                    self.lost.append(Lost(node.place, f"{shown_path}{self.rewriter.say(node)}", why))
                    continue
                found[node.name] = value_written(node.value)
            elif self.dropped(node, key, f"{where} {{"):
                for setting in _settings(node):
                    self.look(setting, f"{key}/{setting.name}")
                continue
            else:
                before = len(self.lost)
                inner = self.native(node, self.rewriter.path_of(path, node), f"{where}/")
                if inner and not (node.kind in self.recipe.whole and len(self.lost) > before):
                    found[f"{node.kind} {value_written(node.label, label=True)}".strip()] = inner
        return found

    def path(self, path: str, node: Node) -> str:
        name = node.name if isinstance(node, Setting) else (node.kind + (f":{node.label}" if node.label else "")).replace("/", " ")
        return f"{path}/{name}" if path else name

    def dropped(self, node: Node, key: str, what: str) -> bool:
        for wanted, why in self.recipe.dropped.items():
            if pattern(wanted).fullmatch(key):
                if why and (isinstance(node, Section) or node.value):
                    self.lost.append(Lost(node.place, shown(what, 100), why))
                return True
        return False

    def look(self, setting: Setting, key: str) -> None:
        """Takes the users of a file of accounts that a setting names, where a copy lies beside the configuration."""
        for wanted, file in self.recipe.users.items():
            found = re.fullmatch(file, setting.value) if pattern(wanted).fullmatch(key) else None
            if found and (path := self.reader.beside(found["file"])):
                try:
                    self.accounts(path)
                except OSError as why:
                    self.lost.append(Lost(setting.place, shown(found["file"]), f"it cannot be read: {why.strerror}"))

    def accounts(self, path: Path) -> None:
        """Takes the names in a file that has them before the first colon of each line, as passwd(5) has."""
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines.read(MAX_OCTETS).splitlines(), 1):
                name, colon, _ = line.strip().partition(":")
                if colon and not name.startswith("#"):
                    try:
                        self.users[model.mailbox(name)] = None
                    except ValueError as why:
                        self.lost.append(Lost(f"{self.reader.name(path)}:{number}", shown(name), str(why)))

    def given(self, setting: Setting, key: str) -> bool:
        """Whether a setting is a key of stack.yaml; it is kept."""
        for one in self.recipe.given:
            found = re.fullmatch(one.match, setting.value) if pattern(one.path).fullmatch(key) else None
            if found and one.key not in self.keys:
                value = self.value(one, found["v"], setting)
                if value is not None:
                    self.keys[one.key] = value
                    return True
            elif found and self.keys[one.key] == found["v"]:
                return True
        return False

    def value(self, given: Given, text: str, setting: Setting) -> Any:
        if given.words:
            words = [word.upper() for word in text.split()]
            for word in words:
                if word not in self.backend.mechanisms:
                    self.lost.append(Lost(setting.place, f"{setting.name}: {shown(word)}", "the stack has no such mechanism"))
            return [word for word in words if word in self.backend.mechanisms] or None
        if given.key == "domain":
            try:
                return model.domain(text)
            except ValueError:
                return None
        return int(text) if given.number else given.values.get(text, text)
