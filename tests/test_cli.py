"""Every command as a person runs it: help, JSON, exit codes, and what it does to a stack that runs. No server is a mock."""

from __future__ import annotations

import base64
import imaplib
import json
import os
import re
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from program import Program, containers, docker, ended, interrupt, left, tokens, until

from stackctl.cli.app import app, run
from stackctl.clients.imap import Imap
from stackctl.clients.pop3 import Pop3
from stackctl.clients.smtp import Refused, Smtp
from stackctl.clients.transcript import AuthRefused
from stackctl.clients.where import Where

NAME = f"cli{os.getpid()}"
FILE = f"""\
name: {NAME}
stores: [{{backend: dovecot}}, {{backend: courier}}]
users:
  - address: alice@example.test
  - address: bob@example.test
  - address: o'hara.mary-ann@example.test
    password: 'it''s 5 $HOME "q" #x \\ y'
limits: {{auth_failure_delay: 0}}
"""
ROOT = Path(__file__).resolve().parent.parent
STORES = ("dovecot", "courier")
ALICE, BOB, MARY = "alice@example.test", "bob@example.test", "o'hara.mary-ann@example.test"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program.below(tmp_path_factory.mktemp("cli"), NAME)
    program.write(FILE)
    with program.up():
        yield program


@pytest.fixture
def alone(tmp_path: Path) -> Program:
    """The program where no stack is up."""
    return Program.below(tmp_path, f"{NAME}-a")


def endpoints(program: Program, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = program("endpoints", "--json", "--secrets", *arguments).json
    return found


def subjects(program: Program, address: str, store: str) -> list[str]:
    return [row["subject"] for row in program("inbox", address, "--store", store, "--json").json]


def disposable(what: str) -> str:
    return f"{what}-{time.monotonic_ns()}@inbox.example.test"


# --- The command tree


def tree() -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        found[" ".join(path)] = command
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*path, name))

    for name, command in getattr(typer.main.get_command(app), "commands", {}).items():
        walk(command, (name,))
    return found


TREE = tree()
LEAVES = [path for path, command in TREE.items() if not hasattr(command, "commands")]


def test_the_commands_are_all_there() -> None:
    wanted = """init schema doctor build render check certs up status endpoints env port logs trace stats shell send inbox wait talk pause resume down ls prune
                ca user export"""
    assert set(wanted.split()) <= set(TREE)
    assert {"ca path", "ca env", "ca install", "ca uninstall", "user add", "user passwd", "user delete", "user list", "export compose"} <= set(TREE)


@pytest.mark.parametrize("command", TREE)
def test_a_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: {'printf' if command == 'talk' else ''}" in text
    assert f"stackctl {command}" in text.partition("Example: ")[2], "the example shows this command"


@pytest.mark.parametrize("command", LEAVES)
def test_a_command_takes_json_and_name(command: str) -> None:
    options = {name for parameter in TREE[command].params for name in parameter.opts}
    assert {"--json", "--name"} <= options
    assert all(parameter.help for parameter in TREE[command].params if parameter.name != "help"), "an option without a word of explanation"


@pytest.mark.parametrize("command", LEAVES)
def test_a_command_is_in_the_documentation(command: str) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    if len(text) < 2000:
        pytest.xfail("the documentation is not written yet")
    assert f"stackctl {command}" in text


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "Upper", "a" * 33, "-x"])
@pytest.mark.parametrize("command", ["up", "status", "down"])
def test_a_name_that_no_stack_can_have_is_told(command: str, name: str, alone: Program) -> None:
    assert "is no name of a stack" in alone(command, f"--name={name}", code=2).err
    assert not (alone.folder / "elsewhere").exists()


def test_help_names_the_exit_codes(alone: Program) -> None:
    text = " ".join(alone("--help").out.split())
    assert "0 ok, 1 a check or test failed, 2 usage or bad stack.yaml, 3 engine trouble, 4 timed out, 130 interrupted" in text


def test_the_version_is_told(alone: Program) -> None:
    assert re.fullmatch(r"stackctl \d+\.\d+\S*\n", alone("--version").out)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str, alone: Program) -> None:
    program = Path(sys.executable).with_name("stackctl")
    done = subprocess.run([program, "--show-completion", shell], capture_output=True, text=True, check=True, env={**alone.env, "SHELL": f"/bin/{shell}"})
    assert "_STACKCTL_COMPLETE" in done.stdout
    words = {"_STACKCTL_COMPLETE": "complete_bash", "COMP_WORDS": "stackctl us", "COMP_CWORD": "1"}
    assert subprocess.run([program], capture_output=True, text=True, check=True, env={**alone.env, **words}).stdout.split() == ["user"]


# --- Exit codes where nothing runs


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["up", "--no-such-option"],
        ["inbox"],
        ["wait", "a@b.test", "--count", "0"],
        ["user"],
        ["env", "--format", "xml"],
        ["up", "--file", "absent.yaml"],
        ["status", "--name", "no-such-stack"],
        ["send", "--to", ALICE, "--name", "no-such-stack"],
        ["prune", "--json", "--name", "no-such-stack"],
        ["init", "--name", "Not A Name"],
        ["init", "absent/stack.yaml"],
        ["render", "--file", "absent.yaml"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_code_2(arguments: list[str], alone: Program) -> None:
    ran = alone(*arguments, code=None)
    if arguments[0] == "prune":  # nothing to remove, nothing to ask
        assert ran.code == 0
        return
    assert ran.code == 2, str(ran)
    assert ran.err.strip() or arguments == ["user"]


@pytest.mark.parametrize("command", ["up", "render", "check", "build", "export compose"])
def test_a_bad_stack_yaml_is_code_2_with_every_line_that_is_wrong(command: str, alone: Program) -> None:
    alone.write(f"name: {alone.name}\nstroes: []\nmessage_size_limit: many\n")
    ran = alone(*command.split(), code=2)
    assert "stack.yaml:2: " in ran.err
    assert "did you mean 'stores'" in ran.err
    assert "stack.yaml:3: " in ran.err
    assert left(alone.name) == []
    assert not alone.state.exists()


def test_an_error_is_json_where_json_is_asked_for(alone: Program) -> None:
    alone.write("stroes: []\n")
    error = json.loads(alone("up", "--json", code=2).err)
    assert set(error) == {"error", "hint", "exit_code"}
    assert error["exit_code"] == 2
    assert error["hint"]


@pytest.mark.parametrize("command", [["up"], ["build"], ["check"], ["ls"], ["down"], ["up", "--json"]], ids=" ".join)
def test_an_engine_that_does_not_answer_is_code_3(command: list[str], alone: Program, tmp_path: Path) -> None:
    closed = tmp_path / "closed.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(closed))
    ran = alone(*command, code=3, DOCKER_HOST=f"unix://{closed}")
    assert "no container engine answers" in ran.err
    assert "stackctl doctor" in ran.err


def test_schema_is_a_json_schema(alone: Program) -> None:
    schema = alone("schema").json
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"stores", "users", "tls"} <= set(schema["properties"])
    assert alone("schema", "--json").json == schema


def test_init_writes_once(alone: Program) -> None:
    assert alone("init", "--name", alone.name, "--json").json == {"path": "stack.yaml"}
    text = (alone.work / "stack.yaml").read_text()
    assert f"name: {alone.name}" in text
    assert "is there already" in alone("init", code=2).err
    assert (alone.work / "stack.yaml").read_text() == text
    alone("init", "--force")
    assert "name: demo" in (alone.work / "stack.yaml").read_text()


def test_render_shows_files_and_writes_them(alone: Program) -> None:
    alone.write(FILE)
    shown = alone("render", "--json").json
    assert "mta/main.cf" in shown
    assert "==> mta/main.cf <==" in alone("render").out
    alone("render", "--output", "out")
    assert (alone.work / "out/mta/main.cf").read_text() == shown["mta/main.cf"]


def test_the_authority_is_made_once_and_told(alone: Program) -> None:
    path = alone("ca", "path", "--json").json["path"]
    assert alone("ca", "path").out.strip() == path
    assert b"BEGIN CERTIFICATE" in Path(path).read_bytes()
    variables = alone("ca", "env", "--json").json
    assert variables["SSL_CERT_FILE"]
    done = subprocess.run(["sh", "-c", f"{alone('ca', 'env').out}\nprintf %s \"$SSL_CERT_FILE\""], capture_output=True, text=True, check=True)
    assert done.stdout == variables["SSL_CERT_FILE"]


# --- What is told of a stack


@pytest.mark.e2e
def test_endpoints_are_in_the_shape_that_other_tools_rely_on(here: Program) -> None:
    found = here("endpoints", "--json").json

    def listeners(part: dict[str, Any], *names: str) -> None:
        assert isinstance(part["backend"], str)
        assert re.match(r"\d+\.\d+", part["version"])
        assert part["container"] in containers(NAME)
        for name in names:
            host, port = part[name]
            assert host == "127.0.0.1"
            assert isinstance(port, int)

    assert {"schema", "name", "domain", "ca", "mta", "stores", "accounts", "disposable"} <= set(found)
    assert (found["schema"], found["name"], found["domain"]) == (1, NAME, "example.test")
    assert Path(found["ca"]).is_absolute()
    assert Path(found["ca"]).is_file()
    listeners(found["mta"], "smtp", "submission", "submissions")
    assert list(found["stores"]) == ["dovecot", "courier"]
    listeners(found["stores"]["dovecot"], "imap", "imaps", "pop3", "pop3s", "sieve")
    listeners(found["stores"]["courier"], "imap", "imaps", "pop3", "pop3s")
    assert found["stores"]["courier"]["sieve"] is None
    assert found["accounts"] == [{"address": address, "password": None} for address in (ALICE, BOB, MARY)]
    assert found["disposable"] == {"domain": "inbox.example.test", "password": None}


@pytest.mark.e2e
def test_passwords_are_shown_only_on_request(here: Program) -> None:
    passwords = tokens(endpoints(here))
    assert all(passwords.values())
    assert passwords[MARY] == "it's 5 $HOME \"q\" #x \\ y"
    for command in (["endpoints"], ["endpoints", "--json"], ["env"], ["status", "--json"], ["user", "list", "--json"], ["render"], ["logs"], ["up", "--json"]):
        text = here(*command).out
        assert not [password for password in passwords.values() if password in text], command
    text = here("endpoints", "--secrets").out
    assert all(password in text for password in passwords.values())


def _dotenv(text: str) -> dict[str, str]:
    """Reads what the usual libraries do: a bare value to the end of its line, or one in single quotes with \\ before \\ and '."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        assert re.fullmatch(r"[A-Z_][A-Z0-9_]*", key), line
        if value.startswith("'"):
            assert re.fullmatch(r"'([^'\\]|\\.)*'", value), line
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        else:
            assert not re.search(r"[\s\"'#$\\]", value), line
        found[key] = value
    return found


@pytest.mark.e2e
@pytest.mark.parametrize("secrets", [[], ["--secrets"]], ids=["without", "with secrets"])
def test_the_three_forms_of_env_say_the_same(secrets: list[str], here: Program) -> None:
    variables: dict[str, str] = here("env", "--format", "json", *secrets).json
    assert here("env", "--json", *secrets).json == variables
    assert _dotenv(here("env", *secrets).out) == variables
    script = 'eval "$1" && env -0'
    done = subprocess.run(["sh", "-euc", script, "sh", here("env", "--format", "shell", *secrets).out], capture_output=True, text=True, check=True)
    evaluated = dict(item.partition("=")[::2] for item in done.stdout.split("\0") if item)
    assert {key: evaluated.get(key) for key in variables} == variables
    found = here("endpoints", "--json").json
    assert variables["MAIL_SMTP_PORT"] == str(found["mta"]["smtp"][1])
    assert variables["MAIL_COURIER_IMAPS_PORT"] == str(found["stores"]["courier"]["imaps"][1])
    assert variables["MAIL_CA"] == found["ca"]
    assert ("it's 5 $HOME \"q\" #x \\ y" in variables.values()) is bool(secrets)


@pytest.mark.e2e
def test_port_tells_one_port(here: Program) -> None:
    found = endpoints(here)
    assert here("port", "smtp").out == f"{found['mta']['smtp'][1]}\n"
    assert here("port", "imaps").out == f"{found['stores']['dovecot']['imaps'][1]}\n"
    assert here("port", "courier.imaps", "--json").json == {"host": "127.0.0.1", "port": found["stores"]["courier"]["imaps"][1]}
    for unknown in ("nntp", "provides", "courier.sieve", "nobody.imaps", "mta.imaps"):
        assert here("port", unknown, code=2).err


@pytest.mark.e2e
def test_status_tells_a_container_that_stopped_and_up_starts_that_alone(here: Program) -> None:
    rows = here("status", "--json").json
    assert [row["service"] for row in rows] == ["mta", *STORES]
    assert set(rows[0]) == {"service", "backend", "version", "state", "since", "ports"}
    before = endpoints(here)
    try:
        docker("stop", "-t", "5", before["stores"]["courier"]["container"])
        ran = here("status", "--json", code=1)
        assert {row["service"]: row["state"] for row in ran.json} == {"mta": "running", "dovecot": "running", "courier": "exited"}
        assert "courier" in json.loads(ran.err)["error"]
    finally:
        assert here("up", "--json").json["changed"] is True
    assert endpoints(here) == before
    here("status")


@pytest.mark.e2e
def test_a_second_up_changes_nothing(here: Program) -> None:
    before = endpoints(here), sorted(containers(NAME))
    assert here("up", "--json").json["changed"] is False
    assert "unchanged" in here("up").out
    assert (endpoints(here), sorted(containers(NAME))) == before


@pytest.mark.e2e
def test_ls_lists_the_stack(here: Program) -> None:
    row = {"name": NAME, "state": "running", "services": ["courier", "dovecot", "mta"], "file": str(here.work / "stack.yaml")}
    assert row in here("ls", "--json").json
    assert here("ls", "--json", "--name", NAME).json == [row]
    assert NAME in here("ls").out
    assert here("ls", "--json", "--name", "no-such-stack").json == []


@pytest.mark.e2e
def test_certs_describes_the_certificate(here: Program) -> None:
    found = here("certs", "--json").json
    assert found["path"] == str(here.state / "cert.pem")
    assert found["sni"] == []
    text = here("certs").out
    assert "mail.example.test" in text
    assert "courier.example.test" in text


@pytest.mark.e2e
def test_check_lets_every_server_look_at_its_files(here: Program) -> None:
    found = here("check", "--json").json
    assert {service: one["ok"] for service, one in found.items()} == {"mta": True, "dovecot": True, "courier": True}
    bad = here.write(FILE.replace("{backend: dovecot}", "{backend: dovecot, settings: {dovecot_conf: {no_such_setting: 1}}}"), "bad.yaml")
    ran = here("check", "--file", str(bad), code=1)
    assert "no_such_setting" in ran.out
    assert "dovecot" in ran.err


@pytest.mark.e2e
def test_build_of_what_is_there_tells_the_tags(here: Program) -> None:
    tags = here("build", "--json").json
    assert set(tags) == {"postfix", "dovecot", "courier"}
    assert all(re.fullmatch(r"stackctl/[\w.-]+:[0-9a-f]{12}", tag) for tag in tags.values())


@pytest.mark.e2e
def test_logs_are_those_of_the_servers(here: Program) -> None:
    assert "postfix" in here("logs", "mta").out
    assert {line["service"] for line in here("logs", "--json").json} == {"mta", *STORES}
    assert len(here("logs", "--json", "--tail", "5").json) == 5
    assert "no service" in here("logs", "nobody", code=2).err


@pytest.mark.e2e
def test_shell_runs_a_command_in_a_service(here: Program) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", here("shell", "mta", "postconf", "-h", "mail_version").out)
    assert here("shell", "mta", "sh", "-c", "exit 7", code=7)
    assert here("shell", "mta", "--", "sh", "-c", "exit 7", code=7)
    assert here("shell", "--json", "dovecot", "echo", "hello").json == {"exit_code": 0, "output": "hello\n"}
    assert here("shell", "--json", "dovecot", "false", code=1).json["exit_code"] == 1
    here("shell", "nobody", "true", code=2)


def test_a_page_to_open_wants_a_webmail(here: Program) -> None:
    ran = here("open", "webmail", code=2)
    assert "has no web page of webmail" in ran.err and "`webmail: {}`" in ran.err


def test_a_login_wants_a_host(here: Program) -> None:
    ran = here("login", "alice", code=2)
    assert "has no login host" in ran.err and "`host: {}`" in ran.err


# --- Sending and reading


@pytest.mark.e2e
@pytest.mark.parametrize("via", ["smtp", "submission", "submissions"])
def test_a_message_gets_in_by_every_way(via: str, here: Program) -> None:
    to = disposable(via)
    sent = here("send", "--to", to, "--subject", f"by {via}", "--body", "Text.", "--via", via, "--json").json
    assert sent["accepted"] == [to]
    assert sent["refused"] == {}
    for store in STORES:
        rows = here("wait", to, "--subject", f"^by {via}$", "--store", store, "--json").json
        assert [row["subject"] for row in rows] == [f"by {via}"]
        assert set(rows[0]) == {"uid", "from", "subject", "date", "size", "message_id"}
        raw = here("inbox", to, "--store", store, "--show", "1", "--raw").raw
        assert (b"with ESMTPSA" in raw) is (via != "smtp")


@pytest.mark.e2e
def test_send_knows_cc_bcc_attachments_and_standard_input(here: Program, tmp_path: Path) -> None:
    to, cc, bcc = (disposable(what) for what in ("to", "cc", "bcc"))
    attached = tmp_path / "größe.bin"
    attached.write_bytes(bytes(range(256)))
    here("send", "--to", to, "--cc", cc, "--bcc", bcc, "--subject", "Grüße", "--attach", str(attached), "--from", BOB, stdin="Schöne Grüße.\n.\n".encode())
    for who in (to, cc, bcc):
        for store in STORES:
            here("wait", who, "--subject", "Grüße", "--from", BOB, "--store", store)
    raw = here("inbox", bcc, "--show", "-1", "--raw").raw
    header = raw.partition(b"\r\n\r\n")[0]
    assert bcc.encode() not in re.sub(rb"(?i)(Delivered-To|X-Original-To|Received):.*?\r\n(?=\S)", b"", header + b"\r\nX", flags=re.DOTALL)
    assert to.encode() in header
    assert cc.encode() in header
    assert b"\r\nBcc:" not in header
    shown = here("inbox", to, "--show", "1").out
    assert "Schöne Grüße.\n.\n" in shown
    assert "[größe.bin, 256 octets]" in shown
    assert here("inbox", to, "--show", "1", "--json").json["subject"] == "Grüße"


@pytest.mark.e2e
def test_a_message_from_a_file_goes_through_octet_by_octet(here: Program, tmp_path: Path) -> None:
    to = disposable("eml")
    eml = tmp_path / "message.eml"
    octets = f"From: {ALICE}\nTo: {to}\nSubject: raw\nDate: Tue, 24 Nov 2026 06:00:00 +0000\nMessage-ID: <raw@example.test>\n\n.dot\n..two\nFrom here\n\ttab\n\n".encode()
    eml.write_bytes(octets)
    here("send", "--to", to, "--eml", str(eml))
    for store in STORES:
        here("wait", to, "--store", store)
        assert here("inbox", to, "--store", store, "--show", "1", "--raw").raw.endswith(b"\r\n" + octets.replace(b"\n", b"\r\n"))


@pytest.mark.e2e
def test_a_refused_recipient_is_code_1(here: Program) -> None:
    good = disposable("good")
    ran = here("send", "--to", good, "--cc", "nobody@example.test", "--subject", "partly", "--body", "", "--json", code=1)
    assert ran.json["accepted"] == [good]
    assert ran.json["refused"]["nobody@example.test"].startswith("550")
    here("wait", good, "--subject", "partly")
    ran = here("send", "--to", "nobody@example.test", "--body", "", code=1)
    assert "550" in ran.err
    assert "relay" in here("send", "--to", "someone@elsewhere.example", "--body", "", "--via", "smtp", code=1).err.lower()
    assert here("send", "--to", good, "--from", "nobody@example.test", "--body", "", code=2).err
    here("send", "--to", good, "--via", "pigeon", "--body", "", code=2)
    here("send", "--body", "", code=2)
    here("send", "--to", good, "--eml", "absent.eml", code=2)


@pytest.mark.e2e
def test_inbox_lists_and_shows(here: Program) -> None:
    to = disposable("list")
    assert "is empty" in here("inbox", to).out
    assert here("inbox", to, "--json").json == []
    for number in (1, 2):
        here("send", "--to", to, "--subject", f"number {number}", "--body", f"This is {number}.")
        here("wait", to, "--count", str(number))
    assert subjects(here, to, "dovecot") == ["number 1", "number 2"]
    assert "This is 1." in here("inbox", to, "--show", "1").out
    assert "This is 2." in here("inbox", to, "--show", "-1").out
    for wrong in ("0", "3", "-3"):
        assert "there is no message" in here("inbox", to, "--show", wrong, code=2).err
    here("inbox", to, "--store", "nobody", code=2)
    here("inbox", "nobody@example.test", code=2)


@pytest.mark.e2e
@pytest.mark.parametrize("store", STORES)
def test_wait_ends_when_the_message_is_there(store: str, here: Program) -> None:
    to = disposable("wait")
    waiting = here.start("wait", to, "--subject", "^the one$", "--store", store, "--json")
    try:
        here("send", "--to", to, "--subject", "another", "--body", "")
        here("wait", to, "--subject", "another", "--store", store)
        assert waiting.poll() is None
        here("send", "--to", to, "--subject", "the one", "--body", "")
        ran = ended(waiting, 20)
    finally:
        waiting.kill()
    assert ran.code == 0
    assert [row["subject"] for row in ran.json] == ["the one"]


@pytest.mark.e2e
def test_wait_gives_up_with_code_4(here: Program) -> None:
    to = disposable("nothing")
    start = time.monotonic()
    ran = here("wait", to, "--timeout", "0.3", code=4)
    assert time.monotonic() - start < 5
    assert "nothing" in ran.err
    here("wait", to, "--subject", "[", code=2)


@pytest.mark.e2e
def test_an_interrupt_is_code_130(here: Program) -> None:
    waiting = here.start("wait", disposable("never"))
    try:
        container = endpoints(here)["stores"]["dovecot"]["container"]
        until(lambda: "never-" in docker("exec", container, "doveadm", "who"), what="a login of the waiting command")
        interrupt(waiting)
        ran = ended(waiting, 10)
    finally:
        waiting.kill()
    assert ran.code == 130
    assert "interrupted" in ran.err


@pytest.mark.e2e
def test_talk_shows_the_dialogue_and_no_password(here: Program) -> None:
    passwords = tokens(endpoints(here))
    scripts = {
        "smtp": (["NOOP", "QUIT"], "C: NOOP", "S: 250"),
        "submission": (["EHLO client.invalid", "AUTH PLAIN $PLAIN", "QUIT"], "S: 235", "C: AUTH PLAIN"),
        "imap": (["a LOGIN $USER $PASSWORD", "b SELECT INBOX", "c LOGOUT"], "C: b SELECT INBOX", "S: b OK"),
        "pop3": (["USER $USER", "PASS $PASSWORD", "STAT", "QUIT"], "C: STAT", "S: +OK"),
    }
    for store in STORES:
        for protocol, (lines, *expected) in scripts.items():
            ran = here("talk", protocol, "--store", store, stdin="\n".join([*lines, ""]).encode())
            for text in expected:
                assert text in ran.out, ran.out
            plain = base64.b64encode(f"\0{ALICE}\0{passwords[ALICE]}".encode()).decode()
            assert passwords[ALICE] not in ran.out + ran.err
            assert plain not in ran.out + ran.err
    script = here.work / "script"
    script.write_text("NOOP\nQUIT\n")
    told = here("talk", "smtp", "--script", str(script), "--json").json
    assert told["ok"] is True
    assert "C: NOOP" in told["dialogue"]
    here("talk", "gopher", code=2)
    here("talk", "smtp", "--script", "absent", code=2)


# --- Users, live


def can_log_in(found: dict[str, Any], address: str, password: str) -> set[str]:
    """The services that take a login, asked all at once: a server may take seconds to refuse."""

    def taken(service: tuple[str, type[Imap | Pop3 | Smtp], Where]) -> set[str]:
        name, session, where = service
        with session(where) as client:
            try:
                client.login(address, password)
            except AuthRefused:
                return set()
        return {name}

    services: list[tuple[str, type[Imap | Pop3 | Smtp], Where]] = [("mta", Smtp, Where.of(found, "mta", "submission"))]
    for listener, session in (("imaps", Imap), ("pop3s", Pop3)):
        services += [(f"{store} {listener}", session, Where.of(found, store, listener)) for store in found["stores"]]
    with ThreadPoolExecutor(len(services)) as pool:
        return set().union(*pool.map(taken, services))


EVERYWHERE = {"mta", *(f"{store} {listener}" for store in STORES for listener in ("imaps", "pop3s"))}


@pytest.mark.e2e
def test_a_user_is_added_changed_and_deleted_live(here: Program) -> None:
    found, before = endpoints(here), sorted(containers(NAME))
    who = "carol@example.test"
    with Smtp(Where.of(found, "mta", "smtp")) as smtp, pytest.raises(Refused, match="550"):
        smtp.send(ALICE, [who], b"\r\n")

    assert here("user", "add", "Carol@example.test", "--password-stdin", "--json", stdin=b"first one\n").json == {"address": who, "done": "added", "password": None}
    try:
        assert can_log_in(found, who, "first one") == EVERYWHERE
        here("send", "--to", who, "--subject", "welcome", "--body", "")
        here("send", "--from", who, "--to", ALICE, "--subject", "thanks", "--body", "")
        for store in STORES:
            here("wait", who, "--subject", "welcome", "--store", store)
        rows = here("user", "list", "--json").json
        assert {"address": who, "added_live": True} in rows
        assert {"address": ALICE, "added_live": False} in rows

        made = here("user", "passwd", who, "--generate", "--json").json["password"]
        assert len(made) == 20
        assert can_log_in(found, who, made) == EVERYWHERE
        assert can_log_in(found, who, "first one") == set()
        here("user", "passwd", who, "--password-stdin", stdin=b"second one\n")
        assert can_log_in(found, who, "second one") == EVERYWHERE

        assert here("up", "--json").code == 0
        assert can_log_in(found, who, "second one") == EVERYWHERE, "an `up` keeps users that were added live"
    finally:
        here("user", "delete", who, code=None)
    assert can_log_in(found, who, "second one") == set()
    assert "550" in here("send", "--to", who, "--body", "", code=1).err
    assert who not in [row["address"] for row in here("user", "list", "--json").json]
    assert sorted(containers(NAME)) == before, "no container was started anew"


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["add", ALICE, "--generate"], b"", "already"),
        (["add", "catch-all@example.test", "--generate"], b"", "already"),
        (["add", "x@inbox.example.test", "--generate"], b"", "exists already"),
        (["add", "x@elsewhere.example", "--generate"], b"", "does not serve"),
        (["add", "no address", "--generate"], b"", "address"),
        (["add", "a+b@example.test", "--generate"], b"", "separates the detail"),
        (["add", "x\ny@example.test", "--generate"], b"", "local part"),
        (["add", "dora@example.test"], b"", "no password"),
        (["add", "dora@example.test", "--password-stdin"], b"\n", "empty"),
        (["add", "dora@example.test", "--password-stdin"], b"a\tb\n", "control character"),
        (["add", "dora@example.test", "--password-stdin"], b"x" * 73 + b"\n", "72"),
        (["add", "dora@example.test", "--generate", "--quota", "much"], b"", "much"),
        (["passwd", "nobody@example.test", "--generate"], b"", "no user"),
        (["delete", "nobody@example.test"], b"", "no user"),
        (["delete", "catch-all@example.test"], b"", "catch-all"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_change_that_cannot_be_is_code_2_and_changes_nothing(arguments: list[str], stdin: bytes, said: str, here: Program) -> None:
    before = (here.state / "state.json").read_bytes()
    assert said in here("user", *arguments, code=2, stdin=stdin).err
    assert (here.state / "state.json").read_bytes() == before


@pytest.mark.e2e
def test_a_user_of_the_file_can_be_deleted_and_added_again(here: Program) -> None:
    found = endpoints(here)
    here("user", "delete", BOB)
    try:
        assert can_log_in(found, BOB, tokens(found)[BOB]) == set()
        assert "no user" in here("user", "delete", BOB, code=2).err
    finally:
        here("user", "add", BOB, "--password-stdin", stdin=b"back again\n")
    assert can_log_in(found, BOB, "back again") == EVERYWHERE


# --- Changes of the file, pause, down


@pytest.mark.e2e
def test_a_changed_file_is_shown_and_applied_live(here: Program) -> None:
    here("up")
    assert "nothing would change" in here("render", "--diff").out
    assert here("render", "--diff", "--json").json == {}
    before = sorted(containers(NAME))
    path = here.write(FILE + "message_size_limit: 2M\n")
    try:
        ran = here("render", "--diff", code=1)
        assert re.search(r"^-message_size_limit = 52428800$", ran.out, re.MULTILINE)
        assert re.search(r"^\+message_size_limit = 2097152$", ran.out, re.MULTILINE)
        steps = here("up", "--json").json["steps"]
        assert [step["detail"] for step in steps if step["what"] == "mta takes new files"] == ["main.cf"]
        assert sorted(containers(NAME)) == before
        assert "nothing would change" in here("render", "--diff").out
        with Smtp(Where.of(endpoints(here), "mta", "smtp")) as smtp:
            assert smtp.extensions["size"] == "2097152"
    finally:
        path.write_text(FILE)
        here("up")
    with Smtp(Where.of(endpoints(here), "mta", "smtp")) as smtp:
        assert smtp.extensions["size"] == "52428800"
    assert sorted(containers(NAME)) == before


@pytest.mark.e2e
def test_a_paused_stack_keeps_its_connections(here: Program) -> None:
    found = endpoints(here)
    with Imap(Where.of(found, "courier", "imaps")) as imap:
        imap.login(ALICE, tokens(found)[ALICE])
        assert here("pause", "--json").json == {"name": NAME, "state": "paused"}
        try:
            assert [row["state"] for row in here("status", "--json", code=1).json] == ["paused"] * 3
            imap.library.socket().settimeout(0.2)
            with pytest.raises(TimeoutError):
                imap.library.socket().recv(1)
            imap.library.socket().settimeout(30)
        finally:
            assert here("resume", "--json").json == {"name": NAME, "state": "resumed"}
        assert imap.select()["EXISTS"] >= 0
    here("status")


@pytest.mark.e2e
def test_up_wakes_a_paused_stack(here: Program) -> None:
    here("pause")
    here("up")
    here("status")


@pytest.mark.e2e
def test_down_and_up_keep_mail_passwords_and_ports(here: Program) -> None:
    to = disposable("kept")
    here("send", "--to", to, "--subject", "kept", "--body", "")
    for store in STORES:
        here("wait", to, "--store", store)
    before = endpoints(here)
    try:
        removed = here("down", "--json").json
        assert removed["name"] == NAME
        assert not [what for what in left(NAME) if not what.startswith("volume ")]
        assert "is not up" in here("status", code=2).err
        assert "was not up" in here("down").out
    finally:
        here("up")
    after = endpoints(here)
    for part in (before, after):
        for service in (part["mta"], *part["stores"].values()):
            service.pop("container")
    assert after == before
    for store in STORES:
        assert subjects(here, to, store) == ["kept"]


@pytest.mark.e2e
def test_init_up_prune_and_down_of_another_stack(tmp_path: Path) -> None:
    other = Program.below(tmp_path, f"{NAME}-b")
    other("init", "--name", other.name, "mine.yaml")
    with other.up("--file", "mine.yaml"):
        assert other("status", "--json", "--file", "mine.yaml").json
        to = disposable("lost")
        other("send", "--file", "mine.yaml", "--to", to, "--body", "", "--subject", "x")
        other("wait", "--file", "mine.yaml", to)
        assert other("prune", "--yes", "--json", "--name", other.name).json == {"removed": []}, "what runs is not pruned"
        assert other("status", "--name", other.name).code == 0

        other("down", "--name", other.name)
        assert left(other.name)
        other("prune", "--json", "--name", other.name, code=2)
        assert left(other.name)
        removed = other("prune", "--yes", "--json", "--name", other.name).json["removed"]
        assert len([line for line in removed if "volume" in line]) == 6
        assert left(other.name) == []
        assert not other.state.exists()
        assert "nothing to remove" in other("prune", "--yes", "--name", other.name).out

        other("up", "--file", "mine.yaml")
        assert other("inbox", "--file", "mine.yaml", to, "--json").json == [], "its mail went with the volumes"
        other("down", "--volumes", "--file", "mine.yaml")
        assert left(other.name) == []
        assert not other.state.exists()


@pytest.mark.e2e
def test_up_fresh_starts_from_nothing(tmp_path: Path) -> None:
    other = Program.below(tmp_path, f"{NAME}-d")
    other.write(f"name: {other.name}\nstores: [{{backend: dovecot}}]\n")
    with other.up():
        before = tokens(endpoints(other))
        other("send", "--to", ALICE, "--subject", "old", "--body", "")
        other("wait", ALICE, "--subject", "old")
        other("user", "add", "carol@example.test", "--generate")
        other("up", "--fresh")
        after = tokens(endpoints(other))
        assert set(after) == set(before)
        assert not set(after.values()) & set(before.values())
        assert subjects(other, ALICE, "dovecot") == []


@pytest.mark.e2e
def test_an_exported_file_runs_without_stackctl(tmp_path: Path) -> None:
    other = Program.below(tmp_path, f"{NAME}-c")
    other.write(f"name: {other.name}\n")
    path = other.work / "out.yaml"
    assert other("export", "compose", "--output", "out.yaml", "--json").json == {"path": "out.yaml"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert left(other.name) == []
    services = yaml.safe_load(path.read_text())["services"]

    def port(service: str, inner: int) -> int:
        return next(int(text.split(":")[1]) for text in services[service]["ports"] if text.endswith(f":{inner}"))

    secrets = json.loads((other.state / "state.json").read_text())["credentials"]
    try:
        docker("compose", "-f", str(path), "up", "-d", "--quiet-pull")

        def accepted() -> bool:
            try:
                with smtplib.SMTP("127.0.0.1", port("mta", 25), timeout=5) as smtp:
                    return smtp.sendmail("someone@elsewhere.example", [ALICE], b"Subject: exported\r\n\r\nText.\r\n") == {}
            except (OSError, smtplib.SMTPServerDisconnected):
                return False

        until(accepted, 30)
        for store in STORES:

            def arrived(store: str = store) -> bool:
                import ssl

                context = ssl.create_default_context(cafile=str(other.folder / "ca/rootCA.pem"))
                try:
                    with imaplib.IMAP4_SSL("localhost", port(store, 993), ssl_context=context, timeout=10) as imap:
                        imap.login(ALICE, secrets[ALICE]["password"])
                        imap.select()
                        return bool(imap.search(None, "SUBJECT", "exported")[1][0])
                except (OSError, imaplib.IMAP4.abort):
                    return False

            until(arrived, 30)
    finally:
        docker("compose", "-f", str(path), "down", "-v", "-t", "5")
        other.destroy()


@pytest.mark.e2e
def test_a_reader_that_goes_is_no_failure_and_a_full_disk_is_told(here: Program) -> None:
    def run(output: str) -> subprocess.CompletedProcess[str]:
        command = f"set -o pipefail; '{sys.executable}' -m stackctl logs {output}"
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=here.env, cwd=here.work, check=False)

    gone, full = run("| head -1"), run(">/dev/full")
    assert (gone.returncode, len(gone.stdout.splitlines()), gone.stderr) == (0, 1, "")
    assert (full.returncode, full.stderr) == (1, "stackctl: output: No space left on device\n")


@pytest.mark.e2e
def test_logs_can_be_followed_and_interrupted(here: Program) -> None:
    following = here.start("logs", "mta", "--follow", "--tail", "1")
    try:
        assert following.stdout
        assert following.stdout.readline()
        os.killpg(following.pid, signal.SIGINT)
        ended(following, 20)
    finally:
        following.kill()
