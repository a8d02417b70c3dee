"""What a person has in a store besides messages: Sieve scripts, rights that others were given, annotations. What another store can have too is put there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stackctl.clients.imap import Imap
from stackctl.clients.managesieve import ManageSieve
from stackctl.clients.where import Where, open_listeners
from stackctl.errors import StackctlError

_SIEVE = "sieve"  # the listener


@dataclass(frozen=True)
class Belongings:
    """Scripts by name with their text, None for a store without ManageSieve; which is active; for each folder who but its owner has which rights."""

    scripts: Mapping[str, bytes] | None = None
    active: str = ""
    rights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read(endpoints: Mapping[str, Any], store: str, who: str, password: str) -> Belongings:
    """What a person has there, by ManageSieve (RFC 5804) and ACL (RFC 4314), where the store has them."""
    opened = open_listeners(endpoints["stores"][store])
    scripts, active = None, ""
    if _SIEVE in opened:
        with ManageSieve(Where.of(endpoints, store, _SIEVE)) as sieve:
            sieve.login(who, password)
            names = sieve.scripts()
            scripts = {name: sieve.get(name) for name in names}
            active = next((name for name, runs in names.items() if runs), "")
    listener = next((name for name in ("imaps", "imap") if name in opened), None)
    if not listener:
        return Belongings(scripts, active)
    with Imap(Where.of(endpoints, store, listener)) as imap:
        imap.login(who, password)
        return Belongings(scripts, active, _rights(imap, who))


def _rights(imap: Imap, who: str) -> dict[str, dict[str, str]]:
    if "ACL" not in imap.capabilities:
        return {}
    own = {who.lower(), "owner", "administrators"}
    found = {}
    for _, _, name in imap.listed():
        rights = {given: letters for given, letters in imap.rights(name).items() if given.lower() not in own and letters}
        if rights:
            found["INBOX" if name.upper() == "INBOX" else name.removeprefix(imap.prefix)] = rights
    return found


def carry(endpoints: Mapping[str, Any], target: str, who: str, password: str, had: Belongings, replace: bool) -> list[str]:
    """Puts scripts into another store, and makes the active one active; what could not be, in words. A script of the same name stays, unless `replace`."""
    left = [f"rights on {folder} are not kept: {', '.join(f'{given} {letters}' for given, letters in rights.items())}" for folder, rights in had.rights.items()]
    if not had.scripts:
        return left
    if _SIEVE not in open_listeners(endpoints["stores"][target]):
        return [*(f"the Sieve script {name} is not kept: {target} has none" for name in had.scripts), *left]
    with ManageSieve(Where.of(endpoints, target, _SIEVE)) as sieve:
        sieve.login(who, password)
        there = sieve.scripts()
        for name, text in had.scripts.items():
            if name in there and not replace and sieve.get(name) != text:
                left.append(f"the Sieve script {name} is another one in {target}, and stays; --replace puts this one in its place")
                continue
            try:
                sieve.put(name, text)
            except StackctlError as why:
                left.append(f"the Sieve script {name} is not kept: {target} refuses it: {why.message}")
                continue
            if name == had.active and (replace or not any(there.values())):
                sieve.activate(name)
    return left
