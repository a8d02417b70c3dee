"""Accounts in a database file of SQLite."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from account_cases import ALICE, Accounts, Table, brought_up, container, deliver, everywhere, login, password_of
from program import Program, docker


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack whose accounts are in a file."""
    with brought_up("sqlite", tmp_path_factory) as program:
        yield program


class TestSqlite(Table, Accounts):
    adds = (("sqlite3", "/srv/directory/accounts.sqlite"), "INSERT INTO accounts (address, password) VALUES ('{0}', '{1}');")
    removes = (adds[0], "DELETE FROM accounts WHERE address = '{0}';")

    def test_a_locked_database_delays_and_loses_nothing(self, kept: Program, found: Any) -> None:
        argv = ["docker", "exec", "-i", container(kept), *self.adds[0]]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer, ThreadPoolExecutor() as pool:
            assert writer.stdin and writer.stdout
            try:
                writer.stdin.write("BEGIN EXCLUSIVE;\nSELECT 'locked';\n")
                writer.stdin.flush()
                assert writer.stdout.readline() == "locked\n"
                waits = pool.submit(deliver, found, ALICE, "patience")
                with pytest.raises(TimeoutError):
                    waits.result(1)
            finally:
                writer.stdin.close()
            waits.result(30)

    def test_readers_need_no_keeper_of_a_database_file(self, kept: Program, found: Any) -> None:
        password = password_of(found, ALICE)
        docker("stop", "--time", "0", container(kept))
        try:
            deliver(found, ALICE, "without a keeper")
            for service in everywhere(found):
                login(found, service, ALICE, password)
        finally:
            docker("start", container(kept))
