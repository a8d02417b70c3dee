"""Settings of one version of a server in the words of another, by a table; what has no words there is listed with its line and why. It names no setting.

The table is `conversion.yaml` in the folder of the version that is written. Keys of `rules` and `sections` are paths of kinds such as
`service/inet_listener/ssl`; a kind may have the label that is asked for (`passdb:sql/args`), and each part is a regular expression (Python's).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from string import Template

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stackctl import known
from stackctl.backends import Backend
from stackctl.errors import Problem, UsageError
from stackctl.foreign import Lost
from stackctl.problems import Report, shown
from stackctl.sections import Node, Reader, Section, Setting, parsed


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


HIDDEN = "(not shown)"
_ANY = "(?s).*"


class Case(_Frozen):
    """What a value becomes that has this form. `write` is a template whose lines are left out where a group of `match` that they use is not set."""

    match: str = _ANY
    when: dict[str, str] = Field(default_factory=dict, description="Pattern of the value that another setting of the section has")
    values: dict[str, str] = Field(default_factory=dict, description="What a group becomes that has just this value")
    unset: dict[str, str] = Field(default_factory=dict, description="What a group is that is not set")
    split: str = Field("", description="The pattern between the parts of the group `v`, or of the value: each is looked at by `each`")
    each: tuple[Case, ...] = ()
    file: bool = Field(False, description="Whether the group `file` names a file of settings; these are looked up below the path of the setting and `/file`")
    write: str = ""
    top: bool = Field(False, description="Whether it is written outside of every section")
    lost: str = ""


class SectionRule(_Frozen):
    """What a section becomes."""

    kind: str = ""
    label: str = Field("", description="The setting whose value is the label there; a second one of it gets a label of its own, and the setting too")
    unnamed: str = Field("", description="What its label begins with where it has none")
    chief: str = Field("", description="The setting that, where it says yes, is its label where it has none")
    apart: bool = Field(False, description="Whether a label of several words is that of several sections there")
    unlabel: str = Field("", description="The setting that says there what the label says here")
    into: bool = Field(False, description="Whether its settings go to the section that it is in")
    collect: str = Field("", description="The setting that has its settings as words")
    form: str = "$name=$value"
    without: str = Field("", description="The form of what is switched off; empty where it cannot be said")
    words: dict[str, str] = Field({}, description="What a word is called there; empty where it is not there")
    begin: str = ""
    inside: str = Field("", description="The kind of section that the setting goes into")
    lost: str = ""


class Join(_Frozen):
    """One setting made of several. A piece that needs one which is not there is left out."""

    path: str = Field("", description="Of the section, a pattern")
    needs: str = Field(description="Without it nothing is made")
    name: str
    inside: str = Field("", description="The kind of section that it goes into")
    pieces: tuple[str, ...]


class Given(_Frozen):
    """What of a configuration is a key of stack.yaml. `match` finds the group `v`; `values` says what it is there."""

    path: str
    key: str
    match: str = "(?s)(?P<v>.*)"
    values: dict[str, str | bool | int] = Field(default_factory=dict)
    words: bool = Field(False, description="Whether it is a list, in capitals")
    number: bool = False


class Recipe(_Frozen):
    """conversion.yaml of a backend: the words of another version of it in its own, and what of its own is a key of stack.yaml."""

    reads: str = Field(description="The version whose configuration it rewrites")
    says_version: str = Field(description="The setting whose presence tells that a configuration is of the newer form")
    newer: bool = Field(description="Whether its own configuration has that setting")
    names: str = Field(description="A file of this folder with the names of its settings and sections, one a line")
    more: str = Field("", description="A pattern of further names: those of parts of the server that the image has not")
    nested: bool = Field(False, description="Whether a section has settings of its own alone")
    open: tuple[str, ...] = Field((), description="Kinds of sections whose settings have names of the administrator's own")
    first: str = Field("", description="Settings that begin every configuration")
    defaults: dict[str, str] = Field({}, description="A setting to what is written where the configuration does not say it")
    scopes: tuple[str, ...] = Field((), description="Kinds of sections that say for whom a setting holds; they are no part of a path")
    secret: str = Field("", description="A pattern of names whose values are shown nowhere")
    secret_value: str = Field("", description="A pattern of what is shown nowhere in the value of any other")
    rules: dict[str, str | Case | tuple[Case, ...]] = {}
    sections: dict[str, SectionRule] = {}
    joins: tuple[Join, ...] = ()
    variable: str = Field("", description="A pattern of what a variable looks like in what is read")
    variables: dict[str, str] = {}
    special: dict[str, dict[str, str]] = Field({}, description="Variables of single settings, by the pattern of a path")
    file: str = Field(description="The main file, and what it is called in `settings` of stack.yaml")
    key: str
    given: tuple[Given, ...] = ()
    users: dict[str, str] = Field({}, description="Path of a setting to a pattern whose group `file` names a file of accounts")
    dropped: dict[str, str] = Field({}, description="Path to why it is not in stack.yaml; empty where nobody misses it")
    whole: tuple[str, ...] = Field((), description="Kinds of sections that are not in stack.yaml where a part of them is not")
    unfit: dict[str, str] = Field({}, description="Pattern in a value to why it cannot be right in a container")

    @field_validator("rules", mode="before")
    @classmethod
    def _listed(cls, raw: dict[str, object]) -> dict[str, object]:
        return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def recipe(backend: Backend) -> Recipe | None:
    """The table of a backend, None where it has none. Raises UsageError where it is wrong."""
    path = backend.folder / "conversion.yaml"
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return Recipe.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=loader)) if path.is_file() else None
    except (yaml.YAMLError, ValidationError) as why:
        raise UsageError(f"{path}: {why}", "it says how another version's configuration is read") from why


class Names:
    """The names that a version of a server has."""

    def __init__(self, backend: Backend, recipe: Recipe) -> None:
        self.there = known.names(backend.folder / recipe.names)
        self.more, self.open, self.nested = recipe.more, recipe.open, recipe.nested

    def full(self, name: str, above: Sequence[Section]) -> str:
        """The whole name of a setting: in a section it may be written without the part that the section says."""
        if not above or (name in self.there and not (self.nested and f"{above[-1].kind}_{name}" in self.there)):
            return name
        kind, label = above[-1].kind, above[-1].label.replace("-", "_")
        candidates = (f"{kind}_{label}_{name}", f"{kind}_{name}", f"{label}_{name}")
        return next((one for one in candidates if one in self.there), name)

    def has(self, name: str, above: Sequence[Section]) -> bool:
        """Whether there is such a setting in such a section."""
        if any(one.kind in self.open for one in above) or (self.more and re.fullmatch(self.more, name)):
            return True
        full = self.full(name, above)
        return full in self.there and not (self.nested and above and not full.startswith(f"{above[-1].kind}_"))

    def has_section(self, kind: str, above: Sequence[Section]) -> bool:
        """Whether there are sections of this kind."""
        return any(one.kind in self.open for one in above) or self.full(kind, above) in self.there or bool(self.more and re.fullmatch(self.more, kind))


@dataclass(frozen=True)
class Change:
    """A setting that is written in other words: where it stands, and both forms; none where it needs no setting of its own there."""

    place: str
    before: str
    after: tuple[str, ...]

    @property
    def told(self) -> str:
        """What it becomes, for a person."""
        return f"becomes {'; '.join(self.after)}" if self.after else "needs no setting of its own there"


@dataclass(frozen=True)
class _Spot:
    """A setting, the section that it is in with those above, what is made of that section, and its path."""

    node: Setting
    section: Section
    above: tuple[Section, ...]
    out: Section
    path: str
    key: str


@dataclass
class Rewriter:
    """Rewrites a configuration; see Recipe. `problems` is what its own version would refuse."""

    recipe: Recipe
    old: Names
    new: Names
    reader: Reader
    told: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)  # place and form of a setting -> what it has become
    lost: list[Lost] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    kept: int = 0
    out: Section = field(default_factory=lambda: Section("", "", ""))
    there: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self, root: Section) -> Section:
        """The configuration in the other version's words."""
        merge(self.out.content, parsed(self.recipe.first, root.place))
        self._index(root, "")
        self._walk(root, (), self.out, "")
        for name, text in self.recipe.defaults.items():
            if name not in self.there.get("", {}):
                merge(self.out.content, parsed(text, root.place))
        return self.out

    def _index(self, section: Section, path: str, above: tuple[Section, ...] = ()) -> None:
        """What settings of one path say in all sections that have it: one of them may ask for another."""
        there = self.there.setdefault(path, {})
        for node in section.content:
            if isinstance(node, Setting):
                there[node.name] = there[self.old.full(node.name, above)] = node.value
            else:
                self._index(node, self.path_of(path, node), (*above, node))

    def _said(self, path: str, name: str) -> str:
        """What a setting says in the section of a path, or else in one that it is in."""
        while path and name not in self.there.get(path, {}):
            path = path.rpartition("/")[0]
        return self.there.get(path, {}).get(name, "")

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], tuple[Case, ...]]]:
        made = []
        for key, rule in self.recipe.rules.items():
            cases = (Case(match="(?s)(?P<v>.*)", write=f"{rule} = $v"),) if isinstance(rule, str) else (rule,) if isinstance(rule, Case) else rule
            made.append((pattern(key), cases))
        return made

    def _cases(self, path: str) -> tuple[tuple[Case, ...], dict[str, str]] | None:
        """What the table says of a path, and the groups of its key."""
        for key, cases in self._compiled:
            if found := key.fullmatch(path):
                return cases, found.groupdict("")
        return None

    def _section_rule(self, path: str) -> SectionRule:
        return next((rule for key, rule in self.recipe.sections.items() if pattern(key).fullmatch(path)), SectionRule())

    def lose(self, node: Node, what: str, why: str) -> None:
        """Lists something that the other version cannot say."""
        self.lost.append(Lost(node.place, shown(what, 100), why))

    def say(self, setting: Setting) -> str:
        """A setting as it is shown: no password."""
        name, value = setting.name.removesuffix("#"), setting.value
        if self.recipe.secret and re.search(self.recipe.secret, name) and value:
            value = HIDDEN
        elif self.recipe.secret_value:
            value = re.sub(self.recipe.secret_value, HIDDEN, value)
        return shown(f"{name} = {value}", 120)

    @property
    def changes(self) -> list[Change]:
        """The settings that are in other words."""
        return [Change(place, before, after) for (place, before), after in self.told.items()]

    def _tell(self, place: str, before: str, after: Sequence[str]) -> None:
        """What a setting has become joins what is told of it already; what is as it was is not told."""
        if tuple(after) == (before,):
            self.kept += 1
        else:
            self.told[place, before] = tuple(dict.fromkeys((*self.told.get((place, before), ()), *after)))

    def _walk(self, section: Section, above: tuple[Section, ...], out: Section, path: str) -> None:
        joined = self._joined(section, above, out, path)
        for node in section.content:
            if isinstance(node, Section):
                self._section(node, above, out, path)
            elif self.old.full(node.name, above) not in joined:
                self._setting(node, section, above, out, path)

    def path_of(self, path: str, section: Section) -> str:
        """The path of a section in the one of this path."""
        return self._path(path, section, section.label)

    def _path(self, path: str, section: Section, label: str) -> str:
        part = section.kind + (":" + label.replace("/", " ") if label else "")
        return path if section.kind in self.recipe.scopes else f"{path}/{part}" if path else part

    # -- sections

    def _section(self, node: Section, above: tuple[Section, ...], out: Section, path: str) -> None:
        rule = self._section_rule(self.path_of(path, node)) if node.kind not in self.recipe.scopes else self._section_rule(node.kind)
        if rule.apart and " " in node.label:
            for word in node.label.split():
                self._section(Section(node.place, node.kind, word, node.content), above, out, path)
            return None
        said = rule.label or rule.unlabel
        label = (node.value(said) or node.value(f"{node.kind}_{said}") if said else "") or node.label
        rule = rule if node.kind in self.recipe.scopes else self._section_rule(self._path(path, node, label))
        if not self.old.has_section(node.kind, above):
            return self.problems.append(Problem(node.place, f"'{shown(node.kind)}' is no section", _guess(node.kind, self.old.there)))
        if said and not label:
            return self.problems.append(Problem(node.place, f"`{node.kind} {{` has no `{said}`"))
        if rule.lost:
            return None if not node.content else self.lose(node, f"{node.kind} {label} {{".replace("  ", " "), rule.lost)
        inside = (*above, node)
        if rule.collect:
            return self._collect(node, rule, above, out, path)
        if rule.into:
            return self._walk(node, inside, out, self._path(path, node, label))
        kind = rule.kind or node.kind
        if not self.new.has_section(kind, above):
            return self.lose(node, f"{node.kind} {label} {{".replace("  ", " "), "there is no such section in the other version")
        if rule.chief and not label and node.value(rule.chief) == "yes":
            label = rule.chief
        elif rule.unnamed and not label:
            label = _free(rule.unnamed + "-", (one.label for one in out.sections(kind)), 1)
        made = Section(node.place, kind, "" if rule.unlabel else label)
        if rule.label:
            if any(one.label == label for one in out.sections(kind)):
                made.label = _free(label + "-", (one.label for one in out.sections(kind)), 2)
                made.content.append(Setting(node.place, rule.label, label))
            out.content.append(made)
        elif rule.unlabel:
            made.content.append(Setting(node.place, rule.unlabel, label))
            out.content.append(made)
        else:
            there = next((one for one in out.sections(kind) if one.label == made.label), None)
            out.content += [made] if there is None else []
            made = there or made
        skipped = {rule.label, rule.unlabel, f"{node.kind}_{rule.unlabel}"} - {""}
        kept = Section(node.place, node.kind, label, [one for one in node.content if isinstance(one, Section) or one.name not in skipped])
        self._walk(kept, (*above, kept), made, self._path(path, node, label))
        if not made.content and node.content:
            out.content[:] = [one for one in out.content if one is not made]
        return None

    def _collect(self, node: Section, rule: SectionRule, above: tuple[Section, ...], out: Section, path: str) -> None:
        words = [rule.begin] if rule.begin else []
        made = Setting(node.place, Template(rule.collect).safe_substitute(kind=node.kind), "")
        for one in node.content:
            form = rule.form if isinstance(one, Section) or "$value" in rule.form or one.value == "yes" else rule.without
            name = rule.words.get(one.name, one.name) if isinstance(one, Setting) else ""
            if not name or not form or isinstance(one, Section):
                self.lose(one, f"{node.kind}/{one.name if isinstance(one, Setting) else one.kind}", f"version {self.recipe.reads} alone has this")
            elif (value := self._variables(one, f"{path}/{made.name}" if path else made.name, one.value)) is not None:
                words.append(Template(form).substitute(name=name, value=value))
        if len(words) > bool(rule.begin):
            before = next((one.value for one in out.content if isinstance(one, Setting) and one.name == made.name), "")
            made = Setting(node.place, made.name, " ".join(dict.fromkeys(filter(None, [*before.split(), *words]))))
            self._put(_inside(rule.inside, made), made, out)
            self._tell(node.place, f"{node.kind} {{ … }}", [self.say(made)])

    def _joined(self, section: Section, above: tuple[Section, ...], out: Section, path: str) -> set[str]:
        """What the joins make is written; the names that they have used."""
        there = {self.old.full(one.name, above): one for one in section.content if isinstance(one, Setting)}
        used: set[str] = set()
        for join in self.recipe.joins:
            if join.needs not in there or join.needs in used or not pattern(join.path).fullmatch(path):
                continue
            found: set[str] = set()
            text, first = "", there[join.needs]
            for piece in join.pieces:
                names = Template(piece).get_identifiers()
                values = {name: self._variables(there[name], name, there[name].value) for name in names if name in there}
                if all(values.get(name) for name in names):
                    text += Template(piece).substitute(values)
                    found.update(names)
            used |= found | {join.needs}
            made = Setting(first.place, join.name, text)
            self._put(_inside(join.inside, made), made, out)
            for name in sorted(found, key=lambda one: there[one].place):
                self._tell(there[name].place, self.say(there[name]), [self.say(made)])
        return used

    # -- settings

    def _setting(self, node: Setting, section: Section, above: tuple[Section, ...], out: Section, path: str) -> None:
        name = self.old.full(node.name, above)
        keys = [f"{path}/{one}" if path else one for one in dict.fromkeys([name, node.name])]
        key, found = next(((key, found) for key in keys if (found := self._cases(key))), (keys[0], None))
        if found is not None:
            spot = _Spot(node, section, above, out, path, key)
            self._ruled(found, spot, {"label": section.label})
            return
        inside = [one for one in above if one.kind not in self.recipe.scopes]
        if not self.old.has(name, inside):
            there = {one.removeprefix(f"{inside[-1].kind}_") for one in self.old.there if one.startswith(inside[-1].kind)} if inside else self.old.there
            return self.problems.append(Problem(node.place, f"there is no setting '{shown(node.name)}'", _guess(node.name, there)))
        target = node.name.removeprefix(f"{inside[-1].kind}_") if inside and not self.new.has(node.name, ()) else node.name
        if not self.new.has(target, [one for one in inside if not self._vanishes(one)]):
            return self.lose(node, self.say(node), f"only version {self.recipe.reads} has this setting") if node.value else None
        value = self._variables(node, key, node.value)
        if value is not None:
            made = Setting(node.place, target, value)
            self._put([made], node, out)
            self._tell(node.place, self.say(node), [self.say(made)])
        return None

    def _vanishes(self, section: Section) -> bool:
        return self._section_rule(self.path_of("", section)).into

    def _ruled(self, found: tuple[tuple[Case, ...], dict[str, str]], spot: _Spot, known: Mapping[str, str]) -> None:
        """Does with a setting what the table says; one of which nothing is left is told of too."""
        node = spot.node
        told = len(self.lost), self.kept
        if not self._apply(found[0], node.value, spot, {**known, **found[1], "name": node.name}) and node.value:
            self.lose(node, self.say(node), "a value of this form has no counterpart")
        if told == (len(self.lost), self.kept):
            self.told.setdefault((node.place, self.say(node)), ())

    def _apply(self, cases: Iterable[Case], text: str, spot: _Spot, known: Mapping[str, str]) -> bool:
        """Writes what the first case that fits makes of a text; whether one fits. `known` is what its template has besides the groups."""
        node = spot.node
        for case in cases:
            groups = self._groups(case, text, spot, known)
            if groups is None:
                continue
            if case.lost and text:
                self.lose(node, self.say(node if text == node.value else Setting(node.place, node.name, text)), case.lost)
            if case.file:
                self._file(groups["file"], spot)
            if case.write:
                values = {name: self._variables(node, spot.key, case.values.get(value, value)) for name, value in groups.items()}
                if None not in values.values():
                    made = filled(parsed(case.write, node.place), {name: value for name, value in values.items() if value is not None})
                    self._put(made, node, self.out if case.top else spot.out)
                    self._tell(node.place, self.say(node), [*self._flat(made)])
            if case.split:
                for word in filter(None, re.split(case.split, groups.pop("v", text if case.match == _ANY else ""))):
                    if not self._apply(case.each, word, spot, groups):
                        self.lose(node, self.say(Setting(node.place, node.name, word)), "this part has no counterpart")
            return True
        return False

    def _groups(self, case: Case, text: str, spot: _Spot, known: Mapping[str, str]) -> dict[str, str] | None:
        """The groups of a case that fits, and of what it asks of other settings; None where it does not fit."""
        found = re.fullmatch(case.match, text)
        if not found:
            return None
        groups = {**case.unset, **known, **_set(found)}
        for name, wanted in case.when.items():
            name = Template(name).safe_substitute(groups)
            other = re.fullmatch(wanted, spot.section.value(name) or self._said(spot.path, name))
            if not other:
                return None
            groups.update(_set(other))
        return groups

    def _file(self, wanted: str, spot: _Spot) -> None:
        path = self.reader.beside(wanted)
        if path is None:
            return self.lose(spot.node, self.say(spot.node), f"{Path(wanted).name} is not beside the configuration")
        content = self.reader.settings(path)
        self._tell(spot.node.place, self.say(spot.node), [f"the settings of {content.place}"])
        for one in content.content:
            key = f"{spot.key}/file/{one.name if isinstance(one, Setting) else one.kind}"
            found = self._cases(key) if isinstance(one, Setting) else None
            if isinstance(one, Section) or found is None:
                self.problems.append(Problem(one.place, f"there is no setting '{shown(one.name if isinstance(one, Setting) else one.kind)}'"))
            else:
                self._ruled(found, _Spot(one, content, spot.above, spot.out, spot.path, key), {})
        return None

    def _put(self, nodes: Iterable[Node], node: Node, out: Section) -> None:
        for old, new in merge(out.content, nodes):
            if old.value != new.value and old.place != new.place and not new.value.startswith(old.value):
                self.lose(old, self.say(old), f"given again at {new.place}, which counts")

    def _flat(self, nodes: Iterable[Node], begin: str = "") -> Iterator[str]:
        for node in nodes:
            if isinstance(node, Setting):
                yield begin + self.say(node)
            else:
                label = f" {node.label}" if node.label else ""
                yield from self._flat(node.content, f"{begin}{node.kind}{label}/") if node.content else [f"{begin}{node.kind}{label}"]

    def _variables(self, node: Setting, key: str, text: str) -> str | None:
        """A value with the variables of the other version; None, and lost, where it has none for one of them."""
        if not self.recipe.variable:
            return text
        own = [table for found, table in self.recipe.special.items() if pattern(found).fullmatch(key)]
        missing = []

        def turned(found: re.Match[str]) -> str:
            for table in (*own, self.recipe.variables):
                for wanted, made in table.items():
                    if fits := re.fullmatch(wanted, found[0]):
                        return fits.expand(made)
            missing.append(found[0])
            return found[0]

        made = re.sub(self.recipe.variable, turned, text)
        if missing:
            self.lose(node, self.say(node), f"there is no variable that is {missing[0]}")
            return None
        return made


@cache
def pattern(key: str) -> re.Pattern[str]:
    """A path of the table as a pattern: a part without a label fits any."""

    def part(text: str) -> str:
        return text if ":" in text or text == "file" else f"(?:{text})(?::[^/]*)?"

    return re.compile("|".join("/".join(map(part, one.split("/"))) if one else "" for one in re.split(r"\|(?![^(]*\))", key)))


def merge(content: list[Node], nodes: Iterable[Node]) -> list[tuple[Setting, Setting]]:
    """Puts nodes to others: of two settings the later one counts, sections of one name are one. A name that ends in `#` gets
    the first number that is free. The settings that no longer count come back, each with what replaced it."""
    replaced = []
    for node in nodes:
        if isinstance(node, Setting) and node.name.endswith("#"):
            taken = {one.name for one in content if isinstance(one, Setting)}
            node = Setting(node.place, name if (name := node.name[:-1]) not in taken else _free(name, taken, 2), node.value)
            content.append(node)
        elif isinstance(node, Setting):
            same = [one for one in content if isinstance(one, Setting) and one.name == node.name]
            replaced += [(one, node) for one in same]
            content[:] = [one for one in content if one not in same]
            content.append(node)
        elif there := next((one for one in content if isinstance(one, Section) and (one.kind, one.label) == (node.kind, node.label)), None):
            replaced += merge(there.content, node.content)
        else:
            content.append(Section(node.place, node.kind, node.label))
            replaced += merge(content[-1].content, node.content)  # type: ignore[union-attr]
    return replaced


def filled(nodes: Iterable[Node], values: Mapping[str, str]) -> list[Node]:
    """Nodes of a template with `$name` filled in; without those that need a name which has no value."""
    made: list[Node] = []
    for node in nodes:
        texts = [node.name, node.value] if isinstance(node, Setting) else [node.kind, node.label]
        if any(name not in values for text in texts for name in Template(text).get_identifiers()):
            continue
        first, second = (Template(text).substitute(values) for text in texts)
        if isinstance(node, Setting):
            made.append(Setting(node.place, first, second))
        else:
            made.append(Section(node.place, first, second, filled(node.content, values)))
    return made


def _free(begin: str, taken: Iterable[str], number: int) -> str:
    """A name with the first number that none of these has."""
    there = set(taken)
    return next(name for n in count(number) if (name := f"{begin}{n}") not in there)


def _inside(kind: str, made: Setting) -> list[Node]:
    return [Section(made.place, kind, "", [made])] if kind else [made]


def _set(found: re.Match[str]) -> dict[str, str]:
    return {name: value for name, value in found.groupdict().items() if value is not None}


def _guess(word: str, there: Iterable[str]) -> str:
    near = [one for one in there if abs(len(one) - len(word)) <= 4 and set(one[:1] + one[-1:]) & set(word[:1] + word[-1:])]
    hint = Report("").guess(word, near[:1000])
    return hint if hint.startswith("did") else ""
