"""What can be done with a stack that is there: look at it, pause it, change its users, take it down. It starts none."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackctl import engine, load, render, stack, standing, state
from stackctl.clients.where import open_listeners
from stackctl.errors import UsageError
from stackctl.model import Stack, address


@dataclass(frozen=True)
class ServiceStatus:
    """A service as `status` shows it. `state` is the engine's word, `ports` maps listener to address:port."""

    service: str
    backend: str
    version: str
    state: str
    since: str
    ports: Mapping[str, str]


def named(name: str | None, path: Path | None = None) -> state.State:
    """The state of the stack that a command means: by its name, by its file, or the only one meant by default.

    Raises UsageError when no such stack was brought up.
    """
    where, _ = standing.source(path)
    chosen = name or standing.known_by(where) or load.load(path).stack.name
    found = state.load(chosen)
    if not found.containers:
        others = [other for other in state.names() if (one := _readable(other)) and one.containers]
        raise UsageError(f"the stack {chosen} is not up", f"`stackctl up` starts it{'; up are: ' + ', '.join(others) if others else ''}")
    return found


def endpoints(known: state.State, secrets: bool = False) -> dict[str, Any]:
    """Where everything is, as outside tools rely on it; with `secrets` the passwords are filled in."""
    found = copy.deepcopy(known.endpoints)
    if secrets and known.disposable:
        found["disposable"]["password"] = known.disposable.password
        for account in [*found["accounts"], found["catch_all"]]:
            account["password"] = known.credentials[account["address"]].password
    return found


def password_of(known: state.State, who: str) -> str:
    """The password of an address of the stack, disposable ones included. Raises UsageError for an unknown one."""
    who = who.lower()
    if known.disposable and who.endswith("@" + known.endpoints["disposable"]["domain"]):
        return known.disposable.password
    addresses = [account["address"] for account in [*known.endpoints["accounts"], known.endpoints["catch_all"]]]
    if who not in addresses:
        raise UsageError(
            f"{who} is no user of the stack {known.name}",
            f"users are {', '.join(addresses)}, and every address of {known.endpoints['disposable']['domain']}; `stackctl user add {who}` makes it one",
        )
    return known.credentials[who].password


def status(known: state.State) -> tuple[ServiceStatus, ...]:
    """Every service of a stack, the MTA first."""
    now = {one.service: one for one in engine.containers(known.name)}
    parts = {"mta": known.endpoints["mta"], **known.endpoints["stores"]}
    return tuple(
        ServiceStatus(
            name,
            part["backend"],
            part["version"],
            now[name].state if name in now else "gone",
            now[name].status if name in now else "",
            {listener: f"{host}:{port}" for listener, (host, port) in open_listeners(part).items()},
        )
        for name, part in parts.items()
    )


def pause(known: state.State) -> None:
    """Freezes every service as it is; connections stay open. Raises EngineError."""
    engine.each("pause", [one for one in engine.containers(known.name) if one.state == "running"])


def resume(known: state.State) -> None:
    """Lets a paused stack go on, in a few hundredths of a second."""
    engine.each("unpause", [one for one in engine.containers(known.name) if one.state == "paused"])


def down(name: str, volumes: bool = False) -> tuple[str, ...]:
    """Takes a stack down: containers and network, with `volumes` mail and memory too. It goes by labels, so it works after a crash as well."""
    with state.lock(name):
        here = engine.containers(name)
        engine.each("unpause", [one for one in here if one.state == "paused"])
        engine.each("stop", [one for one in here if one.state in ("running", "paused")])
        removed = engine.remove(name, volumes)
        if volumes:
            state.forget(name)
        elif (known := _readable(name)) and known.containers:
            known.containers, known.compose_digest, known.fingerprint = {}, "", ""
            state.save(known)
        return removed


def _readable(name: str) -> state.State | None:
    """The state of a stack, None where it is damaged: the next command that needs it says so."""
    with suppress(UsageError):
        return state.load(name)
    return None


def user_add(known: state.State, who: str, password: str | None = None, quota: int | None = None) -> str:
    """Makes a user while the stack runs, who can receive mail and log in at once; returns the password.

    Raises UsageError for an address that is none, is there already, or is in a domain that the stack does not serve.
    """
    with _changing(known) as change:
        who = _valid(who)
        here = change.stack
        taken = {*(user.address for user in here.users), *here.aliases, *(alias for user in here.users for alias in user.aliases), here.catch_all_address}
        if who in taken:
            raise UsageError(f"{who} is a user or an alias already", "`stackctl user passwd` sets another password")
        domain = who.rpartition("@")[2]
        if domain == here.disposable:
            raise UsageError(f"every address of {domain} exists already", "log in with the disposable password: `stackctl endpoints --secrets`")
        if domain not in here.strict_domains:
            raise UsageError(f"the stack does not serve {domain}", f"it serves {', '.join(here.strict_domains)}; add it to `domains` in stack.yaml")
        known.credentials.pop(who, None)
        known.added[who] = quota
        known.deleted = [other for other in known.deleted if other != who]
        known.changed.append(who)
        return known.credential(who, password).password


def user_password(known: state.State, who: str, password: str | None = None) -> str:
    """Sets a user's password, or makes a new one; returns it. Raises UsageError for an unknown user."""
    with _changing(known) as change:
        who = _known(change.stack, who)
        known.credentials[who] = state.new_credential(password)
        known.changed = [*dict.fromkeys([*known.changed, who])]
        return known.credentials[who].password


def user_delete(known: state.State, who: str) -> None:
    """Takes a user away: mail is refused and logins fail at once; the mailbox stays in the volume. Raises UsageError for an unknown user."""
    with _changing(known) as change:
        who = _known(change.stack, who)
        known.added.pop(who, None)
        known.deleted = [*dict.fromkeys([*known.deleted, who])]
        known.changed = [other for other in known.changed if other != who]
        known.credentials.pop(who, None)


@dataclass
class _Change:
    stack: Stack


@contextmanager
def _changing(known: state.State) -> Iterator[_Change]:
    """Holds the stack while `known` is changed, then hands the new files to the running servers."""
    with state.lock(known.name):
        known.__dict__.update(vars(state.load(known.name)))
        path = Path(known.source) if known.source else None
        base = load.load(path).stack if path else Stack()
        base = base.model_copy(update={"name": known.name})
        yield _Change(stack.effective(base, known))
        stack.apply_accounts(base, known)


def _valid(who: str) -> str:
    try:
        return address(who)
    except ValueError as why:
        raise UsageError(str(why)) from why


def _known(here: Stack, who: str) -> str:
    who = _valid(who)
    if who not in render.mailbox_addresses(here):
        raise UsageError(f"{who} is no user of the stack {here.name}", f"users are {', '.join(user.address for user in here.users)}")
    if who == here.catch_all_address:
        raise UsageError(f"{who} is the catch-all mailbox", "`catch_all` in stack.yaml names another")
    return who
