"""GSSAPI and GSS-SPNEGO: a Kerberos ticket of the stack's own KDC is a login of its user alone, at every server that takes it, by IMAP, POP3 and at submission.

Programs are MIT's kinit(1), curl(1), and python3-gssapi with the standard library, in a container on the machine's own network, where a person's would be.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAME
from program import Program, docker
from test_real_clients import CA, HERE, PROGRAMS

from stackctl import images
from stackctl.model import Debian

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D4")]

ALICE, BOB, CAROL = "alice@example.test", "b%b'o@example.test", "carol@sales.example"
PASSWORDS = {ALICE: "p:ss \"w'rd\\", BOB: "smörgås €", CAROL: "carols-word"}
FILE = """\
domains: [sales.example]
auth: {mechanisms: [PLAIN, SCRAM-SHA-256, GSSAPI, GSS-SPNEGO]}
stores:
  - {backend: dovecot}
  - {backend: dovecot, version: "2.3"}
limits: {auth_failure_delay: 0}
users:
  - {address: alice@example.test, password: 'p:ss "w''rd\\'}
  - {address: b%b'o@example.test, password: smörgås €}
  - {address: carol@sales.example, password: carols-word}
"""
WAYS = [("imap", "dovecot", "imaps"), ("imap", "dovecot-2-3", "imaps"), ("pop3", "dovecot", "pop3s"), ("pop3", "dovecot-2-3", "pop3s"), ("smtp", "mta", "submission")]
MECHANISMS = ["GSSAPI", "GSS-SPNEGO"]
CLIENT = (HERE / "tickets.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Person:
    """Somebody at a terminal, without a ticket at first."""

    container: str
    endpoints: dict[str, Any]

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        argv = ("docker", "exec", "--interactive", "--env=KRB5_CONFIG=/tmp/krb5.conf", "--env=KRB5CCNAME=/tmp/ticket", self.container, *argv)
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def kinit(self, who: str, password: str) -> str:
        """Gets a ticket; what is wrong, "" where nothing is."""
        local, _, domain = who.rpartition("@")
        done = self.run("kinit", *([local] if domain == "example.test" else ["-E", who]), stdin=f"{password}\n")
        assert (done.returncode == 0) == (not done.stderr), done
        return done.stderr

    def logins(self, name: str) -> set[str]:
        """Logs in as this user, "" for whoever the ticket is of, in every way; all that the servers said."""
        servers = {"mta": self.endpoints["mta"], **self.endpoints["stores"]}
        tries = [f"{protocol}:{servers[server][listener][1]}:{mechanism}:{name}" for mechanism in MECHANISMS for protocol, server, listener in WAYS]
        done = self.run("python3", "-", *tries, stdin=CLIENT)
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
        assert len(said) == len(tries)
        return set(said)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program.started(tmp_path_factory.mktemp("tickets"), f"{NAME}-tickets", FILE) as program:
        yield program


@pytest.fixture(scope="module")
def endpoints(here: Program) -> dict[str, Any]:
    return here.endpoints


@pytest.fixture(scope="module")
def terminal(here: Program, endpoints: dict[str, Any]) -> Iterator[str]:
    image = images.build([PROGRAMS], Debian())["clients"]
    container = f"{here.name}-terminal"
    nothing = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/home/person:mode=0700,uid=5005", "--tmpfs=/tmp"]
    try:
        docker("run", "--detach", "--init", f"--name={container}", "--network=host", *nothing, image)
        for path, text in [(CA, Path(endpoints["ca"]).read_text(encoding="utf-8")), ("/tmp/krb5.conf", here("auth", "krb5-conf").out)]:
            subprocess.run(["docker", "exec", "-i", container, "sh", "-c", f"cat >{path}"], input=text, text=True, check=True)
        yield container
    finally:
        docker("rm", "--force", container)


@pytest.fixture
def person(terminal: str, endpoints: dict[str, Any]) -> Person:
    found = Person(terminal, endpoints)
    found.run("kdestroy", "-q")
    return found


def refused(said: set[str]) -> bool:
    return bool(said) and all("uthentication failed" in one for one in said)


@pytest.mark.parametrize(("who", "name"), [(ALICE, ""), (ALICE, "Alice@Example.TEST"), (BOB, BOB), (CAROL, CAROL)])
def test_a_ticket_is_a_login(person: Person, who: str, name: str) -> None:
    assert person.kinit(who, PASSWORDS[who]) == ""
    assert person.logins(name) == {"OK"}


@pytest.mark.parametrize("name", [BOB, "alice", CAROL, "fresh@inbox.example.test"])
def test_a_ticket_is_a_login_of_its_user_alone(person: Person, name: str) -> None:
    assert person.kinit(ALICE, PASSWORDS[ALICE]) == ""
    assert refused(person.logins(name))


def test_who_is_in_the_realm_and_nobody_in_the_stack_is_refused(here: Program, person: Person) -> None:
    key = json.loads((here.state / "state.json").read_text(encoding="utf-8"))["kerberos"]
    assert person.kinit("imap/localhost@example.test", key) == ""
    assert refused(person.logins(""))


def test_no_ticket_without_the_password_and_no_login_without_a_ticket(person: Person, endpoints: dict[str, Any]) -> None:
    assert "Password incorrect" in person.kinit(ALICE, "wrong")
    assert "Password incorrect" in person.kinit(ALICE, PASSWORDS[CAROL])
    assert "not found in Kerberos database" in person.kinit("nobody@example.test", "wrong")
    assert "not found in Kerberos database" in person.kinit("fresh@inbox.example.test", endpoints["disposable"]["password"])
    assert all("Error: Major " in one for one in person.logins("")), "the client gets nowhere"


def test_curl_reads_with_a_ticket_and_not_without(person: Person, endpoints: dict[str, Any]) -> None:
    url = f"imaps://localhost:{endpoints['stores']['dovecot']['imaps'][1]}"
    curl = ("curl", "--silent", "--show-error", "--cacert", CA, "--login-options", "AUTH=GSSAPI", "--user", f"{ALICE}:", "--url", url)
    assert person.run(*curl).returncode != 0
    assert person.kinit(ALICE, PASSWORDS[ALICE]) == ""
    done = person.run(*curl)
    assert done.returncode == 0 and "* LIST " in done.stdout, done


def test_tickets_of_users_that_come_change_and_go(here: Program, person: Person) -> None:
    dave = "dave@example.test"
    here("user", "add", dave, "--password-stdin", stdin=b"first of dave\n")
    assert person.kinit(dave, "first of dave") == ""
    assert person.logins(dave) == {"OK"}
    here("user", "passwd", dave, "--password-stdin", stdin=b"second\n")
    assert "Password incorrect" in person.kinit(dave, "first of dave")
    assert person.kinit(dave, "second") == ""
    here("user", "delete", dave)
    assert refused(person.logins(dave)), "the ticket is good, and its user is gone"
    assert "not found in Kerberos database" in person.kinit(dave, "second")


def test_a_key_table_is_whole_in_an_exported_file(here: Program, endpoints: dict[str, Any]) -> None:
    here("export", "compose", "--output", "exported.yaml")
    (kept,) = [one["content"] for name, one in yaml.safe_load((here.work / "exported.yaml").read_text(encoding="utf-8"))["configs"].items() if name == "dovecot-keytab"]
    assert kept == docker("exec", endpoints["stores"]["dovecot"]["container"], "base64", "-w0", "/etc/stackctl/keytab")


def test_nothing_shows_a_key(here: Program) -> None:
    known = json.loads((here.state / "state.json").read_text(encoding="utf-8"))
    shown = here("render").out + here("endpoints", "--json").out + here("auth", "krb5-conf", "--json").out
    argv = docker("inspect", *known["containers"].values())
    for secret in (known["kerberos"], *PASSWORDS.values(), *(one.encode().hex() for one in (known["kerberos"], *PASSWORDS.values()))):
        assert secret not in shown and secret not in argv
