"""Reads a certificate for those who show it. It makes none and judges none: that is the CA's part."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes


def validity(pem: bytes) -> tuple[float, float]:
    """From when to when a certificate is good, in seconds since 1970. Raises ValueError where it is none."""
    found = x509.load_pem_x509_certificate(pem)
    return found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()


def serial(pem: bytes) -> str:
    """The serial number of a certificate, in hexadecimal digits. Raises ValueError where it is none."""
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


def describe(pem: bytes) -> dict[str, str | list[str]]:
    """What a person wants to know of a certificate. Raises ValueError where it is none."""
    found = x509.load_pem_x509_certificate(pem)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        "names": [str(name.value) for name in names],
        "issuer": found.issuer.rfc4514_string(),
        "from": found.not_valid_before_utc.isoformat(),
        "until": found.not_valid_after_utc.isoformat(),
        "serial": serial(pem),
        "sha256": found.fingerprint(hashes.SHA256()).hex(":"),
    }
