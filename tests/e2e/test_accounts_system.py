"""Accounts as users of each server's system."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from account_cases import ALICE, BOB, CAROL, UNKNOWN, Anywhere, brought_up, deliver, everywhere, holds, login, password_of, refused
from program import Program, docker, until

from stackctl.clients.smtp import Refused, Smtp
from stackctl.clients.where import Where
from stackctl.labels import project_name


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack whose users are those of the system."""
    with brought_up("system", tmp_path_factory) as program:
        yield program


class TestSystem(Anywhere):
    def test_a_user_added_live_receives_and_logs_in_at_once_by_name_and_address(self, kept: Program, found: Any) -> None:
        with pytest.raises(Refused, match=UNKNOWN):
            deliver(found, CAROL, "too early")
        kept("user", "add", CAROL, "--password-stdin", stdin=b"first one\n")
        deliver(found, CAROL, "welcome")
        for service in everywhere(found):
            login(found, service, CAROL, "first one")
            login(found, service, "carol", "first one")
        for store in found["stores"]:
            until(partial(holds, found, store, CAROL, "first one", 1), 20, "one message and no other")
            assert holds(found, store, "carol", "first one", 1), "the name leads to the mailbox of the address"
        with Smtp(Where.of(found, "mta", "submission")) as smtp:
            smtp.login("carol", "first one")
            smtp.send(CAROL, [ALICE], b"Subject: mine\r\n\r\n.\r\n")
            with pytest.raises(Refused, match="553"):
                smtp.send(BOB, [ALICE], b"Subject: not mine\r\n\r\n.\r\n")

        kept("user", "passwd", CAROL, "--password-stdin", stdin=b"second one\n")
        for service in everywhere(found):
            login(found, service, CAROL, "second one")
        refused(found, *((service, who, "first one") for service in everywhere(found) for who in (CAROL, "carol")))

        kept("user", "delete", CAROL)
        with pytest.raises(Refused, match=UNKNOWN):
            deliver(found, CAROL, "too late")
        refused(found, *((service, CAROL, "second one") for service in everywhere(found)))

    def test_who_cannot_be_a_system_user_is_not_added(self, kept: Program, found: Any) -> None:
        before = kept("user", "list").out
        for who in ("1st@example.test", "dave#'s@example.test", "bob.smith@example.test"):
            assert "is not a login name" in kept("user", "add", who, "--generate", code=2).err
        kept("domain", "add", "example.org")
        assert "whose name has no domain" in kept("user", "add", "carol@example.org", "--generate", code=2).err
        kept("domain", "delete", "example.org")
        assert kept("user", "list").out == before

    def test_it_is_the_system_that_knows_the_users(self, kept: Program, found: Any) -> None:
        for service in everywhere(found):
            container = f"{project_name(kept.name)}-{service}-1"
            home = docker("exec", container, "getent", "passwd", "alice").split(":")[5]
            assert docker("exec", container, "getent", "passwd", ALICE).split(":")[5] == home
            hashes = docker("exec", "-u", "0", container, "grep", "-c", r"\$2b\$", "/etc/stackctl/extrausers/passwd")
            assert int(hashes) == 6, "alice, bob and the catch-all mailbox, each by name and address"
            assert docker("exec", "-u", "0", container, "sh", "-c", r"grep -c '\$2b\$' /etc/stackctl/accounts || true").strip() == "0"
            assert docker("exec", "-u", "65534", container, "sh", "-c", "getent passwd alice || echo none").strip() == "none", "hashes are for the server alone"

    def test_a_wrong_password_and_the_accounts_of_the_image_are_refused_as_such(self, found: Any) -> None:
        password = password_of(found, ALICE)
        wrong = ((ALICE, "wrong"), ("alice", ""), ("root", ""), ("vmail", ""), ("nobody", password), ("alice@inbox.example.test", password))
        said = refused(found, *((service, *pair) for service in everywhere(found) for pair in wrong))
        assert not [text for text in said if "UNAVAILABLE" in text]
