"""The configuration of each server in its own words, of a stack that runs or of its files. It changes nothing, and shows no password.

The words come from verbs of the image: `config` (what is not the default), `config-all` (every setting in effect) and
`config-defaults`. With the argument "flat" each prints a line "NAME = VALUE" for every setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stackctl import engine, inventory, load, preview, stack, standing, state
from stackctl.backends import all_backends
from stackctl.errors import CheckFailed, UsageError
from stackctl.labels import VERBS
from stackctl.steps import Report

Words = Literal["config", "config-all", "config-defaults"]
MASK = "***"
# A hash as crypt(5) writes it, or a scheme in braces with what is behind it; and a password within the name of a table.
_HASH = re.compile(r"\{[A-Z][A-Z0-9.-]+\}[^\s,;'\"]+|\$[0-9a-z]{1,8}\$[^\s,;'\"]+")
_STATIC = re.compile(r"(static:\{?[^\s:,]+:)[^\s,}]+")


@dataclass(frozen=True)
class Shown:
    """What a service's server says. `running` tells whether the running one said it, or its image of the rendered files."""

    service: str
    backend: str
    running: bool
    text: str
    settings: dict[str, str]


@dataclass(frozen=True)
class Difference:
    """A setting that is not the server's default; `default` is None where there is none."""

    service: str
    parameter: str
    default: str | None
    here: str


@dataclass(frozen=True)
class _Source:
    """Where the servers of a stack can be asked: their containers, or their images with the rendered files."""

    known: state.State
    containers: dict[str, str]
    plan: stack.Plan | None
    images: dict[str, str]

    def services(self) -> dict[str, str]:
        """Each service with the name of its backend."""
        if self.plan:
            found = {service.name: service.backend.name for service in self.plan.services}
        else:
            found = {name: part["backend"] for name, part in state.parts(self.known.endpoints).items()}
        return {name: backend for name, backend in found.items() if "config" in all_backends()[backend].verbs}

    def ask(self, service: str, verb: Words, *arguments: str) -> str:
        argv = [f"{VERBS}/{verb}", *arguments]
        if self.plan is None:
            status, output = engine.execute(self.containers[service], argv)
        else:
            backend = self.services()[service]
            status, output = engine.try_out(self.images[backend], self.plan.files[service], argv, self.plan.stack.name)
        if status != 0:
            raise CheckFailed(f"{service}: its server cannot read its configuration:\n{self.masked(output).strip()}", "`stackctl check` says more")
        return self.masked(output)

    def masked(self, text: str) -> str:
        """A text without a password or a hash in it, whoever put it there."""
        secrets = [pair.password for pair in [*self.known.credentials.values(), *filter(None, [self.known.disposable])]]
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, MASK) if len(secret) > 5 else text
        return _STATIC.sub(rf"\1{MASK}", _HASH.sub(MASK, text))


def show(service: str | None, words: Words = "config", path: Path | None = None, name: str | None = None, report: Report = lambda _: None) -> tuple[Shown, ...]:
    """What the server of a service, or each server, says of its configuration.

    Raises UsageError for an unknown service, BadStack, EngineError, and CheckFailed where a server cannot read its files.
    """
    source = _source(path, name, report)
    chosen = _chosen(source, service)

    def one(which: str) -> Shown:
        flat = _flat(source.ask(which, words, "flat"))
        return Shown(which, source.services()[which], source.plan is None, source.ask(which, words).strip("\n"), flat)

    with ThreadPoolExecutor(len(chosen)) as pool:
        return tuple(pool.map(one, chosen))


def differences(service: str | None, path: Path | None = None, name: str | None = None, report: Report = lambda _: None) -> tuple[Difference, ...]:
    """Every setting of a service, or of all, whose value is not the server's default. Raises what `show` raises."""
    source = _source(path, name, report)
    chosen = _chosen(source, service)

    def one(which: str) -> list[Difference]:
        here, defaults = (_flat(source.ask(which, verb, "flat")) for verb in ("config", "config-defaults"))
        return [Difference(which, key, defaults.get(key), value) for key, value in here.items() if defaults.get(key) != value]

    with ThreadPoolExecutor(len(chosen)) as pool:
        return tuple(row for rows in pool.map(one, chosen) for row in rows)


def _source(path: Path | None, name: str | None, report: Report) -> _Source:
    where, _ = standing.source(path)
    known = state.load(name or standing.known_by(where) or load.load(path).stack.name)
    running = {one.service: one.id for one in inventory.containers(known.name) if one.running} if known.containers else {}
    if known.containers and set(running) >= set(known.containers):
        return _Source(known, running, None, {})
    plan, images = preview.trial(path or (Path(known.source) if known.source else None), name, report)
    return _Source(known, {}, plan, images)


def _chosen(source: _Source, service: str | None) -> Sequence[str]:
    there = source.services()
    if service is not None and service not in there:
        raise UsageError(f"the stack {source.known.name} has no service {service}", f"it has {', '.join(there)}")
    return [service] if service else list(there)


def _flat(text: str) -> dict[str, str]:
    """Lines "NAME = VALUE" as a mapping, in their order; of a name that is there twice, a list of sections say, the second gets a number."""
    found: dict[str, str] = {}
    for name, value in _pairs(text.splitlines()):
        key, number = name, 2
        while key in found:
            key, number = f"{name}#{number}", number + 1
        found[key] = value
    return found


def _pairs(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        name, equals, value = line.partition(" =")
        if equals and name.strip():
            yield name.strip(), value.strip()
