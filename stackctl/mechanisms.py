"""Which SASL mechanisms a stack asks for, against what its servers have and what its accounts hold. Pure; it knows no mechanism from inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from stackctl.backends import Backend, all_backends, find
from stackctl.model import Stack
from stackctl.problems import Place, shown

OWN = "PLAIN"  # what `up` proves a stack with, and commands read mail with

CERTIFICATE = "EXTERNAL"  # with which clients show a certificate of the CA


class Slip(NamedTuple):
    """A mechanism that cannot be had, or a list without the one that must be in it."""

    place: Place
    message: str
    hint: str


def slips(stack: Stack, guess: Callable[[str, Sequence[str]], str]) -> Iterator[Slip]:
    """Everything that is wrong with the mechanisms of a stack; `guess` says which of some words was meant. Servers that do not exist are passed over."""
    common: list[Backend] = []
    lists: list[tuple[Place, tuple[str, ...], list[Backend]]] = [(("auth", "mechanisms"), stack.auth.mechanisms, common)]
    for number, store in enumerate(stack.stores):
        backend = _backend("store", store.backend, store.version)
        if store.auth:
            lists.append((("stores", number, "auth", "mechanisms"), store.auth.mechanisms, backend))
        else:
            common += backend
    for place, names, stores in lists:
        if OWN not in names and any(map(_having, names)):
            yield Slip(place, f"mechanism {OWN} is missing, with which stackctl itself logs in", "add it")
        for number, name in enumerate(names):
            for message, hint in _one(name, stores, stack.accounts.backend, guess) if name not in names[:number] else [(f"mechanism {shown(name)} is given twice", "")]:
                yield Slip((*place, number), message, hint)
    for mta in _backend("mta", stack.mta.backend, stack.mta.version):
        for number, name in enumerate(stack.auth.mechanisms):
            yield from (Slip(("auth", "mechanisms", number), *why) for why in _unheld(name, mta, stack.accounts.backend))


def _one(name: str, stores: Sequence[Backend], accounts: str, guess: Callable[[str, Sequence[str]], str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a mechanism that these stores are to offer: message and hint."""
    having = _having(name)
    if why := _reason(name.upper()):
        yield f"mechanism {name} is not supported: {why}", guess("", _names())
    elif not having:
        yield f"unknown mechanism '{shown(name)}'", guess(name, _names())
    for backend in dict.fromkeys(store.name for store in stores) if having else ():
        if backend not in having:
            yield f"{backend} has no mechanism {name}", f"{_stores(having)}; a store can have an `auth` of its own"
    for store in stores:
        yield from _unheld(name, store, accounts)


def _unheld(name: str, server: Backend, accounts: str) -> Iterator[tuple[str, str]]:
    """What is wrong where the accounts do not hold what a mechanism needs."""
    if accounts != "file" and name in server.mechanisms and server.mechanisms[name].verifier:
        hint = f"{' or '.join(one for one, what in server.mechanisms.items() if not what.verifier)}, or keep accounts in files"
        yield f"{name} needs more of an account than the hash of its password, and accounts in '{shown(accounts)}' have no more", hint


def _names() -> list[str]:
    return list(dict.fromkeys(name for backend in all_backends().values() for name in backend.mechanisms))


def _having(name: str) -> list[str]:
    return [backend.name for backend in all_backends().values() if name in backend.mechanisms]


def _reason(name: str) -> str:
    """Why no stack can have a mechanism that servers have, or had; "" for any other."""
    return next((why for backend in all_backends().values() if (why := backend.mechanism_reasons.get(name))), "")


def _stores(having: Sequence[str]) -> str:
    able = [name for name in having if all_backends()[name].role == "store"]
    return f"these have: {', '.join(able)}" if able else "no store has it"


def _backend(role: str, family: str, version: str | None) -> list[Backend]:
    try:
        return [find(role, family, version)]
    except KeyError:
        return []
