"""Verifiers against what the servers' own tools and a library of the protocol make of the same password."""

from __future__ import annotations

import base64

import pytest
from scramp import ScramMechanism
from scramp.core import saslprep as of_the_library

from stackctl.errors import UsageError
from stackctl.verifier import one_time_password, saslprep, verifier

pytestmark = pytest.mark.feature("D4")
WHO = "alice@example.test"


@pytest.mark.parametrize(
    ("password", "contexts"),
    [
        ("secret", "cd3ba7deaad6e5ca23448ba42e379747a9e0f7f1fbc00c8a81bbaac395731b56"),
        ("ünïcode pass", "8a0e79ad28c15c2c4a2fbbe319e7ca7217a876a59334196792cc7decf301fb79"),
        ("x" * 70, "8103bb3a2a4b96a9ca9cce4efecc8d22ebe7163dff7401afb5aa16d4edcf9f1f"),  # longer than a block of MD5
    ],
    ids=["short", "not ASCII", "long"],
)
def test_cram_md5_is_what_doveadm_pw_prints(password: str, contexts: str) -> None:
    assert verifier("cram-md5", WHO, password) == contexts
    assert verifier("cram-md5", WHO, password + "x") != contexts


def test_digest_md5_has_the_name_and_the_realm_in_it() -> None:
    assert verifier("digest-md5", "chris@elwood.innosoft.com", "secret") == "eb5a750053e4d2c34aa84bbc9b0b6ee7"  # the example of RFC 2831 4
    assert verifier("digest-md5", "carl@elwood.innosoft.com", "secret") != "eb5a750053e4d2c34aa84bbc9b0b6ee7"


@pytest.mark.parametrize("name", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_scram_is_what_the_library_makes_with_the_same_salt(name: str) -> None:
    iterations, *parts = verifier(name.lower(), WHO, "secret").split(",")
    salt, stored, server = map(base64.b64decode, parts)
    assert ScramMechanism(name).make_auth_info("secret", iteration_count=int(iterations), salt=salt) == (salt, stored, server, int(iterations))
    assert ScramMechanism(name).make_auth_info("other", iteration_count=int(iterations), salt=salt)[1] != stored


@pytest.mark.parametrize(
    ("password", "prepared"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("e\u0301 a\u00a0b", "\u00e9 a b")],  # the first five: RFC 4013 3
)
def test_a_password_is_prepared_for_scram(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared == of_the_library(password)
    iterations, salt, stored, _ = verifier("scram-sha-256", WHO, password).split(",")
    made = ScramMechanism("SCRAM-SHA-256").make_auth_info(password, iteration_count=int(iterations), salt=base64.b64decode(salt))
    assert made[1] == base64.b64decode(stored)


@pytest.mark.parametrize(
    ("challenge", "password", "answer"),
    [  # RFC 2289 appendix C
        ("otp-md5 0 TeSt", "This is a test.", "9e876134d90499dd"),
        ("otp-md5 99 alpha1 ext", "AbCdEfGhIjK", "5aa37a81f212146c"),
        ("otp-sha1 0 TeSt ext", "This is a test.", "bb9e6ae1979d8ff4"),
        ("otp-sha1 99 correct", "OTP's are good", "4f296a74fe1567ec"),
    ],
)
def test_a_one_time_password_is_that_of_the_standard(challenge: str, password: str, answer: str) -> None:
    assert one_time_password(challenge, password) == f"hex:{answer}"
    assert one_time_password(challenge, password + "x") != f"hex:{answer}"


def test_a_chain_of_one_time_passwords_begins_behind_its_first_answer() -> None:
    algorithm, count, seed, state = verifier("otp", WHO, "secret").split()
    assert one_time_password(f"otp-{algorithm} {count} {seed}", "secret") == f"hex:{state}"
    assert verifier("otp", WHO, "secret").split()[2] != seed


@pytest.mark.parametrize("challenge", ["", "otp-sha1", "otp-md4 99 seed", "otp-sha1 99999 seed", "otp-sha1 9 se-ed", "otp-sha1 -1 seed"])
def test_what_is_no_challenge_is_an_error(challenge: str) -> None:
    with pytest.raises(UsageError, match="no challenge of OTP"):
        one_time_password(challenge, "secret")


def test_plain_is_in_digits_so_that_no_character_ends_its_field() -> None:
    assert bytes.fromhex(verifier("plain", WHO, "a:b\tc")) == b"a:b\tc"
    assert verifier("certificate", WHO, "a:b") == verifier("token", WHO, "a:b") == ""
    assert verifier("digest-md5", "@example.test", "a:b") == verifier("plain", "@example.test", "a:b")
