"""Accounts in a table of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from account_cases import Accounts, Served, Table, brought_up
from program import Program


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack whose accounts are in PostgreSQL."""
    with brought_up("postgres", tmp_path_factory) as program:
        yield program


class TestPostgres(Served, Table, Accounts):
    adds = (("psql", "-qv", "ON_ERROR_STOP=1"), "INSERT INTO accounts (address, password) VALUES ('{0}', crypt('by hand', gen_salt('bf')));")
    removes = (adds[0], "DELETE FROM accounts WHERE address = '{0}';")
