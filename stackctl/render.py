"""From the model to the files of every service. Pure: the same stack and facts give the same bytes.

It reads no clock, no network and no engine; writing is for others.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stackctl import addresses
from stackctl.backends import Backend, Container, Delivery, directory, find, kdc, login_host, service_name
from stackctl.errors import UsageError
from stackctl.kerberos import Realm
from stackctl.model import STATUSES, Stack

if TYPE_CHECKING:
    from jinja2 import Environment

CONTENT_NAME = re.compile(r"content-[0-9a-f]{12}")  # by which a server is asked whether it has read a file to its end
CONFIG = "/etc/stackctl"  # where a container finds its files
RELAY_PORT = 10025  # where stores hand in mail that they make themselves; never published
HOST = "host"  # the service that people log in to, and the first label of its name
WEBMAIL = "webmail"  # the service that people read mail at with a browser
KDC = "kdc"  # the service that gives people tickets
DIRECTORY = "directory"  # the service that keeps accounts, where they are not in files
INTERNAL = "store.internal"  # the domain of mailboxes inside the MTA; .internal is reserved for private use
_QUOTAS = ("quota-enforced", "quota-warning")  # what an MTA provides that keeps a store's mailboxes to them
OnChange = Literal["accounts", "reload", "restart", "live"]


@dataclass(frozen=True)
class Service:
    """One container of the stack, as its templates see it."""

    name: str
    role: str
    backend: Backend
    hostname: str
    settings: Mapping[str, Mapping[str, Any]]
    mailbox: str = "maildir"
    delivery: str = ""
    mechanisms: tuple[str, ...] = ()
    by_mta: tuple[str, ...] = ()
    listeners: tuple[str, ...] | None = None
    mta_host: str = "mta"
    mta_relay_port: int = RELAY_PORT

    @property
    def way(self) -> Delivery:
        """How a store's mail comes."""
        return self.backend.delivery.get(self.delivery) or Delivery()

    @property
    def provides(self) -> tuple[str, ...]:
        """What its server provides, what it does for mail that comes this way, and what the MTA does."""
        return (*self.backend.provides, *self.way.provides, *self.by_mta)

    def opens(self, listener: str) -> bool:
        """Whether stack.yaml wants this listener."""
        return self.listeners is None or listener in self.listeners

    @property
    def verifiers(self) -> dict[str, tuple[str, ...]]:
        """The verifiers that the chosen mechanisms need, each with those that need it."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.mechanisms:
            if form := self.backend.mechanisms[name].verifier:
                found[form] = (*found.get(form, ()), name)
        return found

    @property
    def container(self) -> Container:
        """What the container is allowed: what its server needs, the way by which its mail comes, and the mechanisms by which people log in."""
        fixed = self.backend.container
        volumes = fixed.volumes | self.way.volumes
        for name in self.mechanisms:
            volumes |= self.backend.mechanisms[name].volumes
        return fixed.model_copy(update={"capabilities": fixed.capabilities | self.way.capabilities, "volumes": volumes})


@dataclass(frozen=True)
class Account:
    """A mailbox of a strict domain; `hash` is the bcrypt hash of its password, `quota` octets or None, `messages` how many or None.

    `sieve`: whether it has a script of its own.
    """

    address: str
    hash: str
    quota: int | None = None
    sieve: bool = False
    messages: int | None = None

    @property
    def local(self) -> str:
        """The part before the @."""
        return self.address.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """The part behind the @."""
        return self.address.rpartition("@")[2]


@dataclass(frozen=True)
class Disposable:
    """The domain in which every address exists, with one password."""

    domain: str
    hash: str


@dataclass(frozen=True)
class Route:
    """How the MTA reaches a store: at `host` within the stack's network, whose certificate says `host_name`."""

    store: str
    way: str
    host: str
    port: int | None
    path: str | None
    volume: str | None
    host_name: str
    mailbox: str = "maildir"
    list_commands: str = ""

    @property
    def suffix(self) -> str:
        """What a mailbox of this store has behind its address."""
        return f"{self.store}.{INTERNAL}"


@dataclass(frozen=True)
class Directory:
    """Where accounts are looked up: `kind` is file, or how the directory keeps them; then `path` is where it is reached."""

    kind: str
    password: str = ""
    path: str = ""


@dataclass(frozen=True)
class TlsPaths:
    """Where a container finds its certificate."""

    certificate: str = f"{CONFIG}/tls/cert.pem"
    key: str = f"{CONFIG}/tls/key.pem"
    bundle: str = f"{CONFIG}/tls/bundle.pem"
    ca: str = f"{CONFIG}/tls/ca.pem"

    def named(self, name: str) -> str:
        """Key and certificate of a host name that has its own."""
        return f"{self.bundle}.{name}"


@dataclass(frozen=True)
class Secrets:
    """What is not in stack.yaml: password hashes by address, the disposable domain's hash, and the certificate (PEM)."""

    hashes: Mapping[str, str]
    disposable_hash: str
    certificate: bytes
    key: bytes
    ca: bytes
    directory: str = ""  # the password with which the servers look accounts up
    webmail: str = ""  # the key with which a webmail encrypts what it keeps of a login
    named: Mapping[str, bytes] = field(default_factory=dict)  # key and certificate (PEM) of each host name that has its own
    verifiers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by form and address; the disposable domain is "@" and its name
    token_key: str = ""  # the public key (PEM) that tokens are checked with; no secret
    kerberos: str = ""  # the password of every service in the Kerberos realm
    crl: str = ""  # the CA's list of certificates that it took back (PEM); "" where no client shows one, or the CA signs no lists
    revoked: tuple[str, ...] = ()  # their serial numbers, in hexadecimal digits


@dataclass(frozen=True)
class File:
    """A file of a service: its octets, mode, owner (uid, gid), and what a running server needs to take it."""

    content: bytes
    mode: int
    owner: tuple[int, int]
    on_change: OnChange

    @property
    def digest(self) -> str:
        """A hash over all of it, 16 hex digits."""
        return hashlib.sha256(repr((self.mode, self.owner)).encode() + self.content).hexdigest()[:16]


Files = dict[str, File]


def services(stack: Stack) -> tuple[Service, ...]:
    """The containers of a stack, the MTA first. Raises UsageError for a backend that does not exist."""
    mta = _backend("mta", stack.mta.backend, stack.mta.version)
    offered = tuple(name for name in stack.auth.mechanisms if name in mta.mechanisms)
    found = [Service("mta", "mta", mta, f"mail.{stack.domain}", stack.mta.settings, mechanisms=offered)]
    for store in stack.stores:
        backend = _backend("store", store.backend, store.version)
        name = store.name or service_name(backend)
        way = store.delivery or next(iter(backend.delivery))
        mechanisms = (store.auth or stack.auth).mechanisms
        by_mta = _QUOTAS if keeps_quotas(stack, mta, way, store.mailbox) else ()
        found.append(Service(name, "store", backend, f"{name}.{stack.domain}", store.settings, store.mailbox, way, mechanisms, by_mta, store.listeners))
    if any("ticket" in service.verifiers for service in found):
        found.append(Service(KDC, "kdc", kdc(), f"{KDC}.{stack.domain}", {}))
    if keeper := directory(stack.accounts.backend):
        found.append(Service(DIRECTORY, "directory", keeper, f"{DIRECTORY}.{stack.domain}", {}))
    if stack.host:
        found.append(Service(HOST, "host", login_host(), stack.host_domain, {}))
    if stack.webmail:
        found.append(Service(WEBMAIL, "webmail", _backend("webmail", stack.webmail.backend, None), f"{WEBMAIL}.{stack.domain}", {}))
    return tuple(found)


def keeps_quotas(stack: Stack, mta: Backend, way: str, mailbox: str) -> bool:
    """Whether an MTA that delivers by this way keeps mailboxes of this format to their quotas. It looks for those of a directory where stack.yaml has any."""
    return mailbox in mta.keeps_quotas.get(way, ()) and (_limited(stack) or not directory(stack.accounts.backend))


def _limited(stack: Stack) -> bool:
    return bool(stack.mailbox_size_limit or any(user.quota for user in stack.users))


def certificate_names(stack: Stack) -> tuple[str, ...]:
    """The names of the stack's certificate: the MTA's host name first, loopback last."""
    hosts = [service.hostname for service in services(stack) if service.backend.has_tls]
    return tuple(dict.fromkeys([*hosts, stack.domain, *stack.tls.names, "localhost", "127.0.0.1", "::1"]))


def mailbox_addresses(stack: Stack) -> tuple[str, ...]:
    """Every mailbox of the strict domains: the users and the catch-all mailbox."""
    return addresses.mailboxes(stack)


def kerberized(stack: Stack) -> tuple[str, ...]:
    """The names, such as imap/localhost, of the services of the stack that take tickets: by each host name that a client may know."""
    kinds = {kind: None for service in services(stack) if "ticket" in service.verifiers for item in service.backend.files for kind in item.keytab}
    return tuple(f"{kind}/{host}" for kind in kinds for host in (*certificate_names(stack), *stack.tls.sni))


def with_passwords(stack: Stack) -> tuple[str, ...]:
    """Every address that has a password: the mailboxes, and the system users of the login host."""
    return (*mailbox_addresses(stack), *(stack.host_address(user) for user in (stack.host.users if stack.host else ())))


def filed(stack: Stack) -> tuple[str, ...]:
    """The mailboxes that files tell of: every one, or where there is a directory the catch-all mailbox alone."""
    return (stack.catch_all_address,) if directory(stack.accounts.backend) else mailbox_addresses(stack)


def routes(stack: Stack) -> tuple[Route, ...]:
    """The MTA's way to each store, in the order of stack.yaml."""
    found = []
    for service in (one for one in services(stack) if one.role == "store"):
        way, path = service.way, None
        if way.volume:
            path = f"{service.backend.container.volumes[way.volume]}/{service.name}"
        found.append(Route(service.name, service.delivery, service.name, way.port, path, way.volume, service.hostname, service.mailbox, way.list_commands))
    return tuple(found)


def list_store(stack: Stack) -> Route | None:
    """The MTA's way to the store that runs the mailing lists, None where there are none."""
    return next((way for way in routes(stack) if stack.lists and way.list_commands), None)


def shown(stack: Stack) -> Service | None:
    """The store whose mailboxes the webmail shows: the one that stack.yaml names, or the first one that can be shown; None where there is no webmail."""
    if not stack.webmail:
        return None
    needs = set(_backend("webmail", stack.webmail.backend, None).needs)
    stores = (one for one in services(stack) if one.role == "store" and needs <= set(one.provides))
    return next((one for one in stores if stack.webmail.store in (None, one.name)), None)


def passed_quotas(stack: Stack, service: Service) -> str:
    """What there is to say of a store whose mail comes past the quotas of the stack; "" where they hold, or where there is none."""
    if service.role != "store" or "quota-enforced" in service.provides or not _limited(stack):
        return ""
    mta = _backend("mta", stack.mta.backend, stack.mta.version)
    keep = [
        name
        for name, way in service.backend.delivery.items()
        if ("quota-enforced" in way.provides and (not way.accounts or stack.accounts.backend in way.accounts)) or keeps_quotas(stack, mta, name, service.mailbox)
    ]
    instead = f"; `delivery: {keep[0]}` keeps to it" if keep else ""
    return f"{service.name} shows a quota, but mail that comes by {service.delivery} is let in over it{instead}"


def recipients(stack: Stack, ways: Sequence[Route]) -> dict[str, list[str]]:
    """Every address that the strict domains know, with what it expands to: a mailbox in each store, or an address elsewhere.

    A domain with a catch-all of its own stands there as `@domain`. Users that a directory knows are not among them.
    """
    mailboxes = filed(stack)
    aliases = addresses.expansions(stack)

    def expand(address: str, seen: frozenset[str]) -> list[str]:
        if address in mailboxes or (address.endswith(f"@{stack.disposable}") and address not in aliases):
            return [f"{address}.{way.suffix}" for way in ways]
        if address in aliases and address not in seen:
            return [target for name in aliases[address] for target in expand(name, seen | {address})]
        return [address]

    found = {address: expand(address, frozenset()) for address in [*mailboxes, *aliases]}
    found |= {f"@{domain}": expand(address, frozenset()) for domain, address in stack.domain_catch_all.items()}
    found |= {address: [address] for address in host_addresses(stack)}
    return {address: list(dict.fromkeys(boxes)) for address, boxes in found.items()}


def host_addresses(stack: Stack) -> tuple[str, ...]:
    """Every address of the login host: its system users, and the names that RFC 5321 4.5.1 and habit want; () where there is no host."""
    names = dict.fromkeys([*(user.name for user in stack.host.users), "postmaster", "root"]) if stack.host else ()
    return tuple(f"{name}@{stack.host_domain}" for name in names)


def senders(stack: Stack) -> dict[str, list[str]]:
    """Which logins may send as an address: one's own, one's aliases, and the lists one is on, through other lists too."""
    mailboxes = mailbox_addresses(stack)
    aliases = addresses.aliases(stack)

    def owners(address: str, seen: frozenset[str]) -> list[str]:
        if address in mailboxes:
            return [address]
        return [owner for name in aliases.get(address, ()) if address not in seen for owner in owners(name, seen | {address})]

    found = {address: list(dict.fromkeys(owners(address, frozenset()))) for address in [*mailboxes, *aliases]}
    return {address: logins for address, logins in found.items() if logins}


def render(stack: Stack, service: Service, secrets: Secrets, compiled: Path | None = None) -> Files:
    """The files of one service, by path below /etc/stackctl. Raises UsageError where a template asks for what is not there.

    `compiled` is a private folder in which compiled templates are kept: compiling them is most of the time that this takes.
    """
    ways = routes(stack)
    local, _, host = stack.catch_all_address.rpartition("@")
    storage = {user.address: (user.quota and user.quota.storage) or stack.mailbox_size_limit for user in stack.users}
    messages = {user.address: user.quota.messages for user in stack.users if user.quota}
    scripted = {user.address for user in stack.users if user.filters.sieve is not None}
    realm = Realm(stack.domain)
    context = {
        "stack": stack,
        "service": service,
        "accounts": [
            Account(address, secrets.hashes[address], storage.get(address), address in scripted, messages.get(address)) for address in filed(stack)
        ],
        "scripted": scripted - set(filed(stack)),
        "directory": _directory(stack, secrets),
        "verifiers": {form: secrets.verifiers.get(form, {}) for form in service.verifiers},
        "disposable": Disposable(stack.disposable, secrets.disposable_hash),
        "statuses": STATUSES,
        "catch_all": {"local": local, "domain": host},
        "routes": ways,
        "recipients": recipients(stack, ways),
        "senders": senders(stack),
        "list_store": list_store(stack),
        # The longer name first: team-lead@ is no address for a command of team@.
        "lists": sorted(stack.lists, key=len, reverse=True),
        "system_aliases": addresses.system_aliases(stack),
        "host": stack.host,
        "shown": shown(stack),
        "webmail_key": secrets.webmail,
        "token_key": secrets.token_key,
        "realm": realm,
        "principals": _principals(stack, realm, secrets) if service.role == "kdc" else {},
        "host_hashes": {user.name: secrets.hashes[stack.host_address(user)] for user in (stack.host.users if stack.host else ())},
        "tls": TlsPaths(),
        "ca": secrets.ca.decode(),
        "crl": secrets.crl,
        "revoked": secrets.revoked,
    }
    environment = _environment(service.backend.folder / "templates", compiled)
    files: Files = {}
    taken = {way.way for way in ways} if service.role == "mta" else {service.delivery}
    for item in service.backend.files:
        if (item.ways and not taken.intersection(item.ways)) or (item.accounts and stack.accounts.backend not in item.accounts):
            continue
        if (item.verifiers and not service.verifiers) or (item.only_for and item.only_for not in service.verifiers):
            continue
        if item.keytab:
            content = realm.keytab((name for name in kerberized(stack) if name.partition("/")[0] in item.keytab), secrets.kerberos)
        else:
            content = environment.get_template(item.template).render(context).encode()
        files[item.path] = File(content, int(item.mode, 8), _owner(item.owner), item.on_change)
    files.update(_filters(stack, service))
    if service.role == "mta":
        files.update(_includes(stack))
    if not service.backend.has_tls:
        return files
    keeper = _owner(service.backend.container.tls_owner)
    files["tls/ca.pem"] = File(secrets.ca, 0o644, (0, 0), "reload")
    files["tls/cert.pem"] = File(secrets.certificate, 0o644, (0, 0), "reload")
    files["tls/key.pem"] = File(secrets.key, 0o600, keeper, "reload")
    files["tls/bundle.pem"] = File(secrets.key + secrets.certificate, 0o600, keeper, "reload")
    files |= {f"tls/bundle.pem.{name}": File(pem, 0o600, keeper, "reload") for name, pem in secrets.named.items()}
    return files


def _principals(stack: Stack, realm: Realm, secrets: Secrets) -> dict[str, str]:
    """Who is in the Kerberos realm, each with the password in hexadecimal digits: users, and services. The disposable domain has no end."""
    people = secrets.verifiers.get("ticket", {})
    return {realm.principal(address): people[address] for address in filed(stack) if address in people} | dict.fromkeys(
        kerberized(stack), secrets.kerberos.encode().hex()
    )


def _directory(stack: Stack, secrets: Secrets) -> Directory:
    keeper = directory(stack.accounts.backend)
    return Directory(stack.accounts.backend, secrets.directory, keeper.container.volumes[keeper.shared]) if keeper else Directory("file")


def _includes(stack: Stack) -> Files:
    """The files that system aliases include: a target in each line."""
    texts = {name: "".join(f"{_alias_target(target, stack)}\n" for target in targets) for name, targets in stack.included.items()}
    return {f"includes/{name}": File(text.encode(), 0o644, (0, 0), "accounts") for name, text in texts.items()}


def _alias_target(target: str, stack: Stack) -> str:
    """A target as aliases(5) wants it: a name with the MTA's own domain, so that it means the same whatever myorigin is; a command in quotes."""
    if target.startswith(addresses.INCLUDE):
        return f"{addresses.INCLUDE}{CONFIG}/includes/{target.removeprefix(addresses.INCLUDE)}"
    if target.startswith("|"):
        return '"' + target.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return target if "@" in target or target.startswith("/") else f"{target}@{stack.local_domains[0]}"


def _filters(stack: Stack, service: Service) -> Files:
    """The filter scripts that a service runs: those for everybody, and each person's own."""
    found: Files = {}
    ways = {way.way for way in routes(stack)}
    for language, places in service.backend.filters.items():
        if places.ways and not ways.intersection(places.ways):
            continue
        texts = {places.before: getattr(stack.filters, "sieve_before" if language == "sieve" else language)} if places.before else {}
        if places.default:
            texts[places.default] = getattr(stack.filters, language)
        if places.user:
            texts |= {places.user.format(address=user.address): getattr(user.filters, language) for user in stack.users}
        found |= {path: File(text.encode(), 0o644, _owner(places.owner), places.on_change) for path, text in texts.items() if text is not None}
    return found


def native(block: str, settings: Mapping[str, Any]) -> str:
    """A rendered block with the user's own settings behind it; the lines that they override are commented out.

    Understands `key = value` lines; a nested mapping becomes a `key {` section, a list words with spaces between.
    """
    if not settings:
        return block
    lines, inside, continued = [], 0, False
    for line in block.splitlines():
        key = line.partition("=")[0].strip()
        override = (inside == 0 and "=" in line and not line[:1].isspace() and not line.startswith("#") and key in settings) or (continued and line[:1].isspace())
        continued = override
        lines.append(f"# {line}" if override else line)
        if not line.lstrip().startswith("#"):
            inside += line.rstrip().endswith("{") - (line.strip() == "}")
    return "\n".join([*lines, "", "# --- From stack.yaml", *_assignments(settings), ""])


def _assignments(settings: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key} {{", *_assignments(value, indent + "  "), f"{indent}}}"]
        else:
            lines.append(f"{indent}{key} = {_word(value)}".rstrip())
    return lines


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(_word, value))
    return "" if value is None else str(value)


def _owner(text: str) -> tuple[int, int]:
    uid, _, gid = text.partition(":")
    return int(uid), int(gid)


def _backend(role: str, family: str, version: str | None) -> Backend:
    try:
        return find(role, family, version)
    except KeyError as why:
        raise UsageError(f"no {role} is called {why.args[0]}") from why


@cache
def _environment(folder: Path, compiled: Path | None) -> Environment:
    from jinja2 import Environment, FileSystemBytecodeCache, FileSystemLoader, StrictUndefined

    class Cache(FileSystemBytecodeCache):
        def dump_bytecode(self, bucket: Any) -> None:
            with contextlib.suppress(OSError):  # a full disk: it is compiled again the next time
                super().dump_bytecode(bucket)

    environment = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    if compiled:
        # A template that has changed, or another version of Python or Jinja, is noticed there and compiled anew.
        environment.bytecode_cache = Cache(str(compiled))
    environment.filters["native"] = native
    environment.filters["alias_target"] = _alias_target
    environment.filters["word"] = _word
    environment.filters["content_name"] = lambda text: f"content-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    environment.filters["re"] = lambda text: re.escape(text).replace("/", r"\/")
    return environment
