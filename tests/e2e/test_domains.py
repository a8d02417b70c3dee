"""Several domains on real servers: who is who in which, what becomes of unknown addresses; added and deleted while everything runs."""

from __future__ import annotations

import json

import pytest
from outside import Quick, absent, refused, send
from program import Program

from stackctl.scenario import Context

pytestmark = [pytest.mark.e2e, pytest.mark.feature("B7")]


def test_the_same_name_in_two_domains_is_two_people_and_in_a_third_an_alias(mail: Context) -> None:
    people = {"info@example.test": "info@example.test", "info@sales.example": "info@sales.example", "info@only.example": "alice@example.test"}
    for address in people:
        send(mail, address, address.partition("@")[2])
    for address, who in people.items():
        for store in mail.stores:
            mail.take(who, address.partition("@")[2], store)  # and it came once
    for who in people.values():
        assert all(absent(mail, who, store) for store in mail.stores)


@pytest.mark.parametrize("domain", ["example.test", "only.example"])
def test_an_unknown_address_is_refused_at_rcpt(domain: str, mail: Context) -> None:
    for local in ("nobody", "nobody+detail", "alice.info", "small+" if domain != "example.test" else "smal"):
        why = refused(mail, f"{local}@{domain}")
        assert (why.code, why.enhanced) == (550, "5.1.1"), why.message


@pytest.mark.parametrize("local", ["!bang", "%percent", "{x}", "$x", "it's", "a|b&c*?"])
def test_whatever_a_local_part_may_hold_has_a_mailbox_in_the_disposable_domain(local: str, mail: Context) -> None:
    """From a user: what could be a route (!, %) Postfix takes from nobody else, as allow_untrusted_routing says."""
    to, sender = f"{local}@inbox.example.test", mail.sender("submission")
    mail.send(to, mail.message(sender, to, "odd"), way="submission", sender=sender)
    for store in mail.stores:
        mail.take(to, "odd", store)


@pytest.mark.parametrize("local", ["a/b", '"../alice"', '"../../example.test/alice"', "-rf"])
def test_what_would_be_a_path_or_an_option_is_refused(local: str, mail: Context) -> None:
    with mail.raw_smtp("smtp") as smtp:
        smtp.expect(f"MAIL FROM:<{mail.sender('smtp')}>", 250)
        smtp.expect(f"RCPT TO:<{local}@inbox.example.test>", 501, 550)


def test_a_domain_with_a_catch_all_takes_every_address(mail: Context) -> None:
    """Its own users keep their mail; what is unknown, with a detail or not, is bob's."""
    for number, local in enumerate(("whoever", "who+ever", "alice", "a.b-c")):
        send(mail, f"{local}@sales.example", f"any{number}")
        for store in mail.stores:
            mail.take("bob@example.test", f"any{number}", store)
    send(mail, "info+detail@sales.example", "own")
    mail.take("info@sales.example", "own", mail.store)
    assert all(absent(mail, who, store) for who in ("bob@example.test", "alice@example.test") for store in mail.stores)


def test_a_domain_is_filled_and_emptied_while_it_runs(addressed: Program, quick: Quick, mail: Context) -> None:
    sender = mail.sender("smtp")
    with mail.raw_smtp("smtp") as open_before:
        open_before.expect(f"MAIL FROM:<{sender}>", 250)
        open_before.expect("RCPT TO:<x@live.example>", 454, 550, 554)  # foreign
        certificate = (addressed.state / "cert.pem").read_bytes()
        authorities = sorted(addressed.folder.rglob("rootCA.pem"))
        quick("domain", "add", "Live.example")
        assert (addressed.state / "cert.pem").read_bytes() == certificate and sorted(addressed.folder.rglob("rootCA.pem")) == authorities
        assert refused(mail, "info@live.example").code == 550
        quick("user", "add", "info@live.example", "--generate")
        quick("alias", "set", "all@live.example", "info@live.example", "info@example.test")
        send(mail, "all@live.example", "all")
        mail.take("info@example.test", "all", mail.store)
        fresh = Context(addressed("endpoints", "--json", "--secrets").json, mail.case, mail.tag)
        fresh.take("info@live.example", "all", mail.store)
        rows = {row["name"]: row for row in json.loads(quick("domain", "list", "--json")[0])}
        assert rows["live.example"] == {"name": "live.example", "unknown": "refused", "users": 1, "aliases": 1, "origin": "added live"}
        assert rows["sales.example"]["unknown"] == "to bob@example.test" and rows["sales.example"]["origin"] == "stack.yaml"
        _, why = quick("domain", "delete", "live.example", code=2)
        assert "live.example has info@live.example, all@live.example" in why and "--force" in why
        quick("up", "--json")
        assert "live.example" in quick("domain", "list")[0]
        gone = json.loads(quick("domain", "delete", "live.example", "--force", "--json")[0])
        assert gone == {"domain": "live.example", "done": "deleted", "gone": ["info@live.example", "all@live.example"]}
        assert refused(mail, "info@live.example").code == 554
        assert "info@live.example" not in quick("user", "list")[0]
        open_before.expect("RCPT TO:<alice@example.test>", 250)


def test_a_domain_of_the_file_is_deleted_and_added_with_another_catch_all(quick: Quick, mail: Context) -> None:
    quick("alias", "set", "mixed@example.test", "alice@example.test", "info@only.example")
    quick("domain", "delete", "only.example", "--force")
    assert refused(mail, "info@only.example").code == 554
    send(mail, "mixed@example.test", "mixed")  # it goes on with those who are left
    mail.take("alice@example.test", "mixed", mail.store)
    quick("alias", "delete", "mixed@example.test")
    quick("domain", "add", "only.example", "--catch-all", "alice@example.test")
    send(mail, "nobody@only.example", "caught")
    mail.take("alice@example.test", "caught", mail.store)
    quick("domain", "delete", "only.example")
    quick("domain", "add", "only.example")
    assert refused(mail, "nobody@only.example").code == 550
    quick("alias", "set", "info@only.example", "alice@example.test")
    send(mail, "info@only.example", "back")
    mail.take("alice@example.test", "back", mail.store)


BAD = {
    "no domain": (["add", "nowhere"], "is not a domain name"),
    "a line end": (["add", "a.example\nb.example"], "is not a domain name"),
    "one that is there": (["add", "sales.example"], "serves sales.example already"),
    "the disposable one": (["add", "inbox.example.test"], "serves inbox.example.test already"),
    "the MTA's own name": (["add", "mail.example.test"], "serves mail.example.test already"),
    "the stores' own": (["add", "x.store.internal"], "is reserved"),
    "a catch-all who is nobody": (["add", "new.example", "--catch-all", "alcie@example.test"], "did you mean 'alice@example.test'?"),
    "a catch-all that is no address": (["add", "new.example", "--catch-all", "alice"], "is not an address"),
    "the main one": (["delete", "example.test"], "is the main domain"),
    "one that is not there": (["delete", "elsewhere.example"], "is no domain of the stack"),
    "one with a user": (["delete", "sales.example"], "sales.example has info@sales.example"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_code_2_and_changes_nothing(case: str, addressed: Program, quick: Quick) -> None:
    arguments, said = BAD[case]
    before = (addressed.state / "state.json").read_text()
    assert said in quick("domain", *arguments, code=2)[1]
    assert (addressed.state / "state.json").read_text() == before


def test_what_was_added_live_is_forgotten_by_a_fresh_start(addressed: Program, quick: Quick, mail: Context) -> None:
    """The last one of this file: the stack is another one afterwards."""
    quick("domain", "add", "brief.example", "--catch-all", "alice@example.test")
    quick("alias", "set", "brief", "alice@example.test")
    addressed("up", "--fresh")
    assert "brief" not in quick("domain", "list")[0] + quick("alias", "list")[0]
    again = Context(addressed("endpoints", "--json", "--secrets").json, mail.case, mail.tag)
    assert refused(again, "x@brief.example").code == 554 and refused(again, "brief@example.test").code == 550
