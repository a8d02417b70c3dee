"""JSON Web Tokens (RFC 7519) that a stack signs for its users, and the key for it. Pure but for the new key; it stores none, and checks no token.

Whoever has a token can log in with it until it expires; servers get the public key alone.
"""

from __future__ import annotations

import base64
import json
from typing import Any


def new_key() -> str:
    """A private key for ES256 (RFC 7518 3.4), in PEM."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public(key: str) -> str:
    """The public half of such a key, in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    return load_pem_private_key(key.encode(), None).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(domain: str, who: str, now: int, valid: int) -> dict[str, Any]:
    """What a token says of an address for `valid` seconds from `now` (seconds since 1970): RFC 7519 4.1, and the names of OpenID Connect Core 5.1."""
    issuer = f"https://{domain}"  # the servers' configuration says the same
    return {"iss": issuer, "sub": who, "aud": domain, "email": who, "preferred_username": who, "iat": now, "exp": now + valid}


def signed(key: str, said: dict[str, Any]) -> str:
    """A token that says this, signed with a key of `new_key` (RFC 7515 7.1)."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = ".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "JWT"}, said))
    private = load_pem_private_key(key.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    # RFC 7518 3.4: two numbers of 32 octets each; the library gives them in DER.
    signature = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(private.sign(text.encode(), ec.ECDSA(SHA256()))))
    return f"{text}.{_base64url(signature)}"


def _base64url(octets: bytes) -> str:
    """RFC 7515 2: without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
