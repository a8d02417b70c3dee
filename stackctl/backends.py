"""What a server can do: images/<backend>/backend.yaml as frozen values. Never starts one.

Everything that is particular to a server is in its folder; shared code asks here what a backend
provides and never which one it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stackctl.errors import UsageError
from stackctl.logformat import Log
from stackctl.resource import resource as resource

# What settings are about, where configurations are compared.
TOPICS = ("mail location", "accounts and logins", "TLS", "listeners", "delivery", "limits")
Topic = Literal["mail location", "accounts and logins", "TLS", "listeners", "delivery", "limits"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listener(_Frozen):
    """A port inside the container. `tls`: implicit from the first octet, starttls, or none at all."""

    port: int
    protocol: Literal["smtp", "imap", "pop3", "managesieve", "http", "telnet", "kerberos"]
    tls: Literal["implicit", "starttls", "none"]
    login: bool = Field(True, description="Whether clients log in here")
    awaited: bool = Field(True, description="Whether `up` waits until it answers; mail flows without one that is not")

    @property
    def plaintext(self) -> bool:
        """Whether it is for logins and starts in plain text, so that `plaintext_listeners: false` closes it."""
        return self.tls != "implicit" and self.login and self.protocol != "managesieve"


class Mechanism(_Frozen):
    """A SASL mechanism that a server has. `verifier`: what it must know for it besides the hash that every account has.

    That is the password in another form, or (certificate, token, ticket) only that such a thing is enough.
    """

    verifier: Literal["", "plain", "cram-md5", "digest-md5", "scram-sha-1", "scram-sha-256", "otp", "certificate", "token", "ticket"] = ""
    volumes: dict[str, str] = Field(default_factory=dict, description="Where the server keeps what each login changes: volume name to mount point; kept over down")


class Delivery(_Frozen):
    """A way for the MTA to hand mail over: to `port`, or into the store's `volume` (its path is the same in both)."""

    port: int | None = None
    volume: str | None = None
    mailboxes: tuple[str, ...] = Field((), description="The mailbox formats that it writes, where not every one that the store has")
    accounts: tuple[str, ...] = Field((), description="The ways of keeping accounts that it can look up, where not every one that the store can")
    provides: tuple[str, ...] = Field((), description="What the store provides for mail that comes this way, besides what it always does")
    list_commands: str = Field(
        "", description='What may stand behind a mailing list\'s name and `-`, a regular expression (POSIX extended); "" for a store that runs no lists'
    )
    # What the store is allowed for it, besides what `container` says.
    capabilities: dict[str, str] = Field(default_factory=dict, description="Each with the reason why it is needed")
    volumes: dict[str, str] = Field(default_factory=dict, description="Volume name to mount point; kept over down")


class ConfigFile(_Frozen):
    """A rendered file below /etc/stackctl. `on_change`: what makes a running server take a new version of it.

    accounts: the verb accounts-changed; reload: the verb reload; restart: a new container; live: nothing, it is read each time.
    """

    template: str = ""
    path: str
    owner: str = "0:0"
    mode: str = "0644"
    on_change: Literal["accounts", "reload", "restart", "live"] = "reload"
    secret: bool = Field(False, description="Whether it is never shown: it holds a password in clear, or what each machine has its own of")
    accounts: tuple[str, ...] = Field((), description="Only where accounts are kept in one of these ways; () for always")
    ways: tuple[str, ...] = Field((), description="The deliveries that need it, to a store or by an MTA; () for a file that is always there")
    verifiers: bool = Field(False, description="Only where a mechanism is chosen that needs a verifier")
    only_for: Literal["", "otp", "certificate", "token", "ticket"] = Field("", description="Only where a mechanism is chosen that takes such")
    keytab: tuple[str, ...] = Field((), description="In place of a template: it holds the keys of these services in the Kerberos realm")


class FilterPlaces(_Frozen):
    """Where the scripts of a filter language go, below /etc/stackctl. `user` holds {address}; `default` is for those without their own. "" where it has no such."""

    user: str = ""
    before: str = ""
    default: str | None = None
    owner: str = "0:0"
    on_change: Literal["restart", "live"] = "live"
    ways: tuple[str, ...] = Field((), description="The deliveries of a store whose filters this server runs; () for its own mailboxes, by any way")


class Container(_Frozen):
    """What the service is allowed. Every capability carries the reason why it is needed."""

    user: str | None = None
    capabilities: dict[str, str] = Field(default_factory=dict)
    tmpfs: dict[str, str] = Field(default_factory=dict, description="Mount point to options, such as mode=0755,uid=5000")
    volumes: dict[str, str] = Field(default_factory=dict, description="Volume name to mount point; kept over down")
    stop_signal: str = "SIGTERM"
    tls_owner: str = Field("0:0", description="uid:gid that owns the private key")


class Shape(_Frozen):
    """What an entry of a native file looks like: regular expressions (Python's) for the whole of its key, and of its value.

    A named group must match one of the words that `Known.words` has for it; one with the name of a native file, a name that this file knows.
    """

    key: str
    value: str = ""
    example: str = Field("", description="What a right value looks like, for whoever wrote a wrong one")


class Known(_Frozen):
    """What a native file may say, as far as it can be told without its server: a slip is named before anything starts.

    Without `shapes` the keys are names. Regular expressions are Python's, and compiled only where there is something to look at.
    """

    names: str = Field("", description="A file of this folder with every name, one a line")
    numbers: tuple[str, ...] = Field((), description="Names whose value the server reads as a whole number, and anything else as 0")
    patterns: tuple[str, ...] = Field((), description="Further names; a group `entry` must be an entry, known or made by the user")
    entries: tuple[str, ...] = Field((), description="The entries that there are already")
    entries_of: str = Field("", description="The native file whose keys are entries too")
    used: tuple[str, ...] = Field((), description="A name is right as well where another setting's value refers to it so: group `name`")
    begun: tuple[str, ...] = Field((), description="And any name that begins with such a name and `_`")
    listed: tuple[str, ...] = Field((), description="Settings whose value is a list of further names")
    shapes: tuple[Shape, ...] = ()
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="What named groups of shapes may be")
    inside: str = Field("", description="What is found in a value, with a group that has the name of a native file")


class Backend(_Frozen):
    """One server: the folder images/<name>."""

    name: str
    family: str = Field(description="What stack.yaml calls it; several versions share one")
    version: str | None = Field(None, description="What stack.yaml's version key says, where a family has several")
    default: bool = Field(True, description="Whether it is its family's choice when no version is given")
    role: Literal["mta", "store", "directory", "host", "webmail", "kdc", "line"]
    summary: str
    release: str = Field(description="The Debian release whose packages it is built from")
    other_releases: tuple[str, ...] = Field((), description="Further ones whose packages it works with, where stack.yaml chooses one")
    listeners: dict[str, Listener]
    provides: tuple[str, ...] = Field((), description="Capabilities that scenarios and commands ask for")
    lacks: dict[str, str] = Field(default_factory=dict, description="What others of its role provide and it does not: each with the reason")
    statuses: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Enhanced status codes (RFC 3463), each with what it says in their place: right too, but less exact (role mta)"
    )
    delivery: dict[str, Delivery] = Field(default_factory=dict, description="Ways in, the default first (role store)")
    delivery_reasons: dict[str, str] = Field(default_factory=dict, description="Why other ways are refused: way to reason")
    system_users: tuple[str, ...] = Field((), description="The accounts of the system itself, which no person can have (role host)")
    mechanisms: dict[str, Mechanism] = Field(default_factory=dict, description="The SASL mechanisms that stack.yaml can choose (mta, store)")
    mechanism_reasons: dict[str, str] = Field(default_factory=dict, description="Why others, that such a server has or had, cannot be chosen")
    speaks_old_tls: bool = Field(False, description="Whether its templates limit TLS to versions 1.0 and 1.1, where the stack's certificate_fault is old-tls")
    greetings: tuple[str, ...] = Field((), description="The protocols whose greeting can be set")
    delivers: tuple[str, ...] = Field((), description="Ways that it can deliver (role mta)")
    keeps_quotas: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Those of them in which it keeps mailboxes to quotas itself, and warns, each with their formats (role mta)"
    )
    mailboxes: tuple[str, ...] = ()
    mailbox_reason: str = Field("", description="Why other mailbox formats are refused")
    migrates_into: tuple[str, ...] = Field((), description="Those of them into which mailboxes of other stores can be moved, with the verb migrate")
    settings: tuple[str, ...] = Field((), description="Native files that take pass-through settings")
    known: dict[str, Known] = Field(default_factory=dict, description="What these files may say")
    accounts: tuple[str, ...] = Field((), description="Where it can look accounts up (mta, store); which way of keeping them it is (directory)")
    shared: str = Field("", description="The volume by which the others reach it, at the same path and read-only (role directory)")
    needs: tuple[str, ...] = Field((), description="What the store has to provide that it shows (role webmail)")
    works_in: str = Field("", description="The volume of that store in which it works itself, at the same path (role webmail)")
    files: tuple[ConfigFile, ...]
    filters: dict[str, FilterPlaces] = Field(default_factory=dict, description="Filter languages that it runs: sieve, procmail, maildrop")
    container: Container
    topics: dict[Topic, str] = Field(
        default_factory=dict, description="What a setting of a rendered file that is about it begins with: regular expressions, of which the first that fits counts"
    )
    log: Log = Log()
    verbs: tuple[str, ...]
    folder: Path

    @property
    def releases(self) -> tuple[str, ...]:
        """The Debian releases whose packages it works with, its own first."""
        return (self.release, *self.other_releases)

    @property
    def unhurried(self) -> bool:
        """Whether nobody waits for it: mail flows without it, and `up` starts it last."""
        return bool(self.listeners) and not any(listener.awaited for listener in self.listeners.values())

    @property
    def has_tls(self) -> bool:
        """Whether any of its listeners wants a certificate."""
        return any(listener.tls != "none" for listener in self.listeners.values())


@cache
def all_backends() -> dict[str, Backend]:
    """Every backend by folder name, in alphabetical order. Raises UsageError for a folder that does not say what it is."""
    found: dict[str, Backend] = {}
    for path in sorted(resource("images").glob("*/backend.yaml")):
        try:
            raw = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            found[path.parent.name] = Backend.model_validate({**raw, "name": path.parent.name, "folder": path.parent})
        except (yaml.YAMLError, ValidationError, TypeError) as why:
            raise UsageError(f"{path}: {why}", "a backend's folder says what it is in backend.yaml; see images/README.md") from why
    return found


def choices(role: str) -> tuple[str, ...]:
    """The family names that stack.yaml may give for a role."""
    return tuple(dict.fromkeys(b.family for b in all_backends().values() if b.role == role))


def versions(family: str) -> tuple[str, ...]:
    """The versions of a family, its default first; () where it has none."""
    found = sorted((b for b in all_backends().values() if b.family == family and b.version), key=lambda b: not b.default)
    return tuple(b.version for b in found if b.version)


def service_name(backend: Backend) -> str:
    """What a store of this backend is called unless stack.yaml names it (dots are not for host names)."""
    return backend.name.replace(".", "-")


def find(role: str, family: str, version: str | None = None) -> Backend:
    """The backend for what stack.yaml says. Raises KeyError where there is none."""
    for backend in _of(role, family):
        if backend.version == version or (version is None and backend.default):
            return backend
    raise KeyError(family if version is None else f"{family} {version}")


def directory(kind: str) -> Backend | None:
    """The server that keeps accounts in this way, None where they are files."""
    return next((b for b in all_backends().values() if b.role == "directory" and kind in b.accounts), None)


def login_host() -> Backend:
    """The host that people log in to."""
    return next(b for b in all_backends().values() if b.role == "host")


def kdc() -> Backend:
    """The server that gives people tickets."""
    return next(b for b in all_backends().values() if b.role == "kdc")


def bad_line() -> Backend:
    """What carries connections badly on purpose."""
    return next(b for b in all_backends().values() if b.role == "line")


def account_kinds(chosen: Iterable[Backend] = ()) -> tuple[str, ...]:
    """The ways to keep accounts that all of these servers can look up, files first; every way that there is where none is given."""
    there = list(chosen)
    kinds = dict.fromkeys(kind for b in all_backends().values() for kind in b.accounts if kind != "file")
    return ("file", *(kind for kind in kinds if all(kind in b.accounts for b in there)))


def _of(role: str, family: str) -> Iterable[Backend]:
    return (b for b in all_backends().values() if b.role == role and b.family == family)
