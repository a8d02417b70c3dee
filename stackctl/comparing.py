"""The stack that stores are compared in: it comes up for that, and goes down afterwards, whatever happened. It looks at nothing itself."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stackctl import inventory, observing, running, stack, state
from stackctl.backends import all_backends
from stackctl.comparison import Comparison
from stackctl.errors import UsageError
from stackctl.steps import Report


def compare(chosen: Sequence[str], name: str, quick: bool, keep: bool, report: Report) -> Comparison:
    """Compares these stores, by the names of their backends; all that there are where none is named.

    Raises UsageError for a store that there is not, fewer than two, and a stack of that name that is there already; what `stack.up` raises.
    """
    known = {backend.name: backend for backend in all_backends().values() if backend.role == "store"}
    names = list(dict.fromkeys(chosen or sorted(known, key=lambda one: (not known[one].default, one))))
    if unknown := [one for one in names if one not in known]:
        raise UsageError(f"there is no store {', '.join(unknown)}", f"there are {', '.join(known)}")
    if len(names) < 2:
        raise UsageError(f"{names[0]} alone can be compared with nothing", f"name two or more of {', '.join(known)}, or none for all")
    if inventory.containers(name):
        raise UsageError(f"a stack {name} is there already", f"`stackctl down --name {name}` takes it down, --name chooses another")
    file = state.folder(name) / "stack.yaml"
    stores = [{"name": one.replace(".", "-"), "backend": known[one].family, **({"version": known[one].version} if known[one].version else {})} for one in names]
    state.write(file, json.dumps({"name": name, "stores": stores, "limits": {"auth_failure_delay": 0}}).encode())
    try:
        report(f"a stack with {', '.join(names)} comes up …")
        up = stack.up(file, report=report)
        return observing.look(up.state, file, quick, report)
    finally:
        if not keep:
            running.down(name, volumes=True)
