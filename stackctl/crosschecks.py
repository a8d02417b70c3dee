"""What only the whole stack can tell: who is served where, which name or port is taken twice. Reads no file."""

# ruff: noqa: D102  a check is called what it looks at

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from stackctl import addresses, known, mechanisms
from stackctl.backends import Backend, account_kinds, all_backends, choices, directory, find, kdc, login_host, service_name, versions
from stackctl.model import Stack, Store
from stackctl.problems import Place, Report, shown
from stackctl.tree import Mapping, line_of, walk

LEAST_MEMORY = 6 * 1024**2  # the engine refuses a container with less
RESERVED = "store.internal"  # the part of the name space in which the MTA addresses the stores
READ_BY = "imaps"  # the listener that `up` proves a store with, and commands read mail by
SERVICES = ("mta", "mail", "directory", "host", "webmail", "kdc")  # services that are no store, and the MTA's host name: no store can be called so
_CIPHERS = re.compile(r"[A-Za-z0-9+!@=_.:-]+")  # openssl-ciphers(1), with ':' as the one separator
_MIRROR = re.compile(r"(https?://[A-Za-z0-9\[][A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]*|file:///[A-Za-z0-9._~/+,=%-]*)")  # RFC 3986 2
_RELEASE = re.compile(r"[a-z][a-z0-9-]{2,31}")


class Checks:
    """The stack as a whole. A check that builds on a key which has a problem already is left out: it would only repeat it."""

    def __init__(self, stack: Stack, tree: Mapping, report: Report) -> None:
        self.stack, self.tree, self.report = stack, tree, report
        self.seen: dict[str, tuple[str, int]] = {}  # address -> what it is, and on which line
        self.mta: Backend | None = None
        self.stores: dict[str, Backend | None] = {}  # by name; None where the backend is not known
        self.open: dict[str, tuple[str, ...]] = {}  # the listeners of a store that names them
        self.others: dict[str, Backend | None] = {}  # services that not every stack has, in the same way

    def bad(self, place: Place, message: str, hint: str = "") -> None:
        self.report.add(self.line(place), message, hint)

    def line(self, place: Place) -> int:
        return line_of(self.tree, place)

    def sound(self, *keys: str) -> bool:
        return not self.report.broken.intersection(keys)

    def run(self) -> None:
        """All of them; the order matters only where a later one uses what an earlier one learned."""
        self.domains()
        self.users()
        self.aliases()
        self.lists()
        if self.sound("users", "aliases", "lists", "system_aliases", "domain_catch_all", "catch_all", "domain", "domains"):
            self.targets()
            self.loops()
        self.servers()
        self.host()
        self.webmail()
        self.greetings()
        self.ports()
        self.values()

    # -- names and addresses

    def domains(self) -> None:
        stack = self.stack
        here: list[tuple[Place, str]] = [(("domain",), stack.domain), *((("domains", n), d) for n, d in enumerate(stack.domains))]
        first: dict[str, int] = {}
        for place, domain in here:
            if domain in first:
                again = "; `domains` are further ones" if domain == stack.domain else ""
                self.bad(place, f"domain '{domain}' is given twice", f"first on line {first[domain]}{again}")
            first.setdefault(domain, self.line(place))
            if domain in stack.local_domains:
                self.bad(place, f"'{domain}' is the MTA's own host name, in which the system aliases are", "choose another domain")
        disposable: Place = ("disposable_domain",)
        if stack.disposable in first and self.sound("domain", "disposable_domain"):
            written = stack.disposable_domain is not None
            self.bad(
                disposable if written else ("domains", stack.domains.index(stack.disposable)),
                f"'{stack.disposable}' cannot be both: in the disposable domain every address exists, in the others only users",
                "choose another" if written else "it is the default of `disposable_domain`; give that another value",
            )
            self.report.broken.add("disposable_domain")
        if len(stack.disposable) > 253:
            hint = "choose a shorter one, or give `disposable_domain`"
            self.bad(("domain",), f"domain '{shown(stack.domain)}' leaves no room for 'inbox.' before it, with 253 octets in all", hint)
        if stack.disposable_domain is not None:
            here.append((disposable, stack.disposable_domain))
        for place, domain in (*here, *((("tls", key, n), name) for key in ("names", "sni") for n, name in enumerate(getattr(stack.tls, key)))):
            self.reserved(place, domain)
        for number, name in enumerate(stack.tls.sni):
            if name in stack.tls.sni[:number]:
                self.bad(("tls", "sni", number), f"'{name}' is given twice", "")

    def reserved(self, place: Place, domain: str) -> bool:
        if domain == RESERVED or domain.endswith(f".{RESERVED}"):
            self.bad(place, f"'{domain}' is reserved: inside, the stores are addressed in '{RESERVED}'", "choose another domain")
            return True
        return False

    def served(self, what: str, address: str, place: Place, *, disposable: bool = False) -> bool:
        """Whether the stack has this address's domain among its own."""
        stack, host = self.stack, address.rpartition("@")[2]
        if not self.sound("domain", "domains", "disposable_domain"):
            return False
        if host == stack.disposable and not disposable:
            self.bad(place, f"{what} '{address}' is in the disposable domain, in which every address exists already", f"use {stack.domain}")
            return False
        if host in stack.strict_domains or host == stack.disposable:
            return True
        if not self.reserved(place, host):
            near = self.report.guess(host, stack.strict_domains)
            hint = f"{near} Else add" if near.startswith("did you mean") else "add"
            self.bad(place, f"{what} '{address}' is in a domain that the stack does not serve", f"{hint} '{host}' to `domains`")
        return False

    def claim(self, what: str, address: str, place: Place) -> None:
        """One more name for mail to arrive under; each can be only one thing."""
        line = self.line(place)
        if address in self.seen:
            other, first = self.seen[address]
            if other == what:
                self.report.add(line, f"{what} '{address}' is given twice", f"first on line {first}")
            else:
                self.report.add(line, f"{what} '{address}' is also a{'' if other == 'user' else 'n'} {other}", f"on line {first}; it can be only one")
        else:
            self.seen[address] = what, line

    def users(self) -> None:
        stack = self.stack
        for number, user in enumerate(stack.users):
            place: Place = ("users", number, "address")
            self.claim("user", user.address, place)
            self.served("user", user.address, place)
        if stack.catch_all is None:
            self.seen.setdefault(stack.catch_all_address, ("user", 1))
        for number, user in enumerate(stack.users):
            for index, alias in enumerate(user.aliases):
                place = ("users", number, "aliases", index)
                self.alias(alias, place)

    def alias(self, alias: str, place: Place) -> None:
        if alias == self.stack.catch_all_address and self.stack.catch_all is None and self.seen.get(alias) == ("user", 1):
            self.bad(place, f"alias '{alias}' is also the mailbox of mail for foreign domains", "give `catch_all` a user's address, or rename the alias")
            return
        self.claim("alias", alias, place)
        self.served("alias", alias, place)

    def aliases(self) -> None:
        written = self.tree.entries.get("aliases")
        for raw in written[1].entries if written and isinstance(written[1], Mapping) else ():
            alias = raw.lower()
            place: Place = ("aliases", raw)
            self.alias(alias, place)
            if not self.stack.aliases.get(alias, ("",)):
                self.bad(place, f"alias '{alias}' stands for nobody", "name at least one address")

    def lists(self) -> None:
        """The addresses of mailing lists."""
        for raw in self.alias_keys("lists"):
            self.claim("list", raw.lower(), ("lists", raw))
            self.served("list", raw.lower(), ("lists", raw))
            if (found := self.stack.lists.get(raw.lower())) and found.digest:
                self.claim("list", raw.lower().replace("@", "-digest@"), ("lists", raw, "digest"))

    def targets(self) -> None:
        """Whether what aliases and catch-alls name is there."""
        stack = self.stack
        self.names = addresses.names(stack)
        for raw in self.alias_keys():
            for index, target in enumerate(stack.aliases[raw.lower()]):
                self.target(f"alias '{raw.lower()}'", target, ("aliases", raw, index))
        for raw in self.alias_keys("lists"):
            found = self.stack.lists[raw.lower()]
            self.target(f"'-owner' of list '{raw.lower()}'", found.owner, ("lists", raw, "owner"))
            for index, who in enumerate(found.subscribers):
                self.target(f"list '{raw.lower()}'", who, ("lists", raw, "subscribers", index))
        for raw in self.alias_keys("system_aliases"):
            if not stack.system_aliases.get(raw.lower(), ("",)):
                self.bad(("system_aliases", raw), f"system alias '{raw.lower()}' stands for nobody", "name at least one target; /dev/null for none")
            for index, target in enumerate(stack.system_aliases[raw.lower()]):
                for one in addresses.included(stack, target):
                    self.target(f"system alias '{raw.lower()}'", one, ("system_aliases", raw, index))
        for raw in self.alias_keys("domain_catch_all"):
            place: Place = ("domain_catch_all", raw)
            if raw.lower() not in stack.strict_domains:
                self.report.add(walk(self.tree, place)[1], f"domain_catch_all: the stack does not serve '{shown(raw)}'", self.report.guess(raw, stack.strict_domains))
            self.target(f"the catch-all of '{raw.lower()}'", stack.domain_catch_all[raw.lower()], place)
        if stack.catch_all is not None and self.served("catch_all", stack.catch_all, ("catch_all",), disposable=True):
            what = self.seen.get(stack.catch_all, ("nobody", 0))[0]
            if what != "user" and not stack.catch_all.endswith(f"@{stack.disposable}"):
                hint = "name the user's own address" if what == "alias" else self.guess_address(stack.catch_all, ("user",))
                self.bad(("catch_all",), f"catch_all '{stack.catch_all}' is {'an alias' if what == 'alias' else 'no user'}: it has no mailbox", hint)

    def target(self, what: str, target: str, place: Place) -> None:
        if self.names.lack(target):
            if "@" in target:
                self.bad(place, f"{what} stands for '{target}', who is no user and no alias", self.guess_address(target))
            else:
                self.bad(place, f"{what} stands for '{target}', which is no system alias", self.report.guess(target, self.names.system))
        elif "@" in target:
            self.reserved(place, target.rpartition("@")[2])

    def guess_address(self, address: str, kinds: Sequence[str] = ("user", "alias")) -> str:
        if self.report.full or len(self.seen) > 1000:  # not worth a walk over all of them
            return ""
        return self.report.guess(address, [known for known, (what, _) in self.seen.items() if what in kinds])

    def alias_keys(self, key: str = "aliases") -> list[str]:
        """The keys of a mapping of names as they are written; of two that differ in case only, the last, which the model kept."""
        written = self.tree.entries.get(key)
        keys = written[1].entries if written and isinstance(written[1], Mapping) else {}
        return list({raw.lower(): raw for raw in keys}.values())

    def loops(self) -> None:
        """Aliases that lead back to themselves: each ring once, at the line of its first member in the file."""
        places: dict[str, Place] = {raw.lower(): (key, raw) for key in ("aliases", "system_aliases") for raw in self.alias_keys(key)}
        graph = addresses.graph(self.stack)
        done: set[str] = set()
        for start in places:
            path: dict[str, Iterator[str]] = {}
            queue = start
            while True:
                if queue not in done and queue not in path and queue in graph:
                    path[queue] = iter(graph[queue])
                elif queue in path:
                    ring = [*list(path)[list(path).index(queue) :], queue]
                    first = min((a for a in ring if a in places), key=lambda a: self.line(places[a]))
                    self.bad(places[first], f"aliases in a ring: {' -> '.join(ring)}", "let one of them stand for a user")
                while path and (following := next(path[(last := next(reversed(path)))], None)) is None:
                    done.add(last)
                    del path[last]
                if not path:
                    break
                queue = following or ""

    # -- servers

    def server(self, role: Literal["mta", "store", "webmail"], family: str, version: str | None, place: Place) -> Backend | None:
        """The backend that is meant, or a problem."""
        kinds = {"mta": "an MTA", "store": "a store", "webmail": "a webmail"}
        if family not in choices(role):
            if other := next((other for other in kinds if family in choices(other)), None):
                hint = f"it belongs under `{'stores' if other == 'store' else other}`"
                self.bad((*place, "backend"), f"'{family}' is {kinds[other]}, not {kinds[role]}", f"{hint}; {self.report.guess('', choices(role))}")
            else:
                self.bad((*place, "backend"), f"unknown backend '{shown(family)}'", self.report.guess(family, choices(role)))
            return None
        try:
            return find(role, family, version)
        except KeyError:
            there = versions(family)
            hint = f"there are: {', '.join(there)}" if there else "it has no versions to choose from; remove the key"
            self.bad((*place, "version"), f"{family} has no version '{shown(version or 'by default')}'", hint)
            return None

    def servers(self) -> None:
        stack = self.stack
        self.mta = self.server("mta", stack.mta.backend, stack.mta.version, ("mta",))
        if self.mta:
            self.settings(self.mta, stack.mta.settings, ("mta", "settings"))
        lines: dict[str, int] = {}
        for number, store in enumerate(stack.stores):
            place: Place = ("stores", number)
            backend = self.server("store", store.backend, store.version, place)
            name = store.name or (service_name(backend) if backend else store.backend)
            at = (*place, "name" if store.name else "backend")
            if name in SERVICES:
                self.bad(at, f"a store cannot be called '{name}': {'the MTA' if name in ('mta', 'mail') else 'another service'} is", "give it another `name`")
            elif name in lines:
                hint = f"the first is on line {lines[name]}; give one a `name` of its own"
                self.bad(at, f"two stores are called '{name}'", hint)
            lines.setdefault(name, self.line(at))
            self.stores[name] = backend
            if backend:
                self.settings(backend, store.settings, (*place, "settings"))
                self.store(store, backend, place)
                self.listeners(store.listeners or (), backend, (*place, "listeners"))
            if store.listeners:
                self.open[name] = store.listeners

        self.programs()
        self.certificates()
        self.directory()
        self.list_manager()
        self.tickets()
        for slip in mechanisms.slips(stack, self.report.guess) if self.sound("auth") else ():
            self.bad(*slip)

    def programs(self) -> None:
        """Whether the MTA runs the commands of system aliases, and writes their files."""
        if self.mta is None or "alias-programs" in self.mta.provides:
            return
        for raw in self.alias_keys("system_aliases") if self.sound("system_aliases") else ():
            for index, target in enumerate(self.stack.system_aliases[raw.lower()]):
                if addresses.is_program(target):
                    what = f"{self.mta.family} runs no commands for aliases, and writes no files"
                    self.bad(("system_aliases", raw, index), what, "name an address, or choose another MTA")

    def certificates(self) -> None:
        """Whether the MTA can show each name a certificate of its own."""
        if self.mta and "sni" not in self.mta.provides and self.sound("tls"):
            for number, name in enumerate(self.stack.tls.sni):
                what = f"{self.mta.family} shows one certificate, whatever name a client asks for, and '{name}' is to have its own"
                self.bad(("tls", "sni", number), what, "name it in `tls: {names: […]}`, or choose another MTA")

    def tickets(self) -> None:
        """The server that gives people tickets is there where a server takes them."""
        chosen = {name for auth in (self.stack.auth, *(store.auth for store in self.stack.stores)) if auth for name in auth.mechanisms}
        offered = [backend.mechanisms.get(name) for backend in (self.mta, *self.stores.values()) if backend for name in chosen]
        if any(mechanism and mechanism.verifier == "ticket" for mechanism in offered):
            self.others["kdc"] = kdc()

    def directory(self) -> None:
        """Whether every server can look accounts up where they are."""
        kind, place = self.stack.accounts.backend, ("accounts", "backend")
        kinds = account_kinds()
        if kind not in kinds:
            self.bad(place, f"accounts cannot be kept in '{shown(kind)}'", self.report.guess(kind, kinds))
            return
        for backend in filter(None, (self.mta, *self.stores.values())):
            if kind != "file" and kind not in backend.accounts:
                self.bad(place, f"{backend.family} cannot look accounts up in '{kind}'", self.report.guess("", account_kinds([backend])))
        for number, user in enumerate(self.stack.users):
            try:
                addresses.system_user(self.stack, user.address)
            except ValueError as why:
                self.bad(("users", number, "address"), str(why), "another address, or keep accounts in files")
        if directory(kind):
            for number, user in enumerate(self.stack.users):
                if user.quota and user.quota.messages:
                    self.bad(("users", number, "quota"), "a directory keeps quotas of storage, not of messages", "leave `messages` out, or keep accounts in files")

    def store(self, store: Store, backend: Backend, place: Place) -> None:
        """What this store is asked for, against what its backend and the MTA have."""
        if backend.mailboxes and store.mailbox not in backend.mailboxes:
            reason = f": {backend.mailbox_reason.rstrip('.')}" if backend.mailbox_reason else ""
            hint = f"`mailbox: {backend.mailboxes[0]}`, or another backend"
            self.bad((*place, "mailbox"), f"{backend.family} has no mailboxes in the format {store.mailbox}{reason}", hint)
        way = store.delivery or next(iter(backend.delivery), None)
        if way in backend.delivery and (formats := backend.delivery[way].mailboxes) and store.mailbox not in formats:
            self.bad((*place, "delivery"), f"delivery '{way}' writes {' and '.join(formats)}, and the mailboxes are {store.mailbox}", f"`mailbox: {formats[0]}`")
        kind = self.stack.accounts.backend
        if way in backend.delivery and (kinds := backend.delivery[way].accounts) and kind not in kinds:
            self.bad((*place, "delivery"), f"delivery '{way}' finds no accounts in '{shown(kind)}'", "another `delivery`, or keep accounts in files")
        ways = [w for w in backend.delivery if self.mta is None or w in self.mta.delivers]
        if way is None or way in ways:
            return
        hint = f"{'there is' if len(ways) == 1 else 'there are'}: {', '.join(ways)}" if ways else "choose another MTA or store"
        if way not in backend.delivery:
            reason = f": {why}" if (why := backend.delivery_reasons.get(way)) else ""
            self.bad((*place, "delivery"), f"{backend.family} takes no mail by '{shown(way)}'{reason}", hint)
        elif self.mta:
            self.bad((*place, "delivery"), f"{self.mta.family} delivers no mail by '{shown(way)}'", hint)

    def list_manager(self) -> None:
        """Whether a store has one, where there are lists."""
        if not self.stack.lists or not self.sound("stores"):
            return
        wanted = [(backend.family, way) for backend in all_backends().values() for way, found in backend.delivery.items() if found.list_commands]
        if not any((store.backend, store.delivery) in wanted for store in self.stack.stores):
            hint = " or ".join(f"`{{backend: {family}, delivery: {way}}}`" for family, way in wanted)
            self.bad(("lists",), "no store of this stack has a list manager", f"{hint} has one")

    def listeners(self, names: Sequence[str], backend: Backend, place: Place) -> None:
        """Whether a store has the listeners that are to be open, and the one that is needed."""
        for number, name in enumerate(names):
            if name not in backend.listeners:
                self.bad((*place, number), f"{backend.family} has no listener '{shown(name)}'", self.report.guess(name, backend.listeners))
            elif backend.listeners[name].plaintext and not self.stack.tls.plaintext_listeners:
                self.bad((*place, number), f"listener '{name}' is closed by `plaintext_listeners: false`", "keep one of them")
        if names and READ_BY not in names and self.sound("stores"):
            self.bad(place, f"listener {READ_BY} is missing, by which stackctl itself reads mail", "add it")

    def settings(self, backend: Backend, settings: known.Native, place: Place) -> None:
        for file in settings:
            if file not in backend.settings:
                key = walk(self.tree, (*place, file))[1]
                self.report.add(key, f"{backend.family} has no settings file '{shown(file)}'", self.report.guess(file, backend.settings))
        for slip in known.slips(backend, settings):
            guess = self.report.guess(slip.word, slip.candidates) if slip.candidates else ""
            hint = guess if guess.startswith("did") or slip.few else slip.hint
            self.report.add(walk(self.tree, (*place, slip.file, slip.key))[1], shown(slip.message, 160), hint)

    def host(self) -> None:
        """The login host: its domain and its people."""
        host, domain = self.stack.host, self.stack.host_domain
        if host is None:
            return
        self.others["host"] = login_host()
        taken = {*self.stack.strict_domains, self.stack.disposable, *self.stack.mydestination, *self.stack.routes}
        if domain in taken and self.sound("domain", "domains", "disposable_domain", "mydestination", "routes"):
            self.bad(("host",), f"'{domain}' is the domain of the login host's users, and of something else", "remove it there")
        if host.telnet and not self.stack.tls.plaintext_listeners:
            self.bad(("host", "telnet"), "telnet has no TLS, and `plaintext_listeners: false` leaves no port open without it", "keep one of them")
        first: dict[str, int] = {}
        for number, user in enumerate(host.users):
            place: Place = ("host", "users", number, "name")
            if user.name in first:
                self.bad(place, f"login '{user.name}' is given twice", f"first on line {first[user.name]}")
            first.setdefault(user.name, self.line(place))
            if user.name in login_host().system_users:
                self.bad(place, f"'{user.name}' is an account of the system itself", "choose another name")

    def webmail(self) -> None:
        """The webmail: its program, and the store that it shows."""
        webmail = self.stack.webmail
        if webmail is None:
            return
        backend = self.others["webmail"] = self.server("webmail", webmail.backend, None, ("webmail",))
        if not self.sound("stores"):
            return
        if webmail.store is not None and webmail.store not in self.stores:
            self.bad(("webmail", "store"), f"webmail.store: the stack has no store '{shown(webmail.store)}'", self.report.guess(webmail.store, self.stores))
            return
        asked = [self.stores[webmail.store]] if webmail.store else list(self.stores.values())
        if backend and not any(store is None or set(backend.needs) <= set(store.provides) for store in asked):
            able = dict.fromkeys(one.family for one in all_backends().values() if one.role == "store" and set(backend.needs) <= set(one.provides))
            what = f"the mailboxes of {webmail.store}" if webmail.store else "any store of this stack"
            self.bad(("webmail", "store" if webmail.store else "backend"), f"{backend.family} cannot show {what}", f"it can show {', '.join(able)}")

    def greetings(self) -> None:
        """Whether a server of the stack can say what it is to greet with."""
        there = [backend for backend in (self.mta, *self.stores.values()) if backend]
        for protocol in type(self.stack.greetings).model_fields:
            if getattr(self.stack.greetings, protocol) is not None and not any(protocol in backend.greetings for backend in there) and self.sound("stores", "mta"):
                able = ", ".join(name for name, backend in all_backends().items() if protocol in backend.greetings)
                self.bad(("greetings", protocol), f"no server of this stack has an {protocol.upper()} greeting that can be set", f"these have: {able}")

    # -- ports

    def ports(self) -> None:
        ports = self.stack.ports
        try:
            if "%" in ports.address:
                raise ValueError
            ipaddress.ip_address(ports.address)
        except ValueError:
            self.bad(("ports", "address"), f"'{shown(ports.address)}' is no IP address", "such as 127.0.0.1 or ::1")
        taken: dict[int, tuple[str, int]] = {}
        for key, port in ports.fixed.items():
            place: Place = ("ports", "fixed", key)
            if port in taken:
                self.bad(place, f"port {port} is given twice", f"first to {taken[port][0]} on line {taken[port][1]}")
            taken.setdefault(port, (key, self.line(place)))
            if self.sound("mta", "stores"):
                self.listener(key, place)

    def listener(self, key: str, place: Place) -> None:
        """Whether a service has the listener that a fixed port is given to, and whether it is open."""
        servers: dict[str, Backend | None] = {"mta": self.mta, **self.stores, **self.others}
        service, dot, name = key.partition(".")
        there = [f"{s}.{listener}" for s, backend in servers.items() if backend for listener in backend.listeners]
        if not dot:
            named = [full for full in there if full.endswith(f".{key}")]
            hint = f"write {' or '.join(named)}" if named else "write service.listener, such as mta.smtp"
            self.bad(place, f"'{shown(key)}' does not say of which service", hint)
        elif service not in servers:
            self.bad(place, f"'{shown(key)}': the stack has no service '{shown(service)}'", self.report.guess(service, servers))
        elif backend := servers[service]:
            listener = backend.listeners.get(name)
            if listener is None:
                self.bad(place, f"'{shown(key)}': {backend.family} has no listener '{shown(name)}'", self.report.guess(name, backend.listeners))
            elif name not in self.open.get(service, (name,)):
                self.bad(place, f"'{key}' is closed: the store's `listeners` do not name it", "remove the port, or add the listener")
            elif listener.plaintext and not self.stack.tls.plaintext_listeners:
                self.bad(place, f"'{key}' is closed by `plaintext_listeners: false`", "remove the port, or open the listeners")

    # -- values that need more than a type

    def values(self) -> None:
        stack = self.stack
        for number, network in enumerate(stack.mynetworks):
            self.network(network, ("mynetworks", number))
        own = {*stack.strict_domains, stack.disposable}
        for number, domain in enumerate(stack.mydestination):
            if domain in own:
                self.bad(("mydestination", number), f"'{domain}' cannot be both: its mail goes to the stores, that of mydestination stays on the MTA", "remove it here")
        for domain in stack.routes:
            if domain in own or domain in stack.mydestination:
                self.bad(("routes", domain), f"'{domain}' is a domain of this stack: its mail is handed to nobody", "a route is for another's domain")
        if stack.tls.ciphers is not None and not _CIPHERS.fullmatch(stack.tls.ciphers):
            self.bad(("tls", "ciphers"), "tls.ciphers: not a cipher list in OpenSSL's syntax", "names joined by ':', such as ECDHE+AESGCM:!aNULL")
        # The mirror is not repeated: a URL may hold a password.
        if stack.debian.mirror is not None and not _MIRROR.fullmatch(stack.debian.mirror):
            self.bad(("debian", "mirror"), "debian.mirror: not a URL that begins with http://, https:// or file:///", "without spaces and quotes")
        if stack.debian.release is not None:
            self.release(stack.debian.release)
        if stack.limits.memory is not None and stack.limits.memory < LEAST_MEMORY:
            self.bad(("limits", "memory"), f"limits.memory: {stack.limits.memory} octets are too few for any container", "at least 6M; a server needs more")

    def release(self, release: str) -> None:
        """Whether MTA and stores work with the packages of a Debian release; what else there is keeps its own."""
        place: Place = ("debian", "release")
        if not _RELEASE.fullmatch(release):
            self.bad(place, f"'{shown(release)}' is no Debian release", "a code name such as trixie")
            return
        servers = filter(None, [self.mta, *self.stores.values()])
        unfit = dict.fromkeys(f"{backend.name} with those of {' or '.join(backend.releases)}" for backend in servers if release not in backend.releases)
        if unfit:
            hint = "leave it out: each image then has a release that it works with"
            self.bad(place, f"not every server works with the packages of '{shown(release)}': {', '.join(unfit)}", hint)

    def network(self, network: str, place: Place) -> None:
        bare = network.replace("[", "").replace("]", "")
        try:
            nets = ipaddress.ip_network(bare, strict=False)
        except ValueError:
            nets = None
        if nets is None or "%" in bare or not re.fullmatch(r"[0-9a-fA-F:.]+(/[0-9]+)?", bare):
            self.bad(place, f"'{shown(network)}' is no network", "address/bits, such as 192.0.2.0/24 or 2001:db8::/32")
        elif bare != network:
            self.bad(place, f"'{shown(network)}' has brackets", f"write {bare}")
        elif ipaddress.ip_interface(network).ip != nets.network_address:
            self.bad(place, f"'{network}' names a host in a network", f"write {nets} or {network.partition('/')[0]}")
