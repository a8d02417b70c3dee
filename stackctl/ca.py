"""The certificate authority and the certificates it signs. Never trusted by the system unless asked (trust.py does that).

It never looks at the clock (`now` is a parameter, an aware datetime), never overwrites a CA that it finds,
and never hands the CA's key to anybody but the process that signs.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from stackctl.errors import TimedOut, UsageError

if TYPE_CHECKING:  # cryptography takes about 50 ms to import, and most commands need no certificate
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# What the user's main CA may sign for: names that nobody can own in the public DNS. Whoever steals its key
# gains nothing against a real site.
PERMITTED: dict[str, str] = {
    "test": "RFC 6761 6.2: reserved for tests",
    "localhost": "RFC 6761 6.3: always this machine",
    "invalid": "RFC 6761 6.4: never resolves",
    "example": "RFC 6761 6.5: reserved for documentation",
    "example.com": "RFC 2606 3: reserved for documentation",
    "example.net": "RFC 2606 3: reserved for documentation",
    "example.org": "RFC 2606 3: reserved for documentation",
    "internal": "ICANN board 2024-07-29: reserved for private use, never delegated",
    "local": "RFC 6762 3: this link only (multicast DNS)",
    "home.arpa": "RFC 8375: residential networks, never delegated",
}
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))  # RFC 1122 3.2.1.3, RFC 4291 2.5.3

CA_LIFE = timedelta(days=3652)
# Apple refuses certificates of user-added CAs beyond 825 days, and of preinstalled ones beyond 398 (support
# articles 103769 and 102028); CA/Browser Forum BR 6.3.2 advises 397 where the limit is 398.
LEAF_LIFE = timedelta(days=397)
FAULTS = ("expired", "not-yet-valid", "wrong-host", "unknown-ca", "weak-key")  # that a certificate can have on purpose
OTHER_NAME = "elsewhere.localhost"  # which every CA of ours may sign for, and no stack has
SKEW = timedelta(hours=1)  # virtual machines and containers elsewhere may run behind
RENEW_BEFORE = timedelta(days=7)

CERTIFICATE_FILE = "rootCA.pem"  # mkcert's names, so that either program can use the other's CA
KEY_FILE = "rootCA-key.pem"
BUNDLE_FILE = "bundle.pem"

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$)(\*\.)?{_LABEL}(\.{_LABEL})*")  # RFC 1035 2.3.4, RFC 6125 6.4.3 for the asterisk
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_CN_MAX = 64  # RFC 5280 A.1 ub-common-name
_LOCK_SECONDS = 10.0  # making a CA takes milliseconds

# Variables that replace a program's list of CAs: they get the system's roots and ours in one file.
_REPLACING = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
_ADDING = "NODE_EXTRA_CA_CERTS"
_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/var/lib/ca-certificates/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, the BSDs
)

Name = str | IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key (PKCS#8, not encrypted), both in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Authority:
    """A CA that lies in a folder: the path of its certificate, which clients are told to trust, and both parts."""

    certificate_path: Path
    pair: Pair


def caroot(env: Mapping[str, str]) -> Path:
    """The folder of the user's CA: $CAROOT (mkcert's variable), else below the XDG data folder. Raises UsageError without a home."""
    if given := env.get("CAROOT"):
        return Path(given).absolute()
    data = env.get("XDG_DATA_HOME", "")
    if data.startswith("/"):  # XDG Base Directory Specification: a relative path is to be ignored
        return Path(data) / "stackctl" / "ca"
    try:
        home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    except RuntimeError as why:
        raise UsageError(f"no folder for the CA: {why}", "set CAROOT to a folder of yours") from why
    return home / ".local" / "share" / "stackctl" / "ca"


def make_ca(domains: Sequence[str] | None, now: datetime) -> Pair:
    """A new CA (ECDSA P-256, 10 years) that can sign for `domains`, localhost and loopback only; None: for PERMITTED.

    The name constraints are critical (RFC 5280 4.2.1.10): a client that cannot read them refuses the CA.
    They bound mail addresses too, so that the CA cannot vouch for a stranger's S/MIME signature.
    `domains` may hold IP addresses. Raises UsageError for what is neither a host name nor an address.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    names = [*PERMITTED, "localhost"] if domains is None else [*domains, "localhost"]
    hosts, networks = _subtrees(_parsed(names))
    permitted: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    permitted += [x509.IPAddress(network) for network in networks]
    for host in hosts:  # RFC 5280 4.2.1.10: the bare name is that host, the leading dot every host below it
        permitted += [x509.RFC822Name(host), x509.RFC822Name("." + host)]
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "stackctl development CA"),
            # A subject of its own for each CA: NSS keeps one nickname per subject, and OpenSSL looks issuers up by it.
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"key {identifier.digest.hex()[:16]}"),
            x509.NameAttribute(NameOID.COMMON_NAME, _common_name(domains)),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(ca: Pair, names: Sequence[str], now: datetime) -> Pair:
    """A server certificate (ECDSA P-256) for `names`, host names and IP addresses mixed, signed by `ca`.

    It ends after LEAF_LIFE or with the CA, whichever comes first. Raises UsageError when a name is none, or
    when the CA may not sign for it: no client would accept the result.
    """
    from cryptography import x509

    parsed = _parsed(names)
    if not parsed:
        raise UsageError("a certificate needs at least one name")
    issuer = x509.load_pem_x509_certificate(ca.certificate)
    if outside := forbidden(ca.certificate, names):
        raise UsageError(
            f"the CA {_shown(issuer)} may not sign for {', '.join(outside)}",
            "its name constraints say so; use a name below one of " + ", ".join(PERMITTED) + ", or make the domain part of stack.yaml",
        )
    return _sign(issuer, _key(ca.key), parsed, now)


def make_client(ca: Pair, address: str, now: datetime) -> Pair:
    """A client's certificate (ECDSA P-256) with a mail address as its common name, and its own serial number in the name too, signed by `ca`. It is no good for a server.

    It ends after LEAF_LIFE or with the CA. Raises UsageError when the CA may not sign for the address, or a common name cannot hold it.
    """
    from cryptography import x509

    issuer = x509.load_pem_x509_certificate(ca.certificate)
    if len(address) > _CN_MAX:
        raise UsageError(f"{address}: {len(address)} characters, and the name in a certificate has at most {_CN_MAX}", "a shorter address")
    if forbidden(ca.certificate, [address.rpartition("@")[2]]):
        raise UsageError(f"the CA {_shown(issuer)} may not sign for {address}", "its name constraints say so; with the domain in `tls.names`, `up` takes one that may")
    return _sign(issuer, _key(ca.key), [address], now, client=True)


def make_crl(ca: Pair, revoked: Mapping[int, datetime], now: datetime) -> bytes:
    """The CA's list of certificates that it took back (PEM, RFC 5280 5): serial numbers, and since when. b"" where the CA may sign none.

    It is good for as long as the CA: who changes it hands out a new one.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    issuer = x509.load_pem_x509_certificate(ca.certificate)
    with contextlib.suppress(x509.ExtensionNotFound):
        if not issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign:  # mkcert's are so
            return b""
    key = _key(ca.key)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(max(now - SKEW, issuer.not_valid_before_utc))
        .next_update(issuer.not_valid_after_utc)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
    )
    for serial, since in revoked.items():
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def of_crl(crl_pem: bytes, ca_pem: bytes) -> frozenset[int] | None:
    """The serial numbers in a list that this CA signed; None for what is no such list."""
    from cryptography import x509

    try:
        issuer, crl = x509.load_pem_x509_certificate(ca_pem), x509.load_pem_x509_crl(crl_pem)
        signed = crl.issuer == issuer.subject and crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return None
    return frozenset(one.serial_number for one in crl) if signed else None


def make_faulty(ca: Pair, names: Sequence[str], fault: str, now: datetime) -> Pair:
    """A server certificate for `names` that no client may accept, for the reason that `fault` (one of FAULTS) tells."""
    from cryptography import x509

    if fault == "unknown-ca":
        ca = make_ca(None, now)
    issuer = x509.load_pem_x509_certificate(ca.certificate)
    parsed = _parsed([OTHER_NAME] if fault == "wrong-host" else names)
    day = timedelta(days=1)
    life = {"expired": (now - 2 * day, now - day), "not-yet-valid": (now + 30 * day, now + 60 * day)}.get(fault)
    return _sign(issuer, _key(ca.key), parsed, now, life=life, weak=fault == "weak-key")


def forbidden(ca_pem: bytes, names: Sequence[str]) -> tuple[str, ...]:
    """Those of `names` that the CA's name constraints (RFC 5280 4.2.1.10) rule out; () where it has none."""
    from cryptography import x509

    try:
        constraints = x509.load_pem_x509_certificate(ca_pem).extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return ()
    permitted, excluded = constraints.permitted_subtrees or (), constraints.excluded_subtrees or ()

    def allowed(name: Name) -> bool:
        kind = x509.DNSName if isinstance(name, str) else x509.IPAddress
        rules = [subtree for subtree in permitted if isinstance(subtree, kind)]
        return (not rules or any(_below(name, rule.value) for rule in rules)) and not any(
            isinstance(subtree, kind) and _below(name, subtree.value) for subtree in excluded
        )

    return tuple(str(name) for name in _parsed(names) if not allowed(name))


def needs_renewal(leaf_pem: bytes, ca_pem: bytes, names: Sequence[str], now: datetime) -> str | None:
    """Why a server certificate must be made anew, for a person to read; None where it is good for `names` under that CA."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    ca = x509.load_pem_x509_certificate(ca_pem)
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem)
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "it names no host"
    except ValueError:  # also what an extension that cannot be parsed raises
        return "it cannot be read"
    try:
        leaf.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return "another CA signed it"
    if leaf.not_valid_after_utc <= now:
        return f"it expired on {leaf.not_valid_after_utc:%Y-%m-%d}"
    if leaf.not_valid_before_utc > now:
        return f"it is valid from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on only (was the clock ahead?)"
    # One that already ends with its CA would be no better after a renewal.
    if leaf.not_valid_after_utc - now < RENEW_BEFORE and leaf.not_valid_after_utc < ca.not_valid_after_utc:
        return f"it ends on {leaf.not_valid_after_utc:%Y-%m-%d}"
    has: set[Name] = {*san.get_values_for_type(x509.DNSName)}
    has |= {address for address in san.get_values_for_type(x509.IPAddress) if isinstance(address, IPv4Address | IPv6Address)}
    if has != set(_parsed(names)):
        return f"it is for {', '.join(sorted(map(str, has)))}"
    return None


def load_or_make_ca(root: Path, domains: Sequence[str], now: datetime) -> Authority:
    """The CA for `domains`: the one in `root` where it may sign for them all, else one of their own in `root`/domains/.

    What is missing is made; two processes at once end up with the same CA. An existing one is used as it is
    (one of mkcert's has no name constraints, so it serves every domain) and never overwritten.
    Raises UsageError for a CA that is broken, expired or not private, TimedOut when another process holds the folder.
    """
    own = _reduced(domains)
    try:
        if (root / CERTIFICATE_FILE).exists() or (root / KEY_FILE).exists():
            authority = _load_or_make(root, None, now)
            if not forbidden(authority.pair.certificate, domains):
                return authority
        elif not _outside(domains):
            return _load_or_make(root, None, now)
        return _load_or_make(root / "domains" / _folder(own), own, now)
    except OSError as why:
        raise UsageError(f"the CA in {root}: {why.strerror}: {why.filename}", "set CAROOT to a folder that you can read and write") from why


def environment(ca: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that make usual programs trust the CA at `ca`, and still everything that they trust now.

    Most of them replace a program's list of CAs, so they name `bundle.pem` beside the CA, which this writes:
    the system's roots, those that `env` already names, and the CA. NODE_EXTRA_CA_CERTS adds to Node's own
    list: the CA alone. Raises UsageError when a file cannot be read or written.
    """
    env = env or {}
    bundle = ca.parent / BUNDLE_FILE
    ours = {str(ca), str(bundle)}
    sources = [env[variable] for variable in (*_REPLACING, _ADDING) if env.get(variable, str(ca)) not in ours]
    sources += [path for path in _SYSTEM_ROOTS if os.path.isfile(path)][:1]
    blocks: dict[bytes, None] = {}  # in order, each once
    for source in sources:
        with contextlib.suppress(OSError):  # a variable that names no file is broken already
            blocks.update(dict.fromkeys(_PEM.findall(Path(source).read_bytes())))
    try:
        blocks.update(dict.fromkeys(_PEM.findall(ca.read_bytes())))
        text = b"\n".join(blocks) + b"\n"
        if not bundle.exists() or bundle.read_bytes() != text:
            _write(bundle, text, 0o644)
    except OSError as why:
        hint = "`stackctl ca env` keeps its bundle beside the CA; set CAROOT to a folder that you can write"
        raise UsageError(f"{why.filename or bundle}: {why.strerror}", hint) from why
    adding = bundle if env.get(_ADDING, str(ca)) not in ours else ca
    return {**{variable: str(bundle) for variable in _REPLACING}, _ADDING: str(adding)}


def load(certificate: Path, now: datetime) -> Authority:
    """The CA whose certificate is at this path, its key beside it. Raises UsageError for one that is broken, expired or not private."""
    try:
        return _load(certificate, certificate.with_name(KEY_FILE), now)
    except OSError as why:
        raise UsageError(f"the CA {certificate}: {why.strerror}: {why.filename}", "use your own account, under which the stack was made") from why


def _load_or_make(folder: Path, domains: Sequence[str] | None, now: datetime) -> Authority:
    certificate, key = folder / CERTIFICATE_FILE, folder / KEY_FILE
    if not certificate.exists():
        _make_folder(folder)
        with _locked(folder):
            if not certificate.exists() and not key.exists():
                _save(make_ca(domains, now), certificate, key)
    return _load(certificate, key, now)


def _make_folder(folder: Path) -> None:
    """For this user only, as are the folders up to it that are missing (which Path.mkdir's own `parents` leaves to the umask)."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)


def _save(pair: Pair, certificate: Path, key: Path) -> None:
    """The key first: whoever sees the certificate finds the key too."""
    _write(key, pair.key, 0o400)
    try:
        _write(certificate, pair.certificate, 0o644)
    except BaseException:
        key.unlink()
        raise


def _load(certificate: Path, key: Path, now: datetime) -> Authority:
    """The CA in these files, checked. Raises UsageError that says what is wrong with which, and the next step."""
    from cryptography import x509

    again = f"put the right files back, or, for a new CA: `stackctl ca uninstall` if it was installed, remove {certificate} and {key}, then repeat"
    for path in (certificate, key):
        if not path.exists():
            raise UsageError(f"{path} is missing, its other half is there", again)
    pair = Pair(certificate.read_bytes(), key.read_bytes())
    if (mode := key.stat().st_mode & 0o777) & 0o077:
        raise UsageError(f"{key}: other users can use the CA's key (mode {mode:04o})", f"chmod 0400 {key}; if somebody may have read it: {again}")
    try:
        ca = x509.load_pem_x509_certificate(pair.certificate)
        is_ca = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound) as why:
        raise UsageError(f"{certificate}: not the certificate of a CA in PEM ({why})", again) from why
    if not is_ca:
        raise UsageError(f"{certificate}: the certificate is no CA's", again)
    try:
        matches = _key(pair.key).public_key() == ca.public_key()
    except (ValueError, TypeError) as why:
        raise UsageError(f"{key}: not a private key in PEM, RSA or EC, without a passphrase ({why})", again) from why
    if not matches:
        raise UsageError(f"{key} does not belong to {certificate}", again)
    if now >= ca.not_valid_after_utc:
        raise UsageError(f"{certificate}: the CA expired on {ca.not_valid_after_utc:%Y-%m-%d}", f"is the clock right? If so: {again}")
    if now < ca.not_valid_before_utc:
        start = f"{ca.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise UsageError(f"{certificate}: the CA is valid from {start} on", f"this machine's clock says {now:%Y-%m-%d %H:%M}: set it")
    return Authority(certificate, pair)


def _sign(
    issuer: x509.Certificate,
    key: SigningKey,
    names: Sequence[Name],
    now: datetime,
    *,
    client: bool = False,
    life: tuple[datetime, datetime] | None = None,
    weak: bool = False,
) -> Pair:
    """Signs whatever it is asked to, for hosts or, for a client, mail addresses; its callers check first.

    `life`: from when until when it is good. `weak`: whether its key is shorter than any client should take (CA/Browser Forum BR 6.1.5: 2048 bits).
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "stackctl development certificate")]
    # Host names only: OpenSSL holds a common name that looks like one against the constraints on hosts, "127.0.0.1" too.
    if isinstance(names[0], str) and len(names[0]) <= _CN_MAX:
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, names[0]))
    serial = x509.random_serial_number()  # 159 random bits; RFC 5280 4.1.2.2 allows 20 octets
    if client:  # a server that reads no list of revoked certificates can tell it by this one
        subject.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"))
    text = x509.RFC822Name if client else x509.DNSName
    use = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    own = rsa.generate_private_key(65537, 1024) if weak else ec.generate_private_key(ec.SECP256R1())
    try:
        issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id)
    except x509.ExtensionNotFound:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    begin, end = life or (max(now - SKEW, issuer.not_valid_before_utc), min(now - SKEW + LEAF_LIFE, issuer.not_valid_after_utc))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(issuer.subject)
        .public_key(own.public_key())
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([text(n) if isinstance(n, str) else x509.IPAddress(n) for n in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(authority, critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), own)


def _pair(certificate: x509.Certificate, key: SigningKey) -> Pair:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Pair(certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _key(pem: bytes) -> SigningKey:
    """Raises ValueError or TypeError (a passphrase is needed) for what cannot sign."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except UnsupportedAlgorithm as why:
        raise ValueError(str(why)) from why
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("its type cannot be used")
    return key


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(domains: Sequence[str] | None) -> str:
    """Tells a person, in a browser's list, whose CA it is and what for."""
    try:
        owner = f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container's user without a name (KeyError before Python 3.13)
        owner = f"{os.getuid()}@{socket.gethostname()}"
    title = "stackctl development CA" if domains is None else "stackctl CA, own domains"
    return f"{title} ({owner[: _CN_MAX - len(title) - 3]})"


def _shown(certificate: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return f'"{found[0].value!s}"' if found else certificate.subject.rfc4514_string()


def _parsed(names: Sequence[str]) -> tuple[Name, ...]:
    """Each name once, host names in lower case without a final dot. Raises UsageError for what is no name."""
    found: dict[Name, None] = {}
    for name in names:
        try:
            found[ip_address(name)] = None
        except ValueError:
            host = name.lower().removesuffix(".")
            if not _HOST.fullmatch(host):
                raise UsageError(f"'{name}' is neither a host name nor an IP address", "a name outside ASCII is written in its xn-- form") from None
            found[host] = None
    return tuple(found)


def _below(name: Name, subtree: object) -> bool:
    """Whether a name lies in the subtree of a name constraint (RFC 5280 4.2.1.10)."""
    if isinstance(name, str) and isinstance(subtree, str):
        base = subtree.lower()
        return base in ("", name) or name.endswith(base if base.startswith(".") else "." + base)
    return isinstance(subtree, IPv4Network | IPv6Network) and not isinstance(name, str) and name in subtree


def _outside(names: Sequence[str]) -> bool:
    """Whether any of the names is one that the main CA may not sign for."""
    return any(not any(_below(name, subtree) for subtree in (*PERMITTED, *LOOPBACK)) for name in _parsed(names))


def _subtrees(names: Sequence[Name]) -> tuple[list[str], list[Network]]:
    """The subtrees that permit exactly these names and loopback; a host below another is already in its subtree."""
    hosts = [name.removeprefix("*.") for name in names if isinstance(name, str)]
    hosts = [host for host in dict.fromkeys(hosts) if not any(other != host and _below(host, other) for other in hosts)]
    addresses = [ip_network(name) for name in names if not isinstance(name, str) and not any(_below(name, loopback) for loopback in LOOPBACK)]
    return hosts, [*LOOPBACK, *addresses]


def _reduced(domains: Sequence[str]) -> list[str]:
    """The fewest subtrees that hold these domains, sorted, without those that every CA has."""
    hosts, networks = _subtrees(_parsed(domains))
    return sorted({*hosts, *(str(network.network_address) for network in networks if network not in LOOPBACK)} - {"localhost"})


def _folder(domains: Sequence[str]) -> str:
    """A folder name for a set of domains; a host name holds no '+' and no '/'. Raises UsageError past the 255 octets of a file name."""
    name = "+".join(domains)
    if len(name) > 255:
        raise UsageError(f"too many domains for one CA: {len(name)} octets in {', '.join(domains[:3])}, …", "use domains below a common one")
    return name


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder; the lock goes with the process that holds it. Raises TimedOut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimedOut(f"{folder}: another process has held the lock for {_LOCK_SECONDS:g} s", f"`fuser {folder}` says which") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Writes a file whole or not at all, its mode set before its name is. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with open(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(handle)
            os.fchmod(handle, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
