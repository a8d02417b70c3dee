"""What a listener offers in TLS: its versions and cipher suites, found by handshakes that offer less each time. It says nothing inside TLS."""

from __future__ import annotations

import socket
import ssl
import warnings
from dataclasses import dataclass

from stackctl.clients.failure import TlsFailed
from stackctl.clients.transcript import Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError

VERSIONS = {"TLS 1.0": ssl.TLSVersion.TLSv1, "TLS 1.1": ssl.TLSVersion.TLSv1_1, "TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}
_WITHIN = 10.0  # seconds for each answer
# What leads to the handshake, where it does not come first: RFC 3207, RFC 9051 6.2.1, RFC 2595 4; and what the answer begins with that is the last line of it.
_PRELUDE = {"smtp": ((b"EHLO client.invalid", b"250 "), (b"STARTTLS", b"220 ")), "imap": ((b"a STARTTLS", b"a OK"),), "pop3": ((b"STLS", b"+OK"),)}
_GREETING = {"smtp": b"220 ", "imap": b"* OK", "pop3": b"+OK"}


@dataclass(frozen=True)
class Offer:
    """The suites of one version in the order in which the server took them, () where it takes none. `order`: whose preference counts, "" where it cannot be told."""

    suites: tuple[str, ...]
    order: str = ""


def offered(where: Where, protocol: str, version: str) -> Offer:
    """What a listener offers of one of `VERSIONS`, to a client that has all that this machine's OpenSSL has. Of TLS 1.3 only the suite that is taken first.

    The certificate is verified each time. Raises StackctlError where the listener does not answer, or its certificate does not verify.
    """
    if version == "TLS 1.3":  # which suites a client offers cannot be set from Python
        first = _handshake(where, protocol, version, "")
        return Offer((first,) if first else ())
    found: list[str] = []
    while suite := _handshake(where, protocol, version, ":".join(["ALL", *(f"!{name}" for name in found)])):
        found.append(suite)
    if len(found) < 2:
        return Offer(tuple(found))
    first, last = found[0], found[-1]
    turned = _handshake(where, protocol, version, f"{last}:{first}")
    return Offer(tuple(found), "the server's" if turned == first else "the client's")


def _handshake(where: Where, protocol: str, version: str, ciphers: str) -> str:
    """The suite that a handshake with these ends in, "" where the server takes none of them."""
    context = where.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions, which are asked for on purpose
        context.minimum_version = context.maximum_version = VERSIONS[version]
    if ciphers:
        try:
            context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
        except ssl.SSLError:  # nothing is left to offer
            return ""
    with connect(where, Transcript(), _WITHIN) as plain:
        if where.tls == "starttls":
            _prelude(plain, where, protocol)
        try:
            with context.wrap_socket(plain, server_hostname=where.name) as secure:
                cipher = secure.cipher()
                return cipher[0] if cipher else ""
        except ssl.SSLCertVerificationError as why:
            raise TlsFailed(f"{where}: the certificate does not verify for {where.name}: {why.verify_message}", "`stackctl ca path` names the CA of the stack") from why
        except TimeoutError as why:
            raise StackctlError(f"{where}: no end of a {version} handshake within {_WITHIN:g} s", "`stackctl logs` shows the server's side") from why
        except OSError:  # an alert, or the connection closed: not this version, or none of these suites
            return ""


def _prelude(plain: socket.socket, where: Where, protocol: str) -> None:
    with plain.makefile("rb") as answers:
        for said, wanted in ((b"", _GREETING[protocol]), *_PRELUDE[protocol]):
            if said:
                plain.sendall(said + b"\r\n")
            try:
                while (line := answers.readline(10_000)) and not line.startswith(wanted):
                    if line[3:4] == b" " and protocol == "smtp":
                        break
            except OSError as why:
                raise StackctlError(f"{where}: no answer to {said.decode() or 'a connection'}: {why}", "is the stack up? `stackctl status` tells") from why
            if not line.startswith(wanted):
                raise StackctlError(f"{where}: {said.decode() or 'the greeting'}: {line!r}", "`stackctl logs` shows the server's side")
