"""The engines that a test can run on: every backend that can be a store. It starts none."""

from __future__ import annotations

from stackctl.backends import all_backends
from stackctl.errors import UsageError
from stackctl.state import State


def names(chosen: tuple[str, ...] = ()) -> list[str]:
    """The names of all engines, those of the built-in stack first; or those that were chosen. Raises UsageError for one that is none."""
    stores = [one for one in all_backends().values() if one.role == "store"]
    there = [one.name for one in sorted(stores, key=lambda one: not one.default)]
    if unknown := [name for name in chosen if name not in there]:
        raise UsageError(f"mail_engines: there is no engine {', '.join(map(repr, unknown))}", f"there are {', '.join(there)}")
    return list(chosen) or there


def store_of(known: State, engine: str) -> str | None:
    """The first store of a stack that this engine is, None without one."""
    return next((name for name, store in known.endpoints["stores"].items() if store["backend"] == engine), None)


def stack_file() -> str:
    """A stack.yaml with a store of every engine."""
    import yaml

    stores = [all_backends()[name] for name in names()]
    rows = [{"name": one.name.replace(".", "-"), "backend": one.family, **({"version": one.version} if one.version else {})} for one in stores]
    return yaml.safe_dump({"stores": rows}, sort_keys=False)
