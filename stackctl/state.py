"""What stackctl remembers of a stack between two commands: a folder of its own, readable by its owner alone.

Passwords, ports and what was handed to the containers are here; mail and configuration are not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import string
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stackctl.errors import StackctlError, TimedOut, UsageError
from stackctl.labels import NAME
from stackctl.verifier import verifier

_ALPHABET = string.ascii_letters + string.digits
_HINDERING = ("connect", "login")  # stages of faults that meet everybody
_LENGTH = 20  # of 62 letters: 119 bits


@dataclass
class Credential:
    """A password, its bcrypt hash, and the verifiers that were asked for so far, by their form."""

    password: str
    hash: str
    verifiers: dict[str, str] = field(default_factory=dict)

    def verifier(self, form: str, address: str) -> str:
        """The verifier for this address, made once: it has a salt, and the same stack must give the same files."""
        if form not in self.verifiers:
            self.verifiers[form] = verifier(form, address, self.password)
        return self.verifiers[form]


@dataclass
class State:
    """The memory of one stack. `fingerprint` tells whether a second `up` has anything to do."""

    name: str
    source: str = ""
    fingerprint: str = ""
    watched: dict[str, list[int]] = field(default_factory=dict)  # password files: path -> [mtime in ns, octets]
    certificate: list[float] = field(default_factory=list)  # the time in which it is good, in seconds since 1970
    containers: dict[str, str] = field(default_factory=dict)
    credentials: dict[str, Credential] = field(default_factory=dict)
    disposable: Credential | None = None
    added: dict[str, int | None] = field(default_factory=dict)  # users made while it ran: address -> quota
    deleted: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)  # users whose password is not the one in stack.yaml any more
    replaced: dict[str, Credential] = field(default_factory=dict)  # what users of stack.yaml had before their password was changed while it ran
    aliases: dict[str, list[str]] = field(default_factory=dict)  # aliases and system aliases set while it ran
    aliases_deleted: list[str] = field(default_factory=list)
    domains: dict[str, str | None] = field(default_factory=dict)  # domains added while it ran: name -> who gets the mail for its unknown addresses
    directory: str = ""  # the password with which servers look accounts up
    webmail: str = ""  # the key with which a webmail encrypts what it keeps of a login
    token_key: str = ""  # the private key (PEM) that signs tokens; "" where no server takes them
    kerberos: str = ""  # the password of the services in the Kerberos realm; "" where no server takes tickets
    handed: dict[str, str] = field(default_factory=dict)  # accounts that were put into the directory: address -> hash and quota
    domains_deleted: list[str] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)  # what is made to fail: the fields of model.Fault
    issued: dict[str, str] = field(default_factory=dict)  # certificates of clients: serial number, in hexadecimal digits -> address
    revoked: dict[str, str] = field(default_factory=dict)  # those that were taken back: serial number -> since when, ISO 8601
    lines: list[dict[str, Any]] = field(default_factory=list)  # bad lines on purpose: the fields of lines.Line
    certificate_fault: str = ""  # one of ca.FAULTS, or faults.OLD_TLS: no client may accept what the servers have for TLS
    ports: dict[str, int] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)  # what is spoken at each of the open listeners, by the keys of `ports`; of those alone that `up` waits for
    pushed: dict[str, dict[str, str]] = field(default_factory=dict)  # service -> path -> digest of what its volume holds
    compose_digest: str = ""
    images: dict[str, str] = field(default_factory=dict)  # backend -> the image that its containers were started from
    endpoints: dict[str, Any] = field(default_factory=dict)
    snapshots: dict[str, dict[str, Any]] = field(default_factory=dict)  # copies of all mail: name -> when, and of which stores

    @property
    def hindered(self) -> bool:
        """Whether something fails on purpose that `up` could not prove to work."""
        return bool(self.certificate_fault or self.lines or any(one["at"] in _HINDERING for one in self.faults))

    def unhinder(self) -> None:
        """Forgets what fails so; bad lines are for whoever ends them."""
        self.certificate_fault = ""
        self.faults = [one for one in self.faults if one["at"] not in _HINDERING]

    def credential(self, address: str, password: str | None = None) -> Credential:
        """The credential of an address: the one that is known, unless another password is given; made where there is none."""
        known = self.credentials.get(address)
        if known is None or (password is not None and known.password != password):
            known = self.credentials[address] = new_credential(password)
        return known


def parts(endpoints: Mapping[str, Any]) -> dict[str, Any]:
    """What the endpoints say of each service, the MTA first; those that not every stack has last."""
    if not endpoints:
        return {}
    every = {"mta": endpoints["mta"], **endpoints["stores"], **{name: endpoints.get(name) for name in ("directory", "host", "webmail", "kdc")}}
    return {name: part for name, part in every.items() if part}


def new_password() -> str:
    """A password that cannot be guessed: 119 bits, letters and digits."""
    import secrets  # 20 ms, and most commands make no password

    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def new_credential(password: str | None = None) -> Credential:
    """A credential for a password, or for one that is made (119 bits)."""
    import bcrypt

    password = password or new_password()
    # Cost 4 (1 ms) is for speed: made passwords cannot be guessed, and a test stack logs in thousands of times.
    # bcrypt reads 72 octets at most.
    return Credential(password, bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4)).decode())


def root() -> Path:
    """Where the states of all stacks are: $STACKCTL_STATE, else $XDG_STATE_HOME/stackctl, else ~/.local/state/stackctl."""
    if own := os.environ.get("STACKCTL_STATE"):
        return Path(own)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "stackctl"


def cache() -> Path:
    """Where that is kept which can be made again: $XDG_CACHE_HOME/stackctl, else ~/.cache/stackctl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stackctl"


def folder(name: str) -> Path:
    """The folder of one stack. Raises UsageError for a name that no stack can have."""
    if not NAME.fullmatch(name):
        raise UsageError(f"'{name}' is no name of a stack", "lower-case letters, digits and '-', at most 32")
    return root() / name


def names() -> tuple[str, ...]:
    """The stacks that have a state, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in root().glob("*/state.json")))


def load(name: str) -> State:
    """The state of a stack, an empty one where there is none. Raises UsageError when the file is damaged."""
    path = folder(name) / "state.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["credentials"] = {address: Credential(**pair) for address, pair in raw["credentials"].items()}
        raw["replaced"] = {address: Credential(**pair) for address, pair in raw.get("replaced", {}).items()}
        raw["disposable"] = Credential(**raw["disposable"]) if raw.get("disposable") else None
        return State(**{item.name: raw[item.name] for item in fields(State) if item.name in raw})  # an older version knew fewer
    except FileNotFoundError:
        return State(name)
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as why:
        raise UsageError(
            f"{path}: damaged ({type(why).__name__}: {why})",
            f"`stackctl down --name {name}` stops the stack by its labels; then delete {path} and run `stackctl up`: mail is kept, passwords are made anew",
        ) from why
    except OSError as why:
        raise StackctlError(f"{path}: {why.strerror}", "is the folder yours? $STACKCTL_STATE names another one") from why


def save(state: State) -> None:
    """Writes a state, at once or not at all. Raises StackctlError when the disk does not take it."""
    write(folder(state.name) / "state.json", json.dumps(asdict(state), indent=1).encode())


def write(path: Path, content: bytes) -> None:
    """Writes a private file (0600) of a stack's folder (0700) atomically. Raises StackctlError when the disk does not take it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, content)
    except OSError as why:
        raise StackctlError(f"{path}: {why.strerror}", "free some space there, or name another folder in $STACKCTL_STATE") from why


def write_private(path: Path, content: bytes) -> None:
    """Writes a file (0600) atomically. Raises StackctlError when the disk does not take it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(content)
        temporary.replace(path)
    except OSError as why:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StackctlError(f"{path}: {why.strerror}", "free some space there, or name another place") from why


def forget(name: str) -> None:
    """Removes the state of a stack."""
    shutil.rmtree(folder(name), ignore_errors=True)


@contextlib.contextmanager
def lock(name: str, timeout: float = 120) -> Iterator[None]:
    """Holds a stack against other commands that change it; waits at most `timeout` seconds for its turn (TimedOut)."""
    place = folder(name)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as why:
        raise StackctlError(f"{place}: {why.strerror}", "is the folder yours? $STACKCTL_STATE names another one") from why
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimedOut(f"the stack {name} is held by another stackctl for {timeout:g} s", "wait for it, or end it") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)
