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


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listener(_Frozen):
    """A port inside the container. `tls`: implicit from the first octet, starttls, or none at all."""

    port: int
    protocol: Literal["smtp", "imap", "pop3", "managesieve", "http"]
    tls: Literal["implicit", "starttls", "none"]
    login: bool = Field(True, description="Whether clients log in here")


class Delivery(_Frozen):
    """A way for the MTA to hand mail over: to `port`, or into the store's `volume` (its path is the same in both)."""

    port: int | None = None
    volume: str | None = None


class ConfigFile(_Frozen):
    """A rendered file below /etc/stackctl. `on_change`: what makes a running server take a new version of it.

    accounts: the verb accounts-changed; reload: the verb reload; restart: a new container.
    """

    template: str
    path: str
    owner: str = "0:0"
    mode: str = "0644"
    on_change: Literal["accounts", "reload", "restart"] = "reload"


class Container(_Frozen):
    """What the service is allowed. Every capability carries the reason why it is needed."""

    user: str | None = None
    capabilities: dict[str, str] = Field(default_factory=dict)
    tmpfs: dict[str, str] = Field(default_factory=dict, description="Mount point to options, such as mode=0755,uid=5000")
    volumes: dict[str, str] = Field(default_factory=dict, description="Volume name to mount point; kept over down")
    stop_signal: str = "SIGTERM"
    tls_owner: str = Field("0:0", description="uid:gid that owns the private key")


class Backend(_Frozen):
    """One server: the folder images/<name>."""

    name: str
    family: str = Field(description="What stack.yaml calls it; several versions share one")
    version: str | None = Field(None, description="What stack.yaml's version key says, where a family has several")
    default: bool = Field(True, description="Whether it is its family's choice when no version is given")
    role: Literal["mta", "store"]
    summary: str
    release: str = Field(description="The Debian release whose packages it is built from")
    listeners: dict[str, Listener]
    provides: tuple[str, ...] = Field((), description="Capabilities that scenarios and commands ask for")
    delivery: dict[str, Delivery] = Field(default_factory=dict, description="Ways in, the default first (role store)")
    delivers: tuple[str, ...] = Field((), description="Ways that it can deliver (role mta)")
    mailboxes: tuple[str, ...] = ()
    mailbox_reason: str = Field("", description="Why other mailbox formats are refused")
    settings: tuple[str, ...] = Field((), description="Native files that take pass-through settings")
    files: tuple[ConfigFile, ...]
    container: Container
    verbs: tuple[str, ...]
    folder: Path


def resource(part: str) -> Path:
    """The folder `images` or `compose`: of the checkout, or as the wheel carries it."""
    package = Path(__file__).resolve().parent
    inside = package / "_data" / part
    return inside if inside.is_dir() else package.parent / part


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


def _of(role: str, family: str) -> Iterable[Backend]:
    return (b for b in all_backends().values() if b.role == role and b.family == family)
