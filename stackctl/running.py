"""What can be done with a stack that is there: find it, look at it, pause it, take it down. It starts and changes none, and loads no model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stackctl import engine, inventory, standing, state
from stackctl.clients.where import open_listeners
from stackctl.errors import CheckFailed, UsageError


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
    chosen = name or standing.known_by(where)
    if not chosen:
        from stackctl import load

        chosen = load.load(path).stack.name
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
        for account in [*found["accounts"], *found.get("host", {}).get("accounts", ()), found["catch_all"]]:
            account["password"] = known.credentials[account["address"]].password
    return found


def environment(found: Mapping[str, Any]) -> dict[str, str]:
    """What `endpoints` gives as environment variables, for a program under test; the passwords too where they are filled in."""
    variables = {"STACKCTL_NAME": found["name"], "MAIL_DOMAIN": found["domain"], "MAIL_CA": found["ca"], "MAIL_TLS_NAME": found["tls_name"]}
    for service, part in state.parts(found).items():
        for listener, (host, port) in open_listeners(part).items():
            prefix = f"MAIL_{'' if service == 'mta' else service + '_'}{listener}".upper().replace("-", "_")
            variables |= {f"{prefix}_HOST": host, f"{prefix}_PORT": str(port)}
    if found["disposable"]["password"]:
        for account in found["accounts"]:
            variables[_variable(account["address"], found["domain"])] = account["password"]
        variables["MAIL_DISPOSABLE_PASSWORD"] = found["disposable"]["password"]
    variables["MAIL_DISPOSABLE_DOMAIN"] = found["disposable"]["domain"]
    return variables


def _variable(address: str, domain: str) -> str:
    """The variable of a user's password: MAIL_PASSWORD_ALICE; a user of another domain than the main one has that in it too."""
    named = address.removesuffix(f"@{domain}")
    return "MAIL_PASSWORD_" + re.sub(r"[^A-Z0-9]", "_", named.upper())


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


def stores(known: state.State, one: str | None = None) -> tuple[str, ...]:
    """The stores that a command means: `one`, or all. Raises UsageError for one that is not there."""
    there = tuple(known.endpoints["stores"])
    if one is not None and one not in there:
        raise UsageError(f"the stack {known.name} has no store {one}", f"it has {', '.join(there)}")
    return (one,) if one else there


def client_certificate(known: state.State, who: str) -> dict[str, str]:
    """Makes a certificate for a client of an address of the stack, disposable ones included; where it is, its key, and how long it is good.

    Raises UsageError for an unknown address, or one that the CA may not sign for.
    """
    from stackctl import ca, certificate
    from stackctl.model import mailbox
    from stackctl.problems import valid

    who = valid(mailbox, who, "an address of the stack")
    password_of(known, who)  # there is one for whoever has a mailbox
    now = datetime.now(UTC)
    made = ca.make_client(ca.load(Path(known.endpoints["ca"]), now).pair, who, now)
    folder = state.folder(known.name) / "clients" / who
    state.write(folder / "key.pem", made.key)
    state.write(folder / "cert.pem", made.certificate)
    with state.lock(known.name):
        now_known = state.load(known.name)
        now_known.issued[certificate.serial(made.certificate)] = who
        state.save(now_known)
    until = datetime.fromtimestamp(certificate.validity(made.certificate)[1], UTC)
    return {"address": who, "certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem"), "until": until.isoformat()}


def token(known: state.State, who: str, seconds: int) -> dict[str, str]:
    """Makes a token for an address of the stack, disposable ones included, that is good for this long; the token, and until when.

    Raises UsageError for an unknown address, and where no server of the stack takes tokens.
    """
    from stackctl import tokens
    from stackctl.model import mailbox
    from stackctl.problems import valid

    if not known.token_key:
        raise UsageError(
            f"no server of the stack {known.name} takes tokens", "add OAUTHBEARER or XOAUTH2 to `auth: {mechanisms: [PLAIN, …]}` of stack.yaml, then `stackctl up`"
        )
    who = valid(mailbox, who, "an address of the stack")
    password_of(known, who)  # there is one for whoever has a mailbox
    said = tokens.claims(known.endpoints["domain"], who, int(datetime.now(UTC).timestamp()), seconds)
    return {"address": who, "token": tokens.signed(known.token_key, said), "until": datetime.fromtimestamp(said["exp"], UTC).isoformat()}


def krb5_conf(known: state.State) -> dict[str, str]:
    """What a client must know to get tickets of the stack: the realm, where its KDC is, and both as a krb5.conf(5).

    Raises UsageError where no server of the stack takes tickets.
    """
    from stackctl.kerberos import Realm

    if not known.kerberos:
        raise UsageError(
            f"no server of the stack {known.name} takes tickets", "add GSSAPI to `auth: {mechanisms: [PLAIN, …]}` of stack.yaml, then `stackctl up`"
        )
    host, port = known.endpoints["kdc"]["kerberos"]
    realm = Realm(known.endpoints["domain"])
    return {"realm": realm.name, "kdc": f"{host}:{port}", "krb5_conf": realm.client(host, port)}


def status(known: state.State) -> tuple[ServiceStatus, ...]:
    """Every service of a stack, the MTA first."""
    now = {one.service: one for one in inventory.containers(known.name)}
    parts = state.parts(known.endpoints)
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


def require(known: state.State, services: Iterable[str]) -> None:
    """Raises CheckFailed unless the servers of all these services run."""
    states = {one.service: one.state for one in inventory.containers(known.name)}
    for service in services:
        if (now := states.get(service, "gone")) != "running":
            raise CheckFailed(f"{service} of the stack {known.name} does not run ({now})", "`stackctl resume` wakes a paused stack, `stackctl up` starts one")


def pause(known: state.State) -> None:
    """Freezes every service as it is; connections stay open. Raises EngineError."""
    engine.each("pause", [one for one in inventory.containers(known.name) if one.state == "running"])


def resume(known: state.State) -> None:
    """Lets a paused stack go on, in a few hundredths of a second."""
    engine.each("unpause", [one for one in inventory.containers(known.name) if one.state == "paused"])


def down(name: str, volumes: bool = False) -> tuple[str, ...]:
    """Takes a stack down: containers and network, with `volumes` mail and memory too. It goes by labels, so it works after a crash as well."""
    with state.lock(name):
        here = inventory.containers(name)
        engine.each("unpause", [one for one in here if one.state == "paused"])
        engine.each("stop", [one for one in here if one.state in ("running", "paused")])
        removed = engine.remove(name, volumes)
        if volumes:
            state.forget(name)
        elif (known := _readable(name)) and known.containers:
            known.containers = {}
            state.save(known)
        return removed


def _readable(name: str) -> state.State | None:
    """The state of a stack, None where it is damaged: the next command that needs it says so."""
    with suppress(UsageError):
        return state.load(name)
    return None
