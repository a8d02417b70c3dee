"""A mail server's own files to a stack.yaml, and a list of what could not be carried over, each with its line and why. It starts nothing.

What is particular to a server is in `import.yaml` of its folder: what a parameter becomes, what is left out and why, what values
cannot be right in a container. Whatever else the server knows is handed through as a native setting.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from stackctl import foreign, known, model
from stackctl.backends import Backend, all_backends
from stackctl.errors import BadStack, CheckFailed, UsageError
from stackctl.foreign import Entry, Lost, Setting, Tree, expanded
from stackctl.load import parse
from stackctl.problems import Report, shown

MASTER_COLUMNS = 8
_HEAD = "# From {files} by `stackctl import`. Stores are the default ones; `stackctl init` explains every key.\n"


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    key: str


class Recipe(BaseModel):
    """import.yaml of a backend. Patterns are Python's, for a whole name; those of `values` are searched for in a value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings_file: _File
    entries_file: _File
    tables: tuple[str, ...]  # types of tables whose source is plain text
    becomes: dict[str, str]  # a setting's name -> a method of _Conversion
    defaults: dict[str, str]
    tls_levels: dict[str, str]
    dropped: dict[str, str]  # pattern -> why; "" where nobody misses it
    values: dict[str, str]
    renamed: dict[str, str]
    ports: tuple[int, ...]
    programs: tuple[str, ...]  # commands that start a program of the machine
    options: str


@dataclass
class Converted:
    """A stack.yaml and what is not in it. `secret` tells whether it holds a password."""

    text: str
    stack: dict[str, Any]
    lost: list[Lost]
    secret: bool


def convert(path: Path) -> Converted:
    """What the files in a folder, or a main file and what lies beside it, make.

    Raises UsageError where there are none, CheckFailed where what they say makes no stack.
    """
    recipes = [(backend, recipe) for backend in all_backends().values() if backend.role == "mta" and (recipe := _recipe(backend))]
    for backend, recipe in recipes:
        main = path / recipe.settings_file.file if path.is_dir() else path
        if main.is_file():
            return _Conversion(backend, recipe, main).run()
    wanted = ", ".join(recipe.settings_file.file for _, recipe in recipes)
    raise UsageError(f"{path}: no such file, or a folder without {wanted}", f"name the folder with the server's files, or the file {wanted}")


def _recipe(backend: Backend) -> Recipe | None:
    path = backend.folder / "import.yaml"
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except (yaml.YAMLError, ValidationError) as why:
        raise UsageError(f"{path}: {why}", "it says how this server's files are read") from why


@dataclass
class _Conversion:
    backend: Backend
    recipe: Recipe
    main: Path
    tree: Tree = field(init=False)
    lost: list[Lost] = field(default_factory=list)
    settings: dict[str, Setting] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    domain: str = "example.test"
    extra: dict[str, Any] = field(default_factory=dict)  # top-level keys
    users: dict[str, None] = field(default_factory=dict)
    hosted: dict[str, None] = field(default_factory=dict)  # domains besides the main one
    addresses: dict[str, list[str]] = field(default_factory=dict)  # aliases
    local: dict[str, list[str]] = field(default_factory=dict)  # system aliases
    everything: dict[str, str] = field(default_factory=dict)  # catch-alls by domain
    hop: dict[str, Any] = field(default_factory=dict)
    main_settings: dict[str, str] = field(default_factory=dict)
    entry_settings: dict[str, str] = field(default_factory=dict)
    where: dict[tuple[str, str], str] = field(default_factory=dict)  # native file and key -> place

    def __post_init__(self) -> None:
        self.tree = Tree(self.main.parent)

    def run(self) -> Converted:
        self.settings, wrong = foreign.assignments(self.tree.lines(self.main))
        self.lost += wrong
        self.values = {**self.recipe.defaults, **{name: setting.value for name, setting in self.settings.items()}}
        self.find_domain()
        handlers: dict[str, Callable[[Setting], None]] = {role: getattr(self, role) for role in dict.fromkeys(self.recipe.becomes.values())}
        # Domains first, then what is said of them, then next hops: a later one asks what an earlier one learned.
        order = list(handlers)
        for role in sorted(order, key=lambda one: (one != "domains", one != "relayhost", order.index(one))):
            for name, setting in self.settings.items():
                if self.recipe.becomes.get(name) == role:
                    handlers[role](setting)
        for name, setting in self.settings.items():
            if name not in self.recipe.becomes and self.fit(setting.place, name, setting.value, f"{name} = {setting.value}"):
                self.main_settings[name] = setting.value
                self.where[self.recipe.settings_file.key, name] = setting.place
        self.services()
        self.unknown()
        return self.result()

    def lose(self, place: str, what: str, why: str) -> None:
        self.lost.append(Lost(place, shown(what, 100), why))

    def lose_setting(self, setting: Setting, why: str) -> None:
        self.lose(setting.place, f"{setting.name} = {setting.value}", why)

    def value(self, setting: Setting) -> str:
        return expanded(setting.value, self.values)

    def words(self, setting: Setting) -> Iterator[str]:
        """The words of a list; one that is not known to the end is lost."""
        for word in re.split(r"[\s,]+", self.value(setting)):
            if "$" in word:
                self.lose(setting.place, f"{setting.name}: {word}", "this cannot be expanded")
            elif word:
                yield word

    # -- native settings

    def fit(self, place: str, name: str, value: str, what: str) -> bool:
        """Whether a native setting can be right in the container; what cannot is lost, with the reason."""
        for pattern, why in self.recipe.dropped.items():
            if re.fullmatch(pattern, name):
                if why and value:
                    self.lose(place, what, why)
                return False
        for pattern, why in self.recipe.values.items():
            if re.search(pattern, value):
                self.lose(place, what, why)
                return False
        return True

    def services(self) -> None:
        """The entries that differ from those that there are, and those that there are not."""
        path = self.main.parent / self.recipe.entries_file.file
        if not path.is_file():
            return
        rows, wrong = foreign.entries(self.tree.lines(path), MASTER_COLUMNS)
        self.lost += wrong
        file = self.recipe.entries_file.key
        there = self.backend.known[file].entries if file in self.backend.known else ()
        chrooted = [row for row in rows if row.fields[4] == "y"]
        if chrooted:
            self.lose(chrooted[0].place, f"chroot, in {len(chrooted)} entries", "nothing is chrooted: the container is")
        for row in rows:
            full = f"{row.fields[0]}/{row.fields[1]}"
            full = self.recipe.renamed.get(full, full)
            if full in there:
                if row.fields[6].isdigit() and int(row.fields[6]) > 1:
                    self.lose(row.place, f"{full}: at most {row.fields[6]} processes", "`default_process_limit` of main.cf, or `limits`, bounds them here")
                for name, value, what in self.options(row, full):
                    if self.fit(row.place, name, value, what):
                        self.keep(file, f"{full}/{name}", value, row.place)
            else:
                self.service(row, full)

    def options(self, row: Entry, full: str) -> Iterator[tuple[str, str, str]]:
        for found in re.finditer(self.recipe.options, row.rest):
            name, value = (found["long"], found["words"]) if found["long"] else (found["name"], found["value"])
            yield name, value, f"{full}: -o {name}={value}"

    def service(self, row: Entry, full: str) -> None:
        name, _, private, unprivileged, _, wakeup, limit, command = [*row.fields]
        port = name.rpartition(":")[2]
        if command in self.recipe.programs:
            program = re.search(r"argv=(\S+)", row.rest)
            return self.lose(row.place, f"{full}: {command} {program[1] if program else ''}".rstrip(), "the program is not in the container")
        if full.endswith("/inet") and port.isdigit() and int(port) in self.recipe.ports:
            return self.lose(row.place, f"{full}: {command}", f"port {port} is a listener of the stack already")
        kept = [(key, value) for key, value, what in self.options(row, full) if self.fit(row.place, key, value, what)]
        line = f"{private} {unprivileged} n {wakeup} {limit} {command}"
        self.keep(self.recipe.entries_file.key, full, line, row.place)
        for key, value in kept:
            self.keep(self.recipe.entries_file.key, f"{full}/{key}", value, row.place)
        return None

    def keep(self, file: str, key: str, value: str, place: str) -> None:
        self.entry_settings[key] = value
        self.where[file, key] = place

    def native(self) -> dict[str, dict[str, str]]:
        found = {self.recipe.settings_file.key: self.main_settings, self.recipe.entries_file.key: self.entry_settings}
        return {file: entries for file, entries in found.items() if entries}

    def unknown(self) -> None:
        """What the server does not know is lost; that may leave something else without its meaning, so it is looked at until nothing is left."""
        guess = Report("").guess
        while slips := [*known.slips(self.backend, self.native()), *self.undefined()]:
            for slip in slips:
                if slip.key in self.native().get(slip.file, {}):
                    hint = guess(slip.word, slip.candidates) if slip.candidates else ""
                    self.lose(self.where[slip.file, slip.key], slip.message, hint if hint.startswith("did") else slip.hint)
                    del (self.main_settings if slip.file == self.recipe.settings_file.key else self.entry_settings)[slip.key]

    def undefined(self) -> Iterator[known.Slip]:
        """The settings that refer to a name which neither the server nor anything that is carried over has."""
        main = self.recipe.settings_file.key
        there = self.backend.known.get(main)
        if there is None:
            return
        names = {*known.names(self.backend.folder / there.names), *self.main_settings}
        for file, entries in self.native().items():
            for key, value in entries.items():
                for pattern in there.used:
                    if missing := [found["name"] for found in re.finditer(pattern, value) if found["name"] not in names]:
                        yield known.Slip(file, key, f"{key} = {value}", hint=f"nothing that is carried over defines ${missing[0]}")

    # -- what a setting becomes: one method for each word in `becomes`

    def find_domain(self) -> None:
        host = expanded(self.values["myhostname"], self.values).lower()
        wanted = expanded(self.values["mydomain"], self.values).lower() or host.partition(".")[2]
        self.values["mydomain"], self.values["myhostname"] = wanted, host
        place = next((self.settings[name].place for name in ("mydomain", "myhostname") if name in self.settings), self.main.name)
        try:
            self.domain = model.domain(wanted)
        except ValueError:
            self.lose(place, f"the domain '{wanted}'", f"it is no domain name of two labels; {self.domain} stands for it")
            self.values["mydomain"] = self.domain

    def domain_name(self, setting: Setting) -> None:
        """Found already."""

    def host_name(self, setting: Setting) -> None:
        if self.values["myhostname"] != f"mail.{self.domain}":
            self.lose_setting(setting, f"the MTA is called mail.{self.domain}")

    def origin(self, setting: Setting) -> None:
        value = self.value(setting)
        if value.startswith("/"):
            path = self.tree.find(value)
            if path is None:
                return self.lose_setting(setting, "the file is not beside the configuration")
            value = next((line.text for line in self.tree.lines(path)), "")
        try:
            value = model.host_name(value)
        except ValueError as why:
            return self.lose_setting(setting, str(why))
        if value != self.domain:
            self.extra["myorigin"] = value
        return None

    def local_domains(self, setting: Setting) -> None:
        found: dict[str, None] = {}
        for word in self.words(setting):
            try:
                name = model.host_name(word)
            except ValueError:
                self.lose(setting.place, f"mydestination: {word}", "a table of domains, or no domain name")
                continue
            if name == self.domain:
                self.lose(setting.place, f"mydestination: {name}", "its mail goes to the stores; whoever has an account on that machine is to be one of `users`")
            elif name not in (f"mail.{self.domain}", "localhost") and name not in self.hosted:
                found[name] = None
        if found:
            self.extra["mydestination"] = list(found)

    def networks(self, setting: Setting) -> None:
        found = []
        for word in self.words(setting):
            try:
                found.append(str(ipaddress.ip_network(word.replace("[", "").replace("]", ""), strict=False)))
            except ValueError:
                self.lose(setting.place, f"{setting.name}: {word}", "no network such as 192.0.2.0/24")
        if found:
            self.extra["mynetworks"] = found

    def message_size(self, setting: Setting) -> None:
        value = self.value(setting)
        if value.isdigit() and int(value) > 0:
            self.extra["message_size_limit"] = int(value)
        else:
            self.lose_setting(setting, "no limit in octets: the default of 50M stays")

    def domains(self, setting: Setting) -> None:
        for word in self.words(setting):
            names = [(place, key) for place, key, _ in self.rows(setting, word)] if ":" in word else [(setting.place, word)]
            for place, name in names:
                try:
                    if (hosted := model.domain(name)) != self.domain:
                        self.hosted[hosted] = None
                except ValueError as why:
                    self.lose(place, name, str(why))

    def rows(self, setting: Setting, word: str) -> Iterator[tuple[str, str, str]]:
        """The lines of a table that is named `type:path`, lost where it cannot be read."""
        if path := self.table(setting, word):
            yield from foreign.table(self.tree.lines(path))

    def table(self, setting: Setting, word: str) -> Path | None:
        kind, _, name = word.removeprefix("proxy:").partition(":")
        if kind not in self.recipe.tables:
            self.lose(setting.place, f"{setting.name}: {word}", f"a table of type {kind or '(none)'} is not read")
        elif not (path := self.tree.find(name)):
            self.lose(setting.place, f"{setting.name}: {word}", f"{Path(name).name} is not beside the configuration")
        else:
            return path
        return None

    def person(self, address: str) -> None:
        """Makes somebody a user unless the address is an alias, foreign, or in the way."""
        if address.rpartition("@")[2] in (self.domain, *self.hosted) and address not in self.addresses:
            self.users[address] = None

    def full(self, word: str) -> str:
        return model.address(word if "@" in word else f"{word}@{self.domain}")

    def aliases(self, setting: Setting) -> None:
        rows = [row for word in self.words(setting) for row in self.rows(setting, word)]
        for place, key, value in rows:
            targets = []
            for word in filter(None, re.split(r"[\s,]+", value)):
                try:
                    targets.append(self.full(word))
                except ValueError as why:
                    self.lose(place, f"{key}: {word}", str(why))
            if "@" not in key and "." in key:  # virtual(5): a line that makes a domain one of the virtual ones
                self.hosted.setdefault(key.lower())
            elif key.startswith("@"):
                if len(targets) == 1:
                    self.everything[key[1:].lower()] = targets[0]
                elif targets:
                    self.lose(place, key, "a catch-all goes to one address")
            elif targets:
                try:
                    self.addresses[self.full(key)] = targets
                except ValueError as why:
                    self.lose(place, key, str(why))
        for targets in [*self.addresses.values(), *([target] for target in self.everything.values())]:
            for target in targets:
                self.person(target)

    def users_of(self, setting: Setting) -> None:
        for word in self.words(setting):
            for place, key, _ in self.rows(setting, word):
                try:
                    self.person(model.address(key))
                except ValueError as why:
                    self.lose(place, key, str(why))

    def system_aliases(self, setting: Setting) -> None:
        for word in self.words(setting):
            path = self.table(setting, word)
            rows = list(foreign.aliases(self.tree.lines(path))) if path and not self.local else []
            names = {name.lower() for _, name, _ in rows}
            for place, name, targets in rows:
                kept = []
                for target in targets:
                    if target.startswith(("|", "/", ":")) and target != "/dev/null":
                        self.lose(place, f"{name}: {target}", "a program or file of that machine")
                        continue
                    try:
                        kept.append(target if target.startswith("/") or target.lower() in names else self.full(target))
                    except ValueError as why:
                        self.lose(place, f"{name}: {target}", str(why))
                try:
                    if kept and model.alias_name(name):
                        self.local[name.lower()] = kept
                except ValueError as why:
                    self.lose(place, name, str(why))
                for target in kept:
                    if "@" in target:
                        self.person(target)

    def relayhost(self, setting: Setting) -> None:
        if not (value := self.value(setting)):
            return
        try:
            hop = model.NextHop.model_validate(value)
        except ValidationError:
            self.lose_setting(setting, "no host that is `[host]:port`, `domain:port`")
        else:
            self.hop = {key: part for key, part in hop.model_dump().items() if part is not None}

    def logins(self, setting: Setting) -> None:
        for word in self.words(setting):
            for place, key, value in self.rows(setting, word):
                host = f"[{self.hop.get('host')}]" if not self.hop.get("mx") else str(self.hop.get("host"))
                if self.hop and key in (host, f"{host}:{self.hop.get('port', 25)}") and ":" in value:
                    self.hop["username"], _, self.hop["password"] = value.partition(":")
                else:
                    self.lose(place, f"the login at {key}", "no next hop of the stack is called that")

    def next_hop_tls(self, setting: Setting) -> None:
        level = self.recipe.tls_levels.get(self.value(setting))
        if not self.hop or level is None:
            if self.value(setting):
                self.lose_setting(setting, "no relayhost to ask it of" if level else "no level of TLS")
        else:
            self.hop["tls"] = level
            if self.value(setting) not in (level, "secure"):
                self.lose_setting(setting, f"`tls: {level}` is next to it")

    def next_hop_ca(self, setting: Setting) -> None:
        path = self.tree.find(self.value(setting))
        if self.hop and path:
            self.hop["ca_file"] = str(path)
        elif self.value(setting):
            self.lose_setting(setting, "no relayhost that needs it" if path else "the file is not beside the configuration; `relayhost.ca_file` names one")

    def routes(self, setting: Setting) -> None:
        for word in self.words(setting):
            for place, key, value in self.rows(setting, word):
                way, _, host = value.partition(":")
                try:
                    domain = model.domain(key)
                    if way not in ("smtp", "relay", "") or not host or domain in (self.domain, *self.hosted):
                        raise ValueError("only `domain smtp:[host]:port`, for a domain of another host, is a route")
                    model.NextHop.model_validate(host)
                except ValueError as why:
                    self.lose(place, f"{key} {value}", "no host that is `[host]:port`" if isinstance(why, ValidationError) else str(why))
                else:
                    self.extra.setdefault("routes", {})[domain] = host

    # -- the whole

    def relay(self) -> None:
        """The relayhost in its shortest form; a password never goes out in clear."""
        if self.hop.get("username") and self.hop.get("tls") in ("none", "may"):
            place = self.settings[next(name for name, role in self.recipe.becomes.items() if role == "relayhost")].place
            self.lose(place, f"tls: {self.hop.pop('tls')} at the relayhost", "a password goes out over TLS alone: `tls: encrypt`")
        if self.hop.get("tls") == "verify" and re.fullmatch(r"[0-9a-f.:]*[.:][0-9a-f.:]*", str(self.hop["host"])):
            self.hop["tls"] = "encrypt"
            self.lose(self.main.name, f"verified TLS at {self.hop['host']}", "the certificate of an address cannot be verified")
        if self.hop:
            self.extra["relayhost"] = self.hop

    def result(self) -> Converted:
        self.relay()
        served = (self.domain, *self.hosted)
        for address in [one for one in self.addresses if one.rpartition("@")[2] not in served]:
            self.lose(self.main.name, f"the alias {address}", "its domain is none that the server hosts")
            del self.addresses[address]
        for name in [one for one in self.everything if one not in served]:
            self.lose(self.main.name, f"the catch-all @{name}", "the domain is none that the server hosts")
            del self.everything[name]
        users = [address for address in self.users if address not in self.addresses]
        stack: dict[str, Any] = {
            "domain": self.domain,
            "domains": list(self.hosted),
            "users": [{"address": address} for address in users],
            "aliases": self.addresses,
            "system_aliases": self.local,
            "domain_catch_all": self.everything,
            **self.extra,
            "mta": {"settings": self.native()} if self.native() else {},
        }
        stack = {key: value for key, value in stack.items() if value}
        files = [one for one in (self.main.name, self.recipe.entries_file.file) if (self.main.parent / one).is_file()]
        text = _HEAD.format(files=" and ".join(files)) + yaml.safe_dump(stack, sort_keys=False, width=150, allow_unicode=True)
        try:
            parse(text, "the stack.yaml made of it", Path())
        except BadStack as why:
            raise CheckFailed(f"{self.main}: what it says makes no stack:\n{why.message}", "mend these in a copy of the file, and try again") from why
        return Converted(text, stack, sorted(self.lost, key=self.order), "password" in self.hop)

    def order(self, lost: Lost) -> tuple[bool, str, int]:
        """The main file first, then by file and line."""
        file, _, number = lost.place.partition(":")
        return file != self.main.name, file, int(number) if number.isdigit() else 0
