"""What each server says of its own configuration: shown, compared with its defaults, and never a secret in it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import pytest
import yaml
from conftest import Demo, store_names
from program import Program, docker

Cli = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.e2e, pytest.mark.feature("B4")]
SERVICES = ["mta", *store_names()]


def native(demo: Demo, service: str, *argv: str) -> str:
    """What a program in a service's container prints."""
    return docker("exec", demo.state.containers[service], *argv)


def test_show_is_what_postconf_says(cli: Cli, demo: Demo) -> None:
    done = cli("config", "show", "mta")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(native(demo, "mta", "postconf", "-n"))
    assert "submission inet" in done.stdout and "-o smtpd_sasl_auth_enable=yes" in done.stdout  # master.cf
    assert "message_size_limit = 12582912" in done.stdout and "\nalias_maps_are_no_parameter" not in done.stdout


def test_all_has_the_settings_that_nobody_made(cli: Cli, demo: Demo) -> None:
    short, long, defaults = (json.loads(cli("config", "show", "mta", *how, "--json").stdout)["mta"]["settings"] for how in ([], ["--all"], ["--defaults"]))
    assert "smtpd_timeout" not in short and "smtpd_timeout" in long and len(long) > 800
    assert set(short) <= set(long)
    assert long["message_size_limit"] == "12582912" and defaults["message_size_limit"] == "10240000"
    assert defaults["smtpd_timeout"] == native(demo, "mta", "postconf", "-dh", "smtpd_timeout").strip()


@pytest.mark.parametrize("service", SERVICES)
def test_every_server_shows_its_settings_and_no_hash(service: str, cli: Cli, demo: Demo) -> None:
    for how in ([], ["--all"], ["--defaults"]):
        done = cli("config", "show", service, *how)
        assert done.returncode == 0 and len(done.stdout.splitlines()) > 10, done.stderr
        assert not re.search(r"\$2[aby]\$", done.stdout)
        assert "PRIVATE KEY" not in done.stdout
        for account in [*demo.endpoints["accounts"], demo.endpoints["disposable"], demo.endpoints["catch_all"]]:
            assert account["password"] not in done.stdout


def test_the_difference_is_what_differs_and_nothing_else(cli: Cli) -> None:
    rows = {(row["service"], row["parameter"]): row for row in json.loads(cli("config", "diff", "--json").stdout)}
    assert {service for service, _ in rows} == set(SERVICES)
    assert all(row["default"] != row["here"] for row in rows.values())
    assert (rows["mta", "message_size_limit"]["default"], rows["mta", "message_size_limit"]["here"]) == ("10240000", "12582912")
    # Written in the file, but what it says is the default: `show` has it, `diff` has not.
    assert "mynetworks_style" not in {name for _, name in rows}
    assert ("mta", "inet_interfaces") not in rows and "\ninet_interfaces = all\n" in cli("config", "show", "mta").stdout
    assert rows["dovecot", "auth_mechanisms"]["default"] == "plain" and rows["dovecot", "auth_mechanisms"]["here"] == "plain login"
    assert rows["dovecot-2-3", "ssl"]["default"] == "yes"
    assert (rows["courier", "imapd/MAXDAEMONS"]["default"], rows["courier", "imapd/MAXDAEMONS"]["here"]) == ("40", "200")


def test_the_difference_of_one_service_is_a_table(cli: Cli) -> None:
    done = cli("config", "diff", "mta")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["PARAMETER", "DEFAULT", "HERE"]
    assert any(row.split() == ["message_size_limit", "10240000", "12582912"] for row in rows)
    assert not any(row.startswith("imapd/") for row in rows)


def test_an_unknown_service_is_named_with_those_that_are_there(cli: Cli) -> None:
    for command in ("show", "diff"):
        done = cli("config", command, "mtb")
        assert done.returncode == 2 and "no service mtb" in done.stderr and "it has mta, " in done.stderr
    assert cli("config", "show", "mta", "--all", "--defaults").returncode == 2


def test_of_a_stack_that_is_down_its_files_are_shown(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = Program.below(tmp_path_factory.mktemp("config"), "config-down")
    program.write(
        yaml.safe_dump({"name": "config-down", "stores": [{"backend": "dovecot"}], "mta": {"settings": {"main_cf": {"smtp_sasl_password_maps": "static:joe:hunter2"}}}})
    )
    found = program("config", "show", "mta", "--json").json["mta"]
    assert found["running"] is False and found["settings"]["myhostname"] == "mail.example.test"
    assert found["settings"]["smtp_sasl_password_maps"] == "static:joe:***" and "hunter2" not in found["text"]
    assert not program.state.joinpath("state.json").exists()


def test_a_file_that_the_server_cannot_read_is_told_in_its_words(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = Program.below(tmp_path_factory.mktemp("config"), "config-bad")
    program.write(yaml.safe_dump({"name": "config-bad", "stores": [{"backend": "dovecot", "settings": {"dovecot_conf": {"no_such_setting": 1}}}]}))
    done = program("config", "show", "dovecot", code=1)
    assert "no_such_setting" in done.err and "stackctl check" in done.err
