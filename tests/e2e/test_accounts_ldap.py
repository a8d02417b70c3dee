"""Accounts as entries of OpenLDAP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from account_cases import Accounts, Served, brought_up
from program import Program

LDIF = """\
dn: mail={0},ou=accounts,dc=example,dc=test
objectClass: inetOrgPerson
mail: {0}
cn: Carol
sn: Carol
userPassword: {{CRYPT}}{1}
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack whose accounts are in OpenLDAP."""
    with brought_up("ldap", tmp_path_factory) as program:
        yield program


class TestLdap(Served, Accounts):
    adds = (("ldapadd", "-Q"), LDIF)
    removes = (("ldapdelete", "-Q"), "mail={0},ou=accounts,dc=example,dc=test\n")
