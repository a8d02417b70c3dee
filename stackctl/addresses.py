"""Who gets the mail for an address: users, aliases and system aliases as one graph. Pure: it reads no file.

A node is an address, or a name without "@" for a system alias, which local delivery looks up.
"""

from __future__ import annotations

import graphlib
from dataclasses import dataclass

from stackctl.errors import UsageError
from stackctl.model import Stack, login_name

INCLUDE = ":include:"
# RFC 2142 and the oldest of habits: what breaks is told to somebody.
CHAIN = {"mailer-daemon": "postmaster", "postmaster": "root"}


def mailboxes(stack: Stack) -> tuple[str, ...]:
    """Every mailbox of the strict domains: the users and the catch-all mailbox."""
    return tuple(dict.fromkeys([*(user.address for user in stack.users), stack.catch_all_address]))


def system_user(stack: Stack, address: str) -> str:
    """The address of a mailbox; ValueError where users are those of the system, whose names have no domain and are as useradd(8) takes them, and it cannot be one."""
    local, _, host = address.rpartition("@")
    if stack.accounts.backend == "system":
        login_name(local)
        if host != stack.domain:
            raise ValueError(f"'{address}' cannot be a system user, whose name has no domain: that is for addresses of {stack.domain}")
    return address


def aliases(stack: Stack) -> dict[str, tuple[str, ...]]:
    """The addresses that stand for others: each user's own, and those of `aliases`."""
    found: dict[str, tuple[str, ...]] = {alias: (user.address,) for user in stack.users for alias in user.aliases}
    return found | stack.aliases


def system_aliases(stack: Stack) -> dict[str, tuple[str, ...]]:
    """The names without a domain, with those that are there without being asked for."""
    # Not the first user: nobody's INBOX holds what he did not expect, and a stack may have no user.
    default = {name: (target,) for name, target in CHAIN.items()} | {"root": (stack.catch_all_address,)}
    return default | stack.system_aliases


def included(stack: Stack, target: str) -> tuple[str, ...]:
    """What a target stands for: the lines of a file for `:include:file`, itself for any other."""
    return stack.included.get(target.removeprefix(INCLUDE), ()) if target.startswith(INCLUDE) else (target,)


def is_program(target: str) -> bool:
    """Whether what a system alias stands for is a command or a file to write; /dev/null is neither, every MTA can discard."""
    return target.startswith(("|", "/")) and target != "/dev/null"


def graph(stack: Stack) -> dict[str, tuple[str, ...]]:
    """Every alias with the nodes that it leads to; commands and files are left out."""
    virtual, system, boxes = aliases(stack), system_aliases(stack), set(mailboxes(stack))
    strict, own = set(stack.strict_domains), set(stack.local_domains)

    def node(target: str) -> str:
        local, at, host = target.rpartition("@")
        there = at and (host in own or (host in strict and target not in virtual and target not in boxes and local in system))
        return local if there else target

    def nodes(targets: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(node(one) for target in targets for one in included(stack, target) if one[0] not in "|/")

    return {name: nodes(targets) for name, targets in (system | {alias: targets for alias, targets in virtual.items() if alias not in boxes}).items()}


@dataclass(frozen=True)
class Names:
    """All that can get mail in the stack's own domains."""

    addresses: frozenset[str]
    system: frozenset[str]
    strict: frozenset[str]
    local: frozenset[str]

    def lack(self, target: str) -> bool:
        """Whether a target is in one of the stack's own domains (or without a domain), and is nobody there."""
        name, at, host = target.rpartition("@")
        if not at:
            return target[0] not in "|/:" and target not in self.system
        return name not in self.system and (host in self.local or (host in self.strict and target not in self.addresses))


def names(stack: Stack) -> Names:
    """The names of a stack."""
    known = frozenset([*mailboxes(stack), *aliases(stack), *stack.lists])
    return Names(known, frozenset(system_aliases(stack)), frozenset(stack.strict_domains), frozenset(stack.local_domains))


def refuse_ring(stack: Stack) -> None:
    """Raises UsageError where aliases lead back to themselves."""
    try:
        graphlib.TopologicalSorter(graph(stack)).prepare()
    except graphlib.CycleError as why:
        ring = list(reversed(why.args[1]))
        first = ring.index(min(ring))
        raise UsageError(
            f"aliases in a ring: {' -> '.join([*ring[first:-1], *ring[:first], ring[first]])}", "let one of them stand for a user: `stackctl alias set`"
        ) from None


def expansions(stack: Stack) -> dict[str, tuple[str, ...]]:
    """Every address that the strict domains know and that is no mailbox, with what it stands for next.

    A system alias is known in each of them, by the address of the MTA's own domain; users and aliases come first.
    """
    boxes, found, system = {*mailboxes(stack), *stack.lists}, aliases(stack), system_aliases(stack)
    own = stack.local_domains[0]
    for domain in (*stack.strict_domains, stack.disposable):
        names = ["postmaster", "abuse"] if domain == stack.disposable else [*system, "abuse"]  # RFC 2142: both must reach a person
        for name in names:
            if f"{name}@{domain}" not in boxes:
                found.setdefault(f"{name}@{domain}", (f"{name}@{own}" if name in system else stack.catch_all_address,))
    return found


def people(stack: Stack, address: str) -> tuple[str, ...]:
    """The mailboxes of the strict domains that mail for an address reaches, each once; () where it reaches none."""
    boxes, next_of, system = set(mailboxes(stack)), expansions(stack), system_aliases(stack)
    found: dict[str, None] = {}
    ahead, done = [address], set()
    while ahead:
        one = ahead.pop(0)
        name, _, host = one.rpartition("@")
        if one in boxes:
            found[one] = None
        elif one not in done:
            targets = next_of.get(one) or system.get(name if host in stack.local_domains else one, ())
            ahead += [inner for target in targets for inner in included(stack, target)]
        done.add(one)
    return tuple(found)
