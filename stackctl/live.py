"""Changes of a running stack, effective at once: its users, aliases and domains. It starts no server and none anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from stackctl import addresses, ca, directory, lines, load, render, stack, state
from stackctl.errors import StackctlError, UsageError
from stackctl.model import Stack, address, alias_name, alias_target, domain, mailbox
from stackctl.problems import Report, valid

_CHANGES = ("added", "deleted", "changed", "replaced", "aliases", "aliases_deleted", "domains", "domains_deleted", "faults")  # of a state, by a running stack
_HINT = "an alias is an address or a name, and stands for such; a system alias for '|command' and /file too"


def user_add(known: state.State, who: str, password: str | None = None, quota: int | None = None) -> str:
    """Makes a user while the stack runs, who can receive mail and log in at once; returns the password.

    Raises UsageError for an address that is none, is there already, or is in a domain that the stack does not serve.
    """
    with changing(known) as change:
        who = valid(mailbox, who)
        here = change.stack
        if who in addresses.names(here).addresses:
            raise UsageError(f"{who} is a user, an alias or a list already", "`stackctl user passwd` sets another password")
        if directory.there_is(known) and who in directory.listed(known):
            raise UsageError(f"{who} is in the directory already", "`stackctl user passwd` sets another password")
        host = who.rpartition("@")[2]
        if host == here.disposable:
            raise UsageError(f"every address of {host} exists already", "log in with the disposable password: `stackctl endpoints --secrets`")
        if host not in here.strict_domains:
            raise UsageError(f"the stack does not serve {host}", f"it serves {', '.join(here.strict_domains)}; `stackctl domain add {host}` adds it")
        valid(partial(addresses.system_user, here), who)
        _take_password(known, who)
        known.added[who] = quota
        known.deleted = [other for other in known.deleted if other != who]
        known.changed.append(who)
        return known.credential(who, password).password


def user_password(known: state.State, who: str, password: str | None = None) -> str:
    """Sets a user's password, or makes a new one; returns it. Raises UsageError for an unknown user."""
    with changing(known) as change:
        if _only_in_directory(known, change.stack, who):
            made = state.new_credential(password)
            directory.set_password(known, valid(address, who), made.hash)
            return made.password
        who = _known(change.stack, who)
        _take_password(known, who)
        known.credentials[who] = state.new_credential(password)
        known.changed = [*dict.fromkeys([*known.changed, who])]
        return known.credentials[who].password


def user_delete(known: state.State, who: str) -> None:
    """Takes a user away: mail is refused and logins fail at once; the mailbox stays in the volume. Raises UsageError for an unknown user."""
    with changing(known) as change:
        if _only_in_directory(known, change.stack, who):
            directory.delete(known, valid(address, who))
            return
        who = _known(change.stack, who)
        _take_password(known, who)
        _take_certificates(known, who)
        known.added.pop(who, None)
        known.deleted = [*dict.fromkeys([*known.deleted, who])]
        known.changed = [other for other in known.changed if other != who]


@dataclass(frozen=True)
class Alias:
    """An alias as `alias list` shows it: a name without "@" is a system alias. `origin`: stack.yaml, added live, or built in."""

    name: str
    targets: tuple[str, ...]
    origin: str


def alias_list(known: state.State) -> tuple[Alias, ...]:
    """The aliases of a running stack, addresses first, each kind in alphabetical order."""
    base = of_file(known)
    here = stack.effective(base, known)
    written = {*addresses.aliases(base), *base.system_aliases}
    every = addresses.aliases(here) | addresses.system_aliases(here)
    origins = {name: "added live" if name in known.aliases else "stack.yaml" if name in written and name not in known.aliases_deleted else "built in" for name in every}
    return tuple(Alias(name, targets, origins[name]) for name, targets in sorted(every.items(), key=lambda row: ("@" not in row[0], row[0])))


def alias_set(known: state.State, who: str, targets: Sequence[str]) -> tuple[str, ...]:
    """Makes an alias, or points it elsewhere, while the stack runs: an address, or a name without "@" for a system alias; returns its targets.

    Raises UsageError for what is no alias or no target, for a user's address, for an unknown local target and for a ring; then nothing changes.
    """
    with changing(known) as change:
        here = change.stack
        virtual = "@" in who
        who = valid(address if virtual else alias_name, who, _HINT)
        chosen = tuple(dict.fromkeys(valid(address if virtual else alias_target, target, _HINT) for target in targets))
        if who in addresses.mailboxes(here):
            raise UsageError(f"{who} is a user", "an alias has an address of its own; `stackctl user delete` frees this one")
        if who in here.lists:
            raise UsageError(f"{who} is a mailing list", "an alias has an address of its own")
        if virtual:
            _served(here, who)
        names = addresses.names(here)
        for target in chosen:
            if target.startswith(addresses.INCLUDE) and target.removeprefix(addresses.INCLUDE) not in here.included:
                raise UsageError(f"{target}: no alias of stack.yaml includes that file", "name the addresses, or put the alias into stack.yaml")
            if addresses.is_program(target) and "alias-programs" not in (mta := render.services(here)[0].backend).provides:
                raise UsageError(f"{mta.family} runs no commands for aliases, and writes no files", "name an address")
            if names.lack(target) and target != who:
                raise UsageError(f"{target} is no user and no alias of the stack {here.name}", _meant(target, [*names.addresses, *names.system]))
        known.aliases[who] = list(chosen)
        known.aliases_deleted = [other for other in known.aliases_deleted if other != who]
    return chosen


def alias_delete(known: state.State, who: str) -> None:
    """Takes an alias away: mail for it is refused at once. Raises UsageError for one that is not there, is built in, or that others lead to."""
    with changing(known) as change:
        here = change.stack
        who = valid(address if "@" in who else alias_name, who, _HINT)
        every = addresses.aliases(here) | addresses.system_aliases(here)
        if who not in every:
            raise UsageError(f"{who} is no alias of the stack {here.name}", _meant(who, every))
        used = [name for name, nodes in addresses.graph(here).items() if who in nodes and name != who]
        used += [f"the catch-all of {domain}" for domain, target in here.domain_catch_all.items() if target == who]
        built_in = who in addresses.system_aliases(Stack())
        if built_in and who not in here.system_aliases:
            raise UsageError(f"{who} is always there", f"`stackctl alias set {who} TARGET` points it elsewhere")
        if used and not built_in:
            raise UsageError(f"{who} is what {', '.join(used)} stand{'s' * (len(used) == 1)} for", "delete or change that first")
        known.aliases.pop(who, None)
        known.aliases_deleted = [*dict.fromkeys([*known.aliases_deleted, who])]


@dataclass(frozen=True)
class Served:
    """A domain as `domain list` shows it. `unknown`: what becomes of mail to unknown addresses, `origin`: stack.yaml or added live."""

    name: str
    unknown: str
    users: int
    aliases: int
    origin: str


def domain_list(known: state.State) -> tuple[Served, ...]:
    """The domains of a running stack, the main one first and the disposable one last."""
    here = stack.effective(of_file(known), known)

    def count(where: str, names: Iterable[str]) -> int:
        return sum(name.endswith(f"@{where}") for name in names)

    rows = [
        Served(
            name,
            f"to {here.domain_catch_all[name]}" if name in here.domain_catch_all else "refused",
            count(name, (user.address for user in here.users)),
            count(name, addresses.aliases(here)),
            "added live" if name in known.domains else "stack.yaml",
        )
        for name in here.strict_domains
    ]
    return (*rows, Served(here.disposable, "a mailbox each", 0, count(here.disposable, addresses.aliases(here)), "stack.yaml"))


def domain_add(known: state.State, name: str, catch_all: str | None = None) -> str:
    """Serves one more domain while the stack runs; `catch_all` gets the mail for its unknown addresses, which is refused otherwise.

    Returns the name. Raises UsageError for a name that is none or that the stack has already, and for a catch-all who is nobody.
    """
    with changing(known) as change:
        here = change.stack
        name = valid(domain, name)
        if name in (*here.strict_domains, here.disposable, *here.local_domains) or (here.host and name == here.host_domain):
            raise UsageError(f"the stack {here.name} serves {name} already", "`stackctl domain list` shows all")
        if name == render.INTERNAL or name.endswith(f".{render.INTERNAL}"):
            raise UsageError(f"{name} is reserved: inside, the stores are addressed in {render.INTERNAL}", "choose another domain")
        who = valid(address, catch_all) if catch_all else None
        if who and addresses.names(here).lack(who):
            raise UsageError(f"{who} is no user and no alias of the stack {here.name}", _meant(who, addresses.names(here).addresses))
        known.domains_deleted = [other for other in known.domains_deleted if other != name]
        if name not in change.base.domains or who != change.base.domain_catch_all.get(name):
            known.domains[name] = who
    return name


def domain_delete(known: state.State, name: str, force: bool = False) -> tuple[str, ...]:
    """Serves a domain no longer: its mail is foreign from then on. With `force` its users and aliases go, and are returned; their mail stays in the volumes.

    Raises UsageError for the main domain, for one that is not there, and for one with users or aliases unless `force`.
    """
    with changing(known) as change:
        here = change.stack
        name = valid(domain, name)
        if name == here.domain or name not in here.strict_domains:
            why = "is the main domain" if name == here.domain else "is no domain of the stack"
            raise UsageError(f"{name} {why} {here.name}", "`stackctl domain list` shows those that can be deleted: " + ", ".join(here.strict_domains[1:]))
        inside = f"@{name}"
        users = [user.address for user in here.users if user.address.endswith(inside)]
        every = addresses.aliases(here)
        aliases = [alias for alias, targets in every.items() if alias.endswith(inside) or (targets and all(target.endswith(inside) for target in targets))]
        shortened = {
            alias: kept
            for alias, targets in (every | here.system_aliases).items()
            if alias not in aliases and (kept := [target for target in targets if not target.endswith(inside)]) != list(targets)
        }
        fixed = [what for what, target in [("catch_all", here.catch_all_address), *here.domain_catch_all.items()] if target.endswith(inside) and what != name]
        fixed += [name for name, kept in shortened.items() if not kept]
        fixed += [one for one, found in here.lists.items() if one.endswith(inside) or found.owner.endswith(inside)]
        if fixed:
            raise UsageError(f"{', '.join(fixed)}: leads to an address of {name}", "point it elsewhere first")
        gone = [*users, *aliases]
        if gone and not force:
            raise UsageError(f"{name} has {', '.join(gone[:5])}{f' and {len(gone) - 5} more' * (len(gone) > 5)}", "--force deletes them too; mail stays in the volumes")
        for who in users:
            _take_password(known, who)
            _take_certificates(known, who)
            known.added.pop(who, None)
        known.deleted = [*dict.fromkeys([*known.deleted, *users])]
        known.changed = [other for other in known.changed if other not in users]
        known.aliases = {alias: targets for alias, targets in (known.aliases | shortened).items() if alias not in aliases}
        known.aliases_deleted = [*dict.fromkeys([*known.aliases_deleted, *aliases])]
        known.domains.pop(name, None)
        known.domains_deleted = [*dict.fromkeys([*known.domains_deleted, name])]
    return tuple(gone)


def certificate_revoke(known: state.State, who: str) -> tuple[str, ...]:
    """Takes back every certificate that an address was given so far: no login with one is accepted from then on. Their serial numbers.

    Raises UsageError where there is none, and where a server would look into a list that the CA cannot sign.
    """
    with changing(known):
        who = valid(mailbox, who, "an address of the stack")
        mine = _take_certificates(known, who)
        if not mine:
            raise UsageError(f"{who} has no certificate of the stack {known.name}", f"`stackctl certs client {who}` makes one")
        authority = ca.load(Path(known.endpoints["ca"]), datetime.now(UTC)).pair
        if not ca.make_crl(authority, {}, datetime.now(UTC)):
            raise UsageError(f"{known.endpoints['ca']}: this CA may not sign lists of revoked certificates", "a CA of stackctl's own may: `unset CAROOT`, `stackctl up`")
    return mine


def reset(known: state.State) -> None:
    """Undoes every change that was made while the stack ran: users, passwords, aliases and domains are what its file says, and nothing fails on purpose."""
    lines.clear(known)
    if not known.certificate_fault and not any(getattr(known, name) for name in _CHANGES):
        return
    with changing(known):
        known.certificate_fault = ""
        for who in (*known.added, *known.changed):
            known.credentials.pop(who, None)
        known.credentials |= known.replaced
        for name in _CHANGES:
            getattr(known, name).clear()


@dataclass
class Change:
    """A stack in the middle of a change: what its file says, and with what was changed live before."""

    base: Stack
    stack: Stack


@contextmanager
def changing(known: state.State) -> Iterator[Change]:
    """Holds the stack while `known` is changed, then hands the new files to the running servers."""
    with state.lock(known.name):
        known.__dict__.update(vars(state.load(known.name)))
        base = of_file(known)
        try:
            yield Change(base, stack.effective(base, known))
            stack.apply_accounts(base, known)
        except StackctlError:
            known.__dict__.update(vars(state.load(known.name)))  # nothing of a refused change stays
            raise


def _take_password(known: state.State, who: str) -> None:
    """Takes a user's password away; one that he had before any change is remembered."""
    before = known.credentials.pop(who, None)
    if before and who not in known.added and who not in known.changed:
        known.replaced.setdefault(who, before)


def _take_certificates(known: state.State, who: str) -> tuple[str, ...]:
    """Takes back the certificates that an address was given; their serial numbers. Another account of this name has none of them."""
    mine = tuple(serial for serial, address in known.issued.items() if address == who and serial not in known.revoked)
    known.revoked |= dict.fromkeys(mine, datetime.now(UTC).isoformat(timespec="seconds"))
    return mine


def of_file(known: state.State) -> Stack:
    """What the stack's file says."""
    base = load.load(Path(known.source)).stack if known.source else Stack()
    return base.model_copy(update={"name": known.name})


def _served(here: Stack, who: str) -> None:
    """Raises UsageError for an address in a domain that is not strict."""
    host = who.rpartition("@")[2]
    if host == here.disposable:
        raise UsageError(f"every address of {host} exists already", f"use one of {', '.join(here.strict_domains)}")
    if host not in here.strict_domains:
        raise UsageError(f"the stack does not serve {host}", f"it serves {', '.join(here.strict_domains)}; `stackctl domain add {host}` adds it")


def _meant(word: str, known: Iterable[str]) -> str:
    """A hint: which name was meant."""
    return Report("").guess(word, sorted(known)) or "`stackctl alias list` and `stackctl user list` show who is there"


def users(known: state.State) -> tuple[tuple[str, str], ...]:
    """The users of a running stack, each with where he is from: stack.yaml, added live, or the directory, where its own tools added him.

    One who was taken out of the directory by its own tools is left out. Raises EngineError where the directory does not answer.
    """
    own = {account["address"]: "added live" if account["address"] in known.added else "stack.yaml" for account in known.endpoints["accounts"]}
    if not directory.there_is(known):
        return tuple(own.items())
    there = directory.listed(known)
    kept = {address: origin for address, origin in own.items() if address in there or address == known.endpoints["catch_all"]["address"]}
    return tuple((kept | {address: "directory" for address in there if address not in kept}).items())


def _only_in_directory(known: state.State, here: Stack, who: str) -> bool:
    """Whether an account was added to the directory by its own tools."""
    who = valid(address, who)
    return directory.there_is(known) and who not in render.mailbox_addresses(here) and who in directory.listed(known)


def _known(here: Stack, who: str) -> str:
    who = valid(address, who)
    if who not in render.mailbox_addresses(here):
        raise UsageError(f"{who} is no user of the stack {here.name}", f"users are {', '.join(user.address for user in here.users)}")
    if who == here.catch_all_address:
        raise UsageError(f"{who} is the catch-all mailbox", "`catch_all` in stack.yaml names another")
    return who
