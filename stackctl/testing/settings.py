"""The settings of the pytest plugin: command line, then environment, then the ini file, then the default. It starts nothing.

It loads next to nothing: every pytest with this package installed reads it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


@dataclass(frozen=True)
class Option:
    """A setting. `name` is `--stackctl-NAME`, $STACKCTL_NAME and the ini key stackctl_NAME; `choices` the words it can be, () for any text."""

    name: str
    default: str
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """How it is said on the command line."""
        return f"--stackctl-{self.name}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"STACKCTL_{self.name.upper()}"

    @property
    def key(self) -> str:
        """Its key in the ini file."""
        return f"stackctl_{self.name}"


OPTIONS = (
    Option("file", "", "the stack file; stack.yaml in the root directory where there is one, else the demo stack", "PATH"),
    Option("name", "", "which stack; the one of the stack file unless given", "NAME"),
    Option("store", "", "the store whose mailboxes are read; the first one unless given", "STORE"),
    Option("scope", "session", "how long `mail_stack` lasts", choices=("session", "package", "module", "class", "function")),
    Option("timeout", "10", "seconds that a wait lasts unless it is told otherwise", "SECONDS"),
    Option("unreachable", "fail", "what a test does that needs a stack where no container engine answers", choices=("fail", "skip")),
    Option("keep", "no", "leave a stack up that the tests brought up", choices=("yes", "no")),
)


@dataclass(frozen=True)
class Settings:
    """What the options say; None for what is not said."""

    file: Path | None
    name: str | None
    store: str | None
    scope: str
    timeout: float
    unreachable: str
    keep: bool

    def __str__(self) -> str:
        stack = f"stack {self.name}" if self.name else f"stack of {self.file}" if self.file else "demo stack"
        said = [stack, f"scope {self.scope}", f"unreachable: {self.unreachable}", *(["kept"] if self.keep else [])]
        return ", ".join(said)


def declare(parser: pytest.Parser) -> None:
    """Tells pytest of the options."""
    group = parser.getgroup("stackctl", "a real mail stack (stackctl)")
    for one in OPTIONS:
        what = f"{one.help} (${one.variable}, ini {one.key}; default: {one.default or 'none'})"
        if one.name == "keep":
            group.addoption(one.flag, dest=one.key, action="store_const", const="yes", default=None, help=what)
        else:
            group.addoption(one.flag, dest=one.key, metavar=one.metavar or "|".join(one.choices), default=None, help=what)
        parser.addini(one.key, f"{one.help}; default: {one.default or 'none'}", default="")


def read(config: pytest.Config) -> Settings:
    """The settings of this run. Raises pytest.UsageError for a value that cannot be, naming where it was said."""
    said = {one.name: _value(config, one) for one in OPTIONS}
    file, seconds = said["file"], said["timeout"]
    try:
        timeout = float(seconds[1])
    except ValueError:
        timeout = -1
    if not 0 <= timeout < 86_400:
        raise pytest.UsageError(f"{seconds[0]}: {seconds[1]!r} is no number of seconds, such as 10 or 2.5")
    if not re.fullmatch(r"[a-z0-9-]*", said["name"][1]):
        raise pytest.UsageError(f"{said['name'][0]}: {said['name'][1]!r} is no name of a stack: lower-case letters, digits and '-'")
    return Settings(_path(config, *file), said["name"][1] or None, said["store"][1] or None, said["scope"][1], timeout, said["unreachable"][1], said["keep"][1] == "yes")


def _value(config: pytest.Config, one: Option) -> tuple[str, str]:
    """Where an option was said, and what."""
    places = ((one.flag, config.getoption(one.key)), (f"${one.variable}", os.environ.get(one.variable)), (f"ini {one.key}", config.getini(one.key)))
    place, value = next(((place, str(value).strip()) for place, value in places if value), ("default", one.default))
    if one.name == "keep" and value.lower() in (*_YES, *_NO):
        value = "yes" if value.lower() in _YES else "no"
    if one.choices and value not in one.choices:
        raise pytest.UsageError(f"{place}: {value!r} is not known; it is one of {', '.join(one.choices)}")
    return place, value


def _path(config: pytest.Config, place: str, value: str) -> Path | None:
    """The stack file: what the ini file says is beside it, what is said elsewhere where pytest was started."""
    if not value:
        usual = config.rootpath / "stack.yaml"
        return usual if usual.is_file() else None
    start = (config.inipath.parent if config.inipath else config.rootpath) if place.startswith("ini ") else config.invocation_params.dir
    path = start / Path(value).expanduser()
    if not path.is_file():
        raise pytest.UsageError(f"{place}: there is no file {path}")
    return path
