"""The other stacks that a stack hands mail to, and those that hand mail to it. It starts and renders nothing.

The two MTAs meet in a network of their own, which the stack that sends makes. Nobody else is in it; neither stack sees the
other's stores, and nothing leads outside.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stackctl import engine, inventory, load, state
from stackctl.errors import StackctlError, UsageError
from stackctl.model import NextHop, Stack


def resolved(stack: Stack) -> Stack:
    """A stack whose next hops have a host: what another stack's MTA is called comes from the memory of that stack.

    Raises UsageError for a stack that was never up, for two MTAs of one name, and for stacks that relay to each other in a ring.
    """
    if not stack.peers:
        return stack
    _no_ring(stack)
    return stack.model_copy(
        update={
            "relayhost": stack.relayhost and _hop(stack, stack.relayhost),
            "routes": {domain: _hop(stack, hop) for domain, hop in stack.routes.items()},
        }
    )


def _hop(stack: Stack, hop: NextHop) -> NextHop:
    if not hop.stack:
        return hop
    host = hop.host or state.load(hop.stack).endpoints.get("tls_name")
    if host is None:
        raise UsageError(
            f"the stack {hop.stack} was never up, so what its MTA is called is not known",
            f"`stackctl up` that one first; or say the name: `{{stack: {hop.stack}, host: mail.other.test}}`",
        )
    if host == f"mail.{stack.domain}":
        raise UsageError(f"the MTAs of {stack.name} and {hop.stack} are both called {host}: mail from one to the other would loop", "give one of them another `domain`")
    return hop.model_copy(update={"host": host})


def _no_ring(stack: Stack) -> None:
    """Foreign mail that goes round would end as a bounce after 50 hops."""
    ring, following = [stack.name], stack.relayhost.stack if stack.relayhost else None
    while following and following not in ring:
        ring.append(following)
        source, following = state.load(following).source, None
        if source:
            with suppress(StackctlError):  # what is wrong with that file is for its own `up` to say
                relayhost = load.load(Path(source)).stack.relayhost
                following = relayhost.stack if relayhost else None
    if following:
        raise UsageError(f"relayhosts in a ring: {' -> '.join([*ring[ring.index(following) :], following])}", "one of these stacks must keep foreign mail")


def meet(stack: Stack, own: str, name: str) -> tuple[str, ...]:
    """Joins the MTA of a stack that is up with those that it sends to, and those that send to it; the stacks that it waits for.

    `own` is the container of its MTA, `name` what that is called.
    """
    missing = []
    for peer in stack.peers:
        there = {one.service: one.id for one in inventory.containers(peer) if one.running}
        if "mta" in there:
            engine.join(stack.name, peer, there["mta"], sorted({str(hop.host) for hop in stack.next_hops if hop.stack == peer}))
        else:
            missing.append(peer)
    for other in inventory.wanted_by(stack.name):
        engine.join(other, stack.name, own, _called(other, stack.name) or [name])
    return tuple(missing)


def _called(other: str, peer: str) -> list[str]:
    """What another stack calls this one in its file, besides what it would be called anyway."""
    source = state.load(other).source
    with suppress(StackctlError):
        return sorted({hop.host for hop in load.load(Path(source)).stack.next_hops if hop.stack == peer and hop.host}) if source else []
    return []
