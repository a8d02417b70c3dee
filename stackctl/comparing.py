"""The stacks that servers are compared in: they come up for that, and go down afterwards, whatever happened. It looks at nothing itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from stackctl import inventory, observing, running, stack, state
from stackctl.backends import Backend, all_backends, service_name
from stackctl.comparison import Comparison
from stackctl.errors import UsageError
from stackctl.steps import Report

Role = Literal["store", "mta"]


def compare(chosen: Sequence[str], role: Role, name: str, extent: observing.Extent, keep: bool, report: Report) -> Comparison:
    """Compares servers of one role, by the names of their backends or families; all that there are where none is named.

    Stores stand behind one MTA in a stack of that name; each MTA is in a stack of its own, NAME-MTA, all with the same stores.
    Raises UsageError for a server that there is not, fewer than two, and a stack of such a name that is there already; what `stack.up` raises.
    """
    backends = _chosen(chosen, role)
    files = {name: _of_stores(name, backends)} if role == "store" else {f"{name}-{service_name(one)}": _of_mta(f"{name}-{service_name(one)}", one) for one in backends}
    for one in files:
        if inventory.containers(one):
            raise UsageError(f"a stack {one} is there already", f"`stackctl down --name {one}` takes it down, --name chooses another")
    contestants: list[observing.Contestant] = []
    with ExitStack() as afterwards:
        for one, content in files.items():
            if not keep:
                afterwards.callback(running.down, one, volumes=True)
            report(f"a stack {one} comes up with {', '.join(backend.name for backend in backends) if role == 'store' else content['mta']['backend']} …")
            file = state.folder(one) / "stack.yaml"
            state.write(file, json.dumps(content).encode())
            contestants += _contestants(stack.up(file, report=report).state, file, role, backends)
        return observing.look(contestants, role, extent, report)


def _chosen(chosen: Sequence[str], role: Role) -> list[Backend]:
    known = {backend.name: backend for backend in all_backends().values() if backend.role == role}
    families = {backend.family: backend.name for backend in known.values() if backend.default}
    named = [one if one in known else families.get(one, one) for one in chosen]  # what stack.yaml calls it will do
    names = list(dict.fromkeys(named or sorted(known, key=lambda one: (not known[one].default, one))))
    if unknown := [one for one in names if one not in known]:
        raise UsageError(f"there is no {role} {', '.join(unknown)}", f"there are {', '.join(known)}")
    if len(names) < 2:
        raise UsageError(f"{names[0]} alone can be compared with nothing", f"name two or more of {', '.join(known)}, or none for all")
    return [known[one] for one in names]


def _of_stores(name: str, backends: Sequence[Backend]) -> dict[str, Any]:
    stores = [{"name": service_name(one), "backend": one.family, **({"version": one.version} if one.version else {})} for one in backends]
    return {"name": name, "stores": stores, "limits": {"auth_failure_delay": 0}}


def _of_mta(name: str, backend: Backend) -> dict[str, Any]:
    return {"name": name, "mta": {"backend": backend.family}, "limits": {"auth_failure_delay": 0}}


def _contestants(known: state.State, file: Path, role: Role, backends: Sequence[Backend]) -> list[observing.Contestant]:
    found = running.endpoints(known, secrets=True)
    if role == "store":
        return [observing.Contestant(service_name(one), service_name(one), known, file, found) for one in backends]
    return [observing.Contestant(found["mta"]["backend"], "mta", known, file, found)]
