"""The CA in the trust stores of this machine, put there or taken away on request. Never touches one without being asked.

A store says what commands it needs; they are run, or, where root is needed and we are not, shown to be run by hand.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stackctl.command import run
from stackctl.errors import StackctlError, UsageError

Report = Callable[[str], None]
Steps = list[list[str]]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True)
class Certificate:
    """The CA to trust: its file, and its DER octets, by which it is known wherever it is."""

    path: Path
    der: bytes

    @property
    def sha256(self) -> str:
        """The fingerprint in lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def label(self) -> str:
        """What the stores call it: ours, and which of ours."""
        return f"stackctl-{self.sha256[:16]}"


class Store(Protocol):
    """A place where programs of this machine look for CAs."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def needs_root(self) -> bool:
        """Whether only root may change it."""

    def missing(self) -> str:
        """What must be installed before it can be read or changed; "" if nothing."""

    def has(self, ca: Certificate) -> bool:
        """Whether programs that use this store trust the CA now, whoever put it there."""

    def add(self, ca: Certificate) -> Steps:
        """The commands that make it trusted."""

    def remove(self, ca: Certificate) -> Steps:
        """The commands that take away what `add` put there, and nothing else; none if there is nothing of ours."""


@dataclass(frozen=True)
class SystemFolder:
    """Linux: certificates in a folder of the administrator's, made into a bundle by the distribution's tool."""

    name: str
    anchors: Path
    suffix: str
    bundle: Path
    update: tuple[str, ...]
    update_after_removal: tuple[str, ...]
    needs_root: bool = True

    def missing(self) -> str:
        """Nothing: it counts as present only with its tool."""
        return ""

    def has(self, ca: Certificate) -> bool:
        """The bundle decides: a file in the folder counts for nothing before the tool ran."""
        return self.bundle.is_file() and ca.der in _certificates(self.bundle.read_bytes())

    def add(self, ca: Certificate) -> Steps:
        """Copies, for root does not follow a link into a user's home when the user can change what is there."""
        return [["install", "-m", "0644", str(ca.path), str(self._file(ca))], list(self.update)]

    def remove(self, ca: Certificate) -> Steps:
        """Only the file that `add` makes; its name holds the fingerprint."""
        return [["rm", "-f", str(self._file(ca))], list(self.update_after_removal)] if self._file(ca).exists() else []

    def _file(self, ca: Certificate) -> Path:
        return self.anchors / (ca.label + self.suffix)


# The same four as mkcert knows. --fresh: without it, Debian's tool leaves the links of a removed certificate behind.
SYSTEM_FOLDERS = (
    SystemFolder(
        "the system's store (Fedora, RHEL)",
        Path("/etc/pki/ca-trust/source/anchors"),
        ".pem",
        Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
        ("update-ca-trust", "extract"),
        ("update-ca-trust", "extract"),
    ),
    SystemFolder(
        "the system's store (Debian, Ubuntu)",
        Path("/usr/local/share/ca-certificates"),
        ".crt",
        Path("/etc/ssl/certs/ca-certificates.crt"),
        ("update-ca-certificates",),
        ("update-ca-certificates", "--fresh"),
    ),
    SystemFolder(
        "the system's store (Arch)",
        Path("/etc/ca-certificates/trust-source/anchors"),
        ".crt",
        Path("/etc/ssl/certs/ca-certificates.crt"),
        ("trust", "extract-compat"),
        ("trust", "extract-compat"),
    ),
    SystemFolder(
        "the system's store (openSUSE)",
        Path("/usr/share/pki/trust/anchors"),
        ".pem",
        Path("/var/lib/ca-certificates/ca-bundle.pem"),
        ("update-ca-certificates",),
        ("update-ca-certificates",),
    ),
)


@dataclass(frozen=True)
class Keychain:
    """macOS: the System keychain, by security(1). Written from its manual page; not tried on a Mac yet."""

    name: str = "the System keychain (macOS)"
    path: str = "/Library/Keychains/System.keychain"
    needs_root: bool = True

    def missing(self) -> str:
        """Nothing: security(1) is part of macOS."""
        return ""

    def has(self, ca: Certificate) -> bool:
        """By the fingerprints of what the keychain holds."""
        held = run(["security", "find-certificate", "-a", "-Z", self.path], check=False).text
        return f"sha-256 hash: {ca.sha256}" in held.lower()

    def add(self, ca: Certificate) -> Steps:
        """As a root for TLS only, for every user of the machine (-d)."""
        return [["security", "add-trusted-cert", "-d", "-r", "trustRoot", "-p", "ssl", "-p", "basic", "-k", self.path, str(ca.path)]]

    def remove(self, ca: Certificate) -> Steps:
        """First the trust, then the certificate, by its fingerprint."""
        if not self.has(ca):
            return []
        return [["security", "remove-trusted-cert", "-d", str(ca.path)], ["security", "delete-certificate", "-Z", ca.sha256.upper(), self.path]]


@dataclass(frozen=True)
class NssDatabase:
    """A profile of Firefox or Thunderbird, or what Chromium shares: an NSS database, by certutil(1)."""

    folder: Path
    needs_root: bool = False

    @property
    def name(self) -> str:
        """The folder tells which program and which profile it is."""
        return f"NSS database {self.folder}"

    def missing(self) -> str:
        """Mozilla's certutil is a package of its own."""
        return "" if shutil.which("certutil") else "certutil (package libnss3-tools on Debian and Ubuntu, nss-tools on Fedora, nss in Homebrew)"

    def has(self, ca: Certificate) -> bool:
        """By any nickname: NSS gives a certificate that it has already no second one."""
        listed = run([*self._certutil("-L")], check=False)
        # "nickname   C,,": the trust flags of SSL, S/MIME and code signing close the line
        nicknames = re.findall(r"^(.*\S)\s+(\S*C\S*,\S*,\S*)\s*$", listed.text, re.MULTILINE)
        return any(self._is(ca, nickname) for nickname, _ in nicknames)

    def add(self, ca: Certificate) -> Steps:
        """C: a root for servers' certificates only, not for mail or code."""
        return [self._certutil("-A", "-t", "C,,", "-n", ca.label, "-i", str(ca.path))]

    def remove(self, ca: Certificate) -> Steps:
        """By our nickname, if the certificate below it is this one."""
        return [self._certutil("-D", "-n", ca.label)] if self._is(ca, ca.label) else []

    def _is(self, ca: Certificate, nickname: str) -> bool:
        return ca.der in _certificates(run(self._certutil("-L", "-n", nickname, "-a"), check=False).stdout)

    def _certutil(self, *arguments: str) -> list[str]:
        return ["certutil", "-d", f"sql:{self.folder}", *arguments]


# Below the home folder; a database is a folder with cert9.db in it.
_NSS_PLACES = (
    ".pki/nssdb",  # Chromium, Chrome, Evolution
    "snap/chromium/current/.pki/nssdb",
    ".mozilla/firefox/*",
    ".config/mozilla/firefox/*",
    "snap/firefox/common/.mozilla/firefox/*",
    ".var/app/org.mozilla.firefox/.mozilla/firefox/*",
    ".thunderbird/*",
    "snap/thunderbird/common/.thunderbird/*",
    ".var/app/org.mozilla.Thunderbird/.thunderbird/*",
    "Library/Application Support/Firefox/Profiles/*",
    "Library/Thunderbird/Profiles/*",
)


def stores(home: Path | None = None) -> list[Store]:
    """The stores on this machine: the system's, then the NSS databases below `home` (the user's own unless given)."""
    found: list[Store] = []
    if shutil.which("security") and Path("/Library/Keychains").is_dir():
        found.append(Keychain())
    found += [store for store in SYSTEM_FOLDERS if store.anchors.is_dir() and shutil.which(store.update[0])][:1]
    folders = {path.resolve(): None for place in _NSS_PLACES for path in sorted((home or Path.home()).glob(place)) if (path / "cert9.db").is_file()}
    return [*found, *(NssDatabase(folder) for folder in folders)]


def status(ca: Path, where: list[Store] | None = None) -> dict[str, bool]:
    """Store by store, whether it trusts the CA. A store that cannot be read does not."""
    certificate = _read(ca)
    return {store.name: not store.missing() and store.has(certificate) for store in (stores() if where is None else where)}


def is_installed(ca: Path, where: list[Store] | None = None) -> bool:
    """Whether every store of this machine trusts the CA (False where there is none)."""
    found = status(ca, where)
    return bool(found) and all(found.values())


def install(ca: Path, report: Report, where: list[Store] | None = None) -> bool:
    """Makes the stores trust the CA; `report` gets a line for each. False if any of them does not in the end.

    Does nothing where it is trusted already. Raises UsageError for a file that is not one certificate.
    """
    certificate = _read(ca)

    def change(store: Store) -> bool:
        if store.has(certificate):
            report(f"{store.name}: trusts it already")
            return True
        return _carry_out(store, store.add(certificate), "now trusts it", report)

    return _each(stores() if where is None else where, change, report)


def uninstall(ca: Path, report: Report, where: list[Store] | None = None) -> bool:
    """Takes out of the stores what `install` put there; `report` gets a line for each. False if any still trusts the CA."""
    certificate = _read(ca)

    def change(store: Store) -> bool:
        if steps := store.remove(certificate):
            if not _carry_out(store, steps, "no longer trusts it", report):
                return False
        elif not store.has(certificate):
            report(f"{store.name}: does not have it")
        if store.has(certificate):
            report(f"{store.name}: still trusts it: another program put it there too, under a name that is not ours; left alone")
            return False
        return True

    return _each(stores() if where is None else where, change, report)


def _each(found: list[Store], change: Callable[[Store], bool], report: Report) -> bool:
    """Every store gets its turn, whatever happens to the one before."""
    if not found:
        report("no trust store found that stackctl knows; `stackctl ca env` prints variables that do the same for one shell")
        return False
    good = True
    for store in found:
        if missing := store.missing():
            report(f"{store.name}: needs {missing}; install it and repeat")
            good = False
            continue
        try:
            good = change(store) and good
        except (StackctlError, OSError) as why:
            report(f"{store.name}: {why}")
            good = False
    return good


def _carry_out(store: Store, steps: Steps, outcome: str, report: Report) -> bool:
    shown = [shlex.join(step) for step in steps]
    if store.needs_root and os.geteuid() != 0:
        report(f"{store.name}: needs root; run:  " + " && ".join(f"sudo {step}" for step in shown))
        return False
    for step in steps:
        run(step, timeout=120)
    report(f"{store.name}: {outcome} ({'; '.join(shown)})")
    return True


def _read(path: Path) -> Certificate:
    try:
        pem = path.read_bytes()
    except OSError as why:
        raise UsageError(f"{path}: {why.strerror}", "`stackctl ca path` says where the CA is") from why
    found = list(_certificates(pem))
    if len(found) != 1 or b"PRIVATE KEY" in pem:
        raise UsageError(f"{path}: expected one certificate in PEM and nothing else", "`stackctl ca path` says where the CA is")
    return Certificate(path.resolve(), found[0])


def _certificates(pem: bytes) -> Iterator[bytes]:
    """Every certificate in the text, as DER."""
    return (base64.b64decode(body) for body in _PEM.findall(pem))
