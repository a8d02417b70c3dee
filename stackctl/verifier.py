"""What a server keeps of a password so that a SASL mechanism can be answered. Pure but for the salts; it stores nothing.

Where the mechanism lets it, a verifier is no password: who reads it cannot log in with it by another mechanism.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import os
import re
import string
import struct

from stackctl.errors import UsageError

_SCRAM = {"scram-sha-1": "sha1", "scram-sha-256": "sha256"}
_LOGINS = 1000  # that a chain of one-time passwords has; a client may begin a new one, by RFC 2243 3.4
_SEED = string.ascii_lowercase + string.digits  # RFC 2289 6.0: letters and digits, 1 to 16 of them
_ITERATIONS = 4096  # the least of RFC 7677 4: made passwords cannot be guessed, and a test stack logs in thousands of times


def verifier(form: str, address: str, password: str) -> str:
    """The verifier of a form that backend.yaml can name. An address "@domain" stands for every address of the domain, which have one password.

    plain is in hexadecimal digits, so that no character of a password is taken for the end of a field.
    """
    local, _, domain = address.rpartition("@")
    secret = password.encode()
    if form in ("certificate", "token"):  # no password is asked for; for tickets, the KDC wants it
        return ""
    if form == "cram-md5":
        return _hmac_md5_contexts(secret).hex()
    if form == "otp":
        seed = "".join(_SEED[octet % len(_SEED)] for octet in os.urandom(12))
        return f"sha1 {_LOGINS} {seed} {_one_time('sha1', seed, password, _LOGINS)}"
    if form in _SCRAM:
        return _scram(_SCRAM[form], saslprep(password).encode())
    if form == "digest-md5" and local:  # RFC 2831 2.1.2.1: the name is in the hash
        return hashlib.md5(f"{local}:{domain}:{password}".encode(), usedforsecurity=False).hexdigest()
    return secret.hex()


def one_time_password(challenge: str, password: str) -> str:
    """The answer to a challenge of OTP, such as "otp-sha1 999 ab12 ext", in the form that RFC 2243 3.3 calls hex. Raises UsageError for what is no such challenge."""
    found = _CHALLENGE.fullmatch(challenge.strip())
    if not found:
        raise UsageError(f"'{challenge[:60]}' is no challenge of OTP", "it is what the server says, such as 'otp-sha1 999 ab12 ext'")
    algorithm, count, seed = found.groups()
    return f"hex:{_one_time(algorithm, seed, password, int(count))}"


_CHALLENGE = re.compile(r"otp-(sha1|md5) (\d{1,4}) ([A-Za-z0-9]{1,16})(?: ext.*)?")  # RFC 2289 6.0, RFC 2243 2


def _one_time(algorithm: str, seed: str, password: str, count: int) -> str:
    """RFC 2289 6.0: hashed once, and `count` times more, each time folded to 64 bits as its appendix A says."""
    value = seed.lower().encode() + password.encode()
    layout = "<4I" if algorithm == "md5" else ">5I"
    for _ in range(count + 1):
        first, second, third, fourth, *fifth = struct.unpack(layout, hashlib.new(algorithm, value, usedforsecurity=False).digest())
        value = struct.pack("<2I", first ^ third ^ sum(fifth), second ^ fourth)
    return value.hex()


def saslprep(text: str) -> str:
    """A password as clients of SCRAM have to send it: RFC 4013 2.1 and 2.2. One that 2.3 forbids no such client can use."""
    import stringprep  # the tables of Unicode, which few commands need
    import unicodedata

    mapped = "".join(" " if stringprep.in_table_c12(one) else one for one in text if not stringprep.in_table_b1(one))
    return unicodedata.ucd_3_2_0.normalize("NFKC", mapped)


def _scram(algorithm: str, password: bytes) -> str:
    """iterations,salt,stored key,server key: RFC 5802 3."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac(algorithm, password, salt, _ITERATIONS)
    stored = hashlib.new(algorithm, hmac.digest(salted, b"Client Key", algorithm)).digest()
    server = hmac.digest(salted, b"Server Key", algorithm)
    return ",".join([str(_ITERATIONS), *(base64.b64encode(part).decode() for part in (salt, stored, server))])


def _hmac_md5_contexts(password: bytes) -> bytes:
    """The states of MD5 after the two pads of HMAC (RFC 2195 2), the outer one first. No library gives them out."""
    key = (hashlib.md5(password, usedforsecurity=False).digest() if len(password) > 64 else password).ljust(64, b"\0")
    return b"".join(_md5_state(bytes(octet ^ pad for octet in key)) for pad in (0x5C, 0x36))


def _md5_state(block: bytes) -> bytes:
    """The state after a first block of 64 octets: RFC 1321 3.4."""
    words = struct.unpack("<16I", block)
    start = a, b, c, d = 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476
    turns = ((7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21))
    for step in range(64):
        mix, place = (
            ((b & c) | (~b & d), step),
            ((b & d) | (c & ~d), 5 * step + 1),
            (b ^ c ^ d, 3 * step + 5),
            (c ^ (b | ~d), 7 * step),
        )[step // 16]
        turned = (a + mix + words[place % 16] + int(abs(math.sin(step + 1)) * 2**32)) & 0xFFFFFFFF
        turn = turns[step // 16][step % 4]
        a, b, c, d = d, (b + (turned << turn | turned >> 32 - turn)) & 0xFFFFFFFF, b, c
    return struct.pack("<4I", *((one + two) & 0xFFFFFFFF for one, two in zip(start, (a, b, c, d), strict=True)))
