"""Whoever guesses passwords is slowed by the servers' own means, and nobody else is. Every server, as it is without a setting."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from program import Program, tokens

from stackctl.clients.imap import Imap
from stackctl.clients.pop3 import Pop3
from stackctl.clients.smtp import Smtp
from stackctl.clients.transcript import AuthRefused
from stackctl.clients.where import Where

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D4", "D5")]

NAME = f"guess{os.getpid()}"
FILE = f'name: {NAME}\nstores: [{{backend: dovecot}}, {{name: dovecot-2-3, backend: dovecot, version: "2.3"}}, {{backend: courier}}]\n'
ALICE = "alice@example.test"
SLOW = 1.0  # seconds; the least that is asked for is 2, counted in ticks of a second
SERVICES: list[tuple[str, str, type[Imap | Pop3 | Smtp]]] = [
    ("mta", "submission", Smtp),
    *((store, listener, session) for store in ("dovecot", "dovecot-2-3", "courier") for listener, session in (("imaps", Imap), ("pop3s", Pop3))),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with Program.started(tmp_path_factory.mktemp("guess"), NAME, FILE) as program:
        yield program.endpoints


def answered(found: dict[str, Any], service: tuple[str, str, type[Imap | Pop3 | Smtp]], password: str) -> tuple[bool, float]:
    """Whether a login is taken, and after how many seconds."""
    name, listener, session = service
    with session(Where.of(found, name, listener)) as client:
        start = time.monotonic()
        try:
            client.login(ALICE, password)
        except AuthRefused:
            return False, time.monotonic() - start
        return True, time.monotonic() - start


def test_a_wrong_password_waits_and_a_right_one_does_not(found: dict[str, Any]) -> None:
    """Right ones are given while wrong ones wait, from the same address."""
    with ThreadPoolExecutor(2 * len(SERVICES)) as pool:
        wrong = [pool.submit(answered, found, service, "a guess") for service in SERVICES]
        right = [pool.submit(answered, found, service, tokens(found)[ALICE]) for service in SERVICES]
        took = {service[:2]: (one.result(), other.result()) for service, one, other in zip(SERVICES, wrong, right, strict=True)}
    for service, ((taken, waited), (good, quick)) in took.items():
        assert not taken and waited > SLOW, f"{service}: a guess was answered after {waited:.1f} s"
        assert good and quick < waited, f"{service}: the right password waited {quick:.1f} s"
