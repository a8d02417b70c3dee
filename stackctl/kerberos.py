"""The Kerberos realm of a stack: its names, the keys of its services, and what a client must know of it. Pure; it speaks to no KDC.

Users have the passwords of their accounts there. Each service has a key for each host name of the stack, made of one password.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_FOLDED = bytes.fromhex("6b65726265726f737b9b5b2b93132b93")  # RFC 3961 5.1: 128-fold("kerberos"); A.1 has it
_AES256, _ITERATIONS = 18, 4096  # RFC 3962 7, 4
_KVNO = 1  # the version of every key: a principal whose password changes is made anew
_NT_SRV_HST = 3  # RFC 4120 6.2: a service of a host


@dataclass(frozen=True)
class Realm:
    """The realm of a stack's main domain."""

    domain: str
    enctype: str = "aes256-cts-hmac-sha1-96"  # RFC 3962; every client has it

    @property
    def name(self) -> str:
        """RFC 4120 6.1: the domain in upper case."""
        return self.domain.upper()

    def principal(self, address: str) -> str:
        """Who an address is in the realm: its local part in the main domain, all of it, as an enterprise name (RFC 6806 5), in another."""
        local, _, domain = address.rpartition("@")
        return local if domain == self.domain else f"{local}\\@{domain}"

    def full(self, address: str) -> str:
        """The same with the realm, as servers tell it."""
        return f"{self.principal(address)}@{self.name}"

    def key(self, service: str, password: str) -> bytes:
        """The key of a service such as imap/localhost whose password this is (RFC 3962 4)."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        salt = f"{self.name}{service.replace('/', '', 1)}"  # RFC 4120 4
        seed = hashlib.pbkdf2_hmac("sha1", password.encode(), salt.encode(), _ITERATIONS, 32)
        cipher = Cipher(algorithms.AES(seed), modes.ECB()).encryptor()  # RFC 3961 5.1: block by block
        first = cipher.update(_FOLDED)
        return first + cipher.update(first)

    def keytab(self, services: Iterable[str], password: str) -> bytes:
        """A key table of services such as imap/localhost whose password this is: MIT's format of files, version 2."""
        return b"\5\2" + b"".join(_counted(self._entry(service, password), "i") for service in services)

    def _entry(self, service: str, password: str) -> bytes:
        kind, _, host = service.partition("/")
        words = b"".join(_counted(word.encode(), "H") for word in (self.name, kind, host))
        return struct.pack(">H", 2) + words + struct.pack(">IIBH", _NT_SRV_HST, 0, _KVNO, _AES256) + _counted(self.key(service, password), "H")

    def client(self, host: str, port: int) -> str:
        """A krb5.conf(5) for clients that reach the KDC at a TCP port."""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return (
            f"[libdefaults]\n    default_realm = {self.name}\n"
            "    # The host names of the stack are in no DNS: each is taken as it was written.\n"
            "    dns_lookup_realm = false\n    dns_lookup_kdc = false\n    dns_canonicalize_hostname = false\n    rdns = false\n"
            "    # The KDC has a TCP port here, and none for UDP.\n    udp_preference_limit = 1\n"
            f"[realms]\n    {self.name} = {{\n        kdc = {place}\n    }}\n"
            f"[domain_realm]\n    .{self.domain} = {self.name}\n    {self.domain} = {self.name}\n    localhost = {self.name}\n"
        )


def _counted(octets: bytes, size: str) -> bytes:
    """Octets with their number before them, in a big-endian integer of this size (struct's letter)."""
    return struct.pack(f">{size}", len(octets)) + octets
