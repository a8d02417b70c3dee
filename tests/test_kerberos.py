"""Keys of Kerberos against the examples of its RFC and the key table of MIT's own kadmin.local(8)."""

from __future__ import annotations

import pytest

from stackctl.kerberos import Realm

pytestmark = pytest.mark.feature("D4")
REALM = Realm("example.test")


def test_a_key_is_what_kadmin_makes_of_the_password() -> None:
    key = "009b14dfb628998e5f17d675b0ebe8ffcf637aa024881324012b8c3030724f8a"  # `addprinc -pw secret imap/localhost`, `ktadd -norandkey`, `klist -K`
    assert REALM.key("imap/localhost", "secret").hex() == key
    for realm, service, password in [(REALM, "imap/localhost", "Secret"), (REALM, "pop/localhost", "secret"), (Realm("example.org"), "imap/localhost", "secret")]:
        assert realm.key(service, password).hex() != key


def test_a_key_table_holds_each_service() -> None:
    table = REALM.keytab(["imap/localhost", "smtp/mail.example.test"], "secret")
    assert table.startswith(b"\5\2\0\0\0")
    entries, rest = [], table[2:]
    while rest:
        size = int.from_bytes(rest[:4], "big")
        entries.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    assert [entry.count(name) for entry, name in zip(entries, (b"\0\x04imap\0\x09localhost", b"\0\x04smtp\0\x11mail.example.test"), strict=True)] == [1, 1]
    assert entries[0].endswith(b"\0\x12\0\x20" + REALM.key("imap/localhost", "secret"))


@pytest.mark.parametrize(
    ("address", "name"),
    [("alice@example.test", "alice@EXAMPLE.TEST"), ("bo@sales.example", "bo\\@sales.example@EXAMPLE.TEST"), ("x@a.example.test", "x\\@a.example.test@EXAMPLE.TEST")],
)
def test_who_an_address_is_in_the_realm(address: str, name: str) -> None:
    assert REALM.full(address) == name


def test_a_client_is_told_where_the_realm_is() -> None:
    assert "kdc = 127.0.0.1:1088\n" in REALM.client("127.0.0.1", 1088)
    assert "kdc = [::1]:1088\n" in REALM.client("::1", 1088)
