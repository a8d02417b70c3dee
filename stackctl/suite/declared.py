"""What stack.yaml says of the running stack, for the scenarios that depend on it. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stackctl import load, stack, state
from stackctl.errors import StackctlError
from stackctl.model import Stack
from stackctl.scenario import Context, Skipped


def declared(context: Context, what: str = "", when: Callable[[Stack], object] = lambda _: True) -> Stack:
    """The stack's model with what was added and deleted live. Raises Skipped unless `when` holds for it, or where the file is gone."""
    known = state.load(context.endpoints["name"])
    try:
        found = stack.effective(load.load(Path(known.source)).stack if known.source else Stack(), known)
    except StackctlError as why:
        raise Skipped(f"the stack's file cannot be read any more: {why.message}") from why
    if not when(found):
        raise Skipped(f"only where {what}; stack.yaml says otherwise")
    return found
