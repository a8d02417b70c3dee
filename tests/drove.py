"""Which servers a test drove: those that the program's clients spoke to, and those in whose containers something ran. It is told of none."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, wraps
from typing import Any

import pytest
from docker.api.exec_api import ExecApiMixin

from stackctl import command, inventory, state
from stackctl.backends import Backend, all_backends, service_name
from stackctl.clients.where import Where
from stackctl.errors import StackctlError
from stackctl.scenario import Case

seen: set[str] = set()
by_fixture: dict[int, set[str]] = {}  # what was driven while a fixture was made, by the identity of its definition
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_every_thread = False  # a test's own thread alone, for others may belong to other tests


def pytest_configure() -> None:
    watch()


def watch(every_thread: bool = False) -> None:
    """From now on `seen` grows."""
    global _every_thread
    _every_thread = every_thread
    of: Callable[..., Where] = Where.of.__func__  # type: ignore[attr-defined]
    run, create = command.run, ExecApiMixin.exec_create

    def spoken(cls: type[Where], endpoints: Mapping[str, Any], service: str, listener: str) -> Where:
        found = of(cls, endpoints, service, listener)
        _note(state.parts(endpoints)[service]["backend"])
        return found

    @wraps(run)
    def executed(argv: Sequence[str], *more: Any, **options: Any) -> Any:
        ran(argv)
        return run(argv, *more, **options)

    def created(self: ExecApiMixin, container: Any, *more: Any, **options: Any) -> Any:
        ran(["docker", "exec", str(container)])
        return create(self, container, *more, **options)

    setattr(Where, "of", classmethod(spoken))  # noqa: B010
    command.run = executed
    ExecApiMixin.exec_create = created  # type: ignore[method-assign]


def ran(argv: Sequence[str]) -> None:
    """A command was started; it counts where it is one in a container."""
    if tuple(argv[:2]) == ("docker", "exec"):
        for word in argv:
            if _CONTAINER.fullmatch(word):
                _note(_backend(word))


def _note(backend: str) -> None:
    if backend and (_every_thread or threading.current_thread() is threading.main_thread()):
        seen.add(backend)


@cache
def _backend(container: str) -> str:
    with suppress(StackctlError):  # it is gone
        tag = str(inventory.inspect(container)["Config"]["Image"])
        return tag.removeprefix("stackctl/").partition(":")[0] if tag.startswith("stackctl/") else ""
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Any:
    """Keeps apart what the making of a fixture drives, in all of its threads."""
    global _every_thread
    before, _every_thread = set(seen), True
    seen.clear()
    try:
        return (yield)
    finally:
        by_fixture[id(fixturedef)] = set(seen)
        _every_thread = False
        seen.clear()
        seen.update(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Adds the properties `server` and `real` to a test that is marked with a feature, unless it has them itself."""
    seen.clear()
    try:
        return (yield)
    finally:
        if item.get_closest_marker("feature"):
            item.user_properties += [(key, value) for key, value in of(item) if key not in {name for name, _ in item.user_properties}]


def of(item: pytest.Item) -> list[tuple[str, str]]:
    """What its parameters name, and what it drove itself; where that is nothing, what its fixtures drove."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    found = set(_named(params.values())) | seen
    real = bool(seen or item.get_closest_marker("e2e"))
    if not found and real and isinstance(item, pytest.Function):
        definitions = item._fixtureinfo.name2fixturedefs
        found = {name for fixture in item.fixturenames for one in definitions.get(fixture, ()) for name in by_fixture.get(id(one), ())}
    return [("server", name) for name in sorted(found)] + ([("real", "yes")] if real else [])


def _named(values: Iterable[Any]) -> Iterable[str]:
    names = {name: backend.name for backend in all_backends().values() for name in (backend.name, service_name(backend))}
    for value in values:
        if isinstance(value, Backend):
            yield value.name
        elif isinstance(value, Case):
            yield from _named([value.store])
        elif isinstance(value, str):
            if value in names:
                yield names[value]
        elif isinstance(value, list | tuple | set | frozenset):
            yield from _named(value)
