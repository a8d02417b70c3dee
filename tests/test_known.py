"""Whether a native setting is one that its server knows, and that what is known is what the real server knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Demo
from program import docker

from stackctl.backends import all_backends
from stackctl.errors import BadStack
from stackctl.known import names
from stackctl.load import parse

pytestmark = pytest.mark.feature("B3", "A2")
HERE = Path(__file__).parent


def of(main: str = "", master: str = "") -> None:
    parts = ["    main_cf:", *(f"      {line}" for line in main.splitlines()), "    master_cf:", *(f"      {line}" for line in master.splitlines())]
    parse("\n".join(["mta:", "  settings:", *parts]), "stack.yaml", HERE)


@pytest.mark.parametrize(
    ("main", "master"),
    [
        ("smtpd_timeout: 30s", ""),
        ("smtp_destination_rate_delay: 1s", ""),  # of a transport that is there
        ("amavis_destination_recipient_limit: 1", "amavis: unix - - n - 2 smtp"),  # of one's own
        ("policy_time_limit: 3600", "policy/unix: '- n n - 0 spawn user=nobody argv=/bin/policy'"),
        ("mynet: 10.0.0.0/8\nmynetworks: [127.0.0.0/8, $mynet]", ""),
        ("mynet: 10.0.0.0/8\nmynetworks: '${mynet}'", ""),
        ("smtpd_restriction_classes: strict lax\nstrict: reject\nlax: permit", ""),
        ("people_server_host: ldap.example\nalias_maps: ldap:people", ""),
        ("own: 1", "smtp/inet/smtpd_banner: $own"),
        ("", "smtp/inet/smtpd_banner: hello\n2525: inet n - n - - smtpd -o smtpd_banner=x -o { smtpd_helo_required = no }\n2525/inet/smtpd_banner: hi"),
        ("", "maildrop: unix - n n - - pipe flags=DRhu user=vmail argv=/usr/bin/maildrop -o x"),
    ],
)
def test_what_a_server_knows_is_right(main: str, master: str) -> None:
    of(main, master)


@pytest.mark.parametrize(
    ("main", "master", "said"),
    [
        ("smtpd_timout: 30s", "", "stack.yaml:4: postfix has no setting 'smtpd_timout' (did you mean 'smtpd_timeout'?)"),
        ("amavis_destination_recipient_limit: 1", "", "no setting 'amavis_destination_recipient_limit'"),
        ("mynet: 10.0.0.0/8", "", "no setting 'mynet'"),
        ("strict: reject", "", "no setting 'strict'"),
        ("people_server_host: ldap.example\nalias_maps: ldap:pople", "", "no setting 'people_server_host'"),
        ("", "smtp/inet/smtpd_baner: hello", "(did you mean 'smtpd_banner'?)"),
        ("", "2525/inet/smtpd_banner: hello", "master_cf has no entry '2525/inet'"),
        ("", "2525: inet n - n - - smtpd -o smtpd_baner=x", "(did you mean 'smtpd_banner'?)"),
        ("", "2525: tcp n - n - - smtpd", "unknown type 'tcp' (there are: inet, unix, fifo, pass, unix-dgram)"),
        ("", "2525: inet n - n - - smptd", "unknown command 'smptd' (did you mean 'smtpd'?)"),
        ("", "2525: inet smtpd", "'inet smtpd' is no entry of this file (such as `inet n - n - - smtpd`)"),
    ],
)
def test_what_it_does_not_know_is_told_with_its_line(main: str, master: str, said: str) -> None:
    with pytest.raises(BadStack) as caught:
        of(main, master)
    assert said in caught.value.message, caught.value.message
    assert caught.value.exit_code == 2 and len(caught.value.problems) == 1


def test_the_patterns_of_every_backend_compile() -> None:
    for backend in all_backends().values():
        for file, known in backend.known.items():
            assert file in backend.settings
            for pattern in [*known.patterns, *known.used, *known.begun, known.inside, *(text for shape in known.shapes for text in (shape.key, shape.value))]:
                re.compile(pattern)
            assert known.entries_of in ("", *backend.settings)


@pytest.mark.e2e
def test_the_known_names_are_those_of_the_real_server(demo: Demo) -> None:
    """In both directions: a new version of the server brings and drops parameters."""
    backend = all_backends()[demo.endpoints["mta"]["backend"]]
    real = {line.partition(" =")[0] for line in docker("exec", demo.state.containers["mta"], "postconf", "-d").splitlines()}
    known = backend.known["main_cf"]
    there = names(backend.folder / known.names)
    assert there <= real, f"gone: {sorted(there - real)}"
    for name in real - there:  # of the entries of master.cf, and of those that a store has for itself
        entries = [found["entry"] for pattern in known.patterns if (found := re.fullmatch(pattern, name))]
        assert any(entry in known.entries or entry.startswith("deliver-") for entry in entries), f"new: {name}"


@pytest.mark.e2e
def test_the_known_entries_and_programs_are_those_of_the_real_server(demo: Demo) -> None:
    known = all_backends()[demo.endpoints["mta"]["backend"]].known["master_cf"]
    entries = [line.split()[:2] for line in docker("exec", demo.state.containers["mta"], "postconf", "-M").splitlines()]
    assert set(known.entries) == {"/".join(entry) for entry in entries if not entry[0].startswith("deliver-")}
    programs = set(docker("exec", demo.state.containers["mta"], "sh", "-c", "ls $(postconf -h daemon_directory)").split())
    assert set(known.words["command"]) <= programs
    # What is there besides is started by other means than master.cf.
    assert {name for name in programs - set(known.words["command"]) if "-" not in name} == {"fsstone", "master"}
