"""What goes wrong on purpose: each fault ends in a clear message with the next step, and leaves nothing half-made and no mail lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from program import Program, containers, docker, ended, interrupt, left, tokens, until

from stackctl import backends, ca, certificate
from stackctl.clients.imap import Imap
from stackctl.clients.smtp import Smtp
from stackctl.clients.where import Where
from stackctl.errors import StackctlError
from stackctl.labels import SERVICE

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A8")]

NAME = f"flt{os.getpid()}"
ALICE = "alice@example.test"
SMALL = "stores: [{backend: dovecot}]\nlimits: {auth_failure_delay: 0}\n"
BOTH = "stores: [{backend: dovecot}, {backend: courier}]\nlimits: {auth_failure_delay: 0}\n"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Program]:
    """The program with a small stack.yaml and nothing running; what is left at the end goes, whatever happened."""
    program = Program.below(tmp_path, NAME)
    program.write(f"name: {NAME}\n{SMALL}")
    try:
        yield program
    finally:
        program("down", "--volumes", "--name", NAME, code=None)
        assert left(NAME) == []


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack with two stores that is up."""
    program = Program.below(tmp_path_factory.mktemp("faults"), f"{NAME}-s")
    # An authority that has seen a certificate expire.
    ca.load_or_make_ca(Path(program.env["CAROOT"]), ["example.test"], datetime.now(UTC) - timedelta(days=500))
    program.write(f"name: {program.name}\n{BOTH}")
    with program.up():
        yield program


def endpoints(program: Program) -> dict[str, Any]:
    found: dict[str, Any] = program("endpoints", "--json", "--secrets").json
    return found


def by_service(program: Program) -> dict[str, str]:
    found = endpoints(program)
    return {"mta": found["mta"]["container"], **{store: part["container"] for store, part in found["stores"].items()}}


def nothing_is_half_made(program: Program) -> None:
    assert left(program.name) == []
    path = program.state / "state.json"
    if path.exists():
        assert json.loads(path.read_text())["containers"] == {}
    assert "is not up" in program("status", code=2).err


# --- The machine is not as it should be


@pytest.mark.parametrize("where", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:9"])
def test_without_an_engine_the_message_names_the_doctor(where: str, here: Program) -> None:
    ran = here("up", code=3, DOCKER_HOST=where)
    assert "no container engine answers" in ran.err
    assert "next: `stackctl doctor`" in ran.err
    nothing_is_half_made(here)


def test_without_a_docker_program_the_message_names_the_doctor(here: Program) -> None:
    ran = here("build", "--force", code=3, PATH="/nonexistent")
    assert "docker: command not found" in ran.err
    assert "stackctl doctor --fix" in ran.err


@contextmanager
def occupied(port: int = 0) -> Iterator[int]:
    """A port of this machine, this one or any, that another program listens at."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield int(taken.getsockname()[1])


def test_a_fixed_port_that_is_taken_is_named(here: Program) -> None:
    with occupied() as port:
        here.write(f"name: {NAME}\n{SMALL}ports: {{fixed: {{dovecot.imaps: {port}}}}}\n")
        ran = here("up", code=3)
        assert f"port {port} of 127.0.0.1, meant for dovecot.imaps, is taken" in ran.err
        assert "ss -ltnp" in ran.err
        nothing_is_half_made(here)
    here("up")
    assert endpoints(here)["stores"]["dovecot"]["imaps"] == ["127.0.0.1", port]


def race(here: Program, port: int, patch: str) -> str:
    """A PYTHONPATH with which the program thinks for a moment that a port is free that another has: it was, when it looked."""
    (here.folder / "race").mkdir()
    (here.folder / "race" / "sitecustomize.py").write_text(f"from stackctl import ports\nport, free, is_free = {port}, ports.free, ports.is_free\n{patch}\n")
    return f"{here.folder / 'race'}:{here.env['PYTHONPATH']}"


def test_a_free_port_that_another_takes_first_is_replaced(here: Program) -> None:
    with occupied() as port:
        given = "offered = [port]\nports.free = lambda address, avoid: offered.pop() if offered else free(address, avoid)"
        assert ended(here.start("up", PYTHONPATH=race(here, port, given)), 120).code == 0
        assert endpoints(here)["mta"]["smtp"] != ["127.0.0.1", port]
        here("send", "--to", ALICE, "--body", "", "--via", "smtp")
        here("up")  # and so it stays
        assert json.loads((here.state / "state.json").read_text())["ports"]["mta.smtp"] == endpoints(here)["mta"]["smtp"][1]


def test_a_port_that_another_takes_while_the_stack_is_down_is_replaced(here: Program) -> None:
    here("up")
    looked = "looked = []\nports.is_free = lambda address, asked: asked == port and not looked.append(1) and len(looked) < 2 or is_free(address, asked)"
    for first in (False, True):  # the second time it takes it between the look and the start
        before = endpoints(here)["mta"]["smtp"]
        here("down")
        with occupied(before[1]):
            assert ended(here.start("up", **({"PYTHONPATH": race(here, before[1], looked)} if first else {})), 120).code == 0
            assert endpoints(here)["mta"]["smtp"] != before
            here("send", "--to", ALICE, "--body", "", "--via", "smtp")


def test_a_fixed_port_that_another_takes_first_is_named(here: Program) -> None:
    with occupied() as port:
        here.write(f"name: {NAME}\n{SMALL}ports: {{fixed: {{dovecot.imaps: {port}}}}}\n")
        ran = ended(here.start("up", PYTHONPATH=race(here, port, "ports.is_free = lambda address, asked: asked == port or is_free(address, asked)")), 120)
        assert ran.code == 3, str(ran)
        assert f"dovecot.imaps ({port}) was taken by another program" in ran.err
        nothing_is_half_made(here)


def test_an_image_that_cannot_be_built_ends_the_start(here: Program) -> None:
    images = set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())
    here.write(f"name: {NAME}\n{SMALL}debian: {{mirror: 'http://127.0.0.1:9/'}}\n")
    try:
        ran = here("up", code=3)
        assert "apt-get" in ran.err
        assert "the Debian mirror is not in reach" in ran.err
        assert "debian: {mirror:" in ran.err
        nothing_is_half_made(here)
    finally:
        new = set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()) - images
        mine = {image for image in new if image.startswith("stackctl/base:")}
        if mine:
            docker("image", "rm", *mine)
    assert not {image for image in new - mine if "unfinished" in image}


@pytest.mark.parametrize(
    ("text", "service", "words"),
    [
        ("stores: [{backend: dovecot, settings: {dovecot_conf: {no_such_setting: 1}}}]\n", "dovecot", "no_such_setting"),
        ('stores: [{backend: dovecot, version: "2.3", settings: {dovecot_conf: {no_such_setting: 1}}}]\n', "dovecot-2-3", "no_such_setting"),
    ],
    ids=["dovecot-2.4", "dovecot-2.3"],
)
def test_a_server_that_dies_on_the_way_up_has_the_last_word(text: str, service: str, words: str, here: Program) -> None:
    here.write(f"name: {NAME}\n{text}")
    start = time.monotonic()
    ran = here("up", code=None)
    assert ran.code in (1, 3), str(ran)
    assert time.monotonic() - start < 30, "a dead server is not waited for"
    assert words in ran.err
    assert "exited" in ran.err
    evidence = here.state / "evidence"
    assert str(evidence) in ran.err
    assert words in (evidence / f"{service}.log").read_text()
    nothing_is_half_made(here)


WITHOUT_A_WORD = {
    "default_process_limit: many": "main.cf: default_process_limit = many: a number is due, such as 100",
    "smtpd_soft_error_limit: few": "main.cf: smtpd_soft_error_limit = few: a number is due, such as 10",
    "smtpd_helo_required: perhaps": "main.cf: smtpd_helo_required = perhaps: yes or no is due",
    "minimal_backoff_time: soon": "main.cf: minimal_backoff_time = soon: a time is due, such as 300s",
}


def test_the_checker_tells_what_a_daemon_alone_would_refuse(here: Program) -> None:
    here.write(f"name: {NAME}\nstores: [{{backend: dovecot}}]\nmta: {{settings: {{main_cf: {{{', '.join(WITHOUT_A_WORD)}}}}}}}\n")
    said = here("check", code=1).out
    assert not [words for words in WITHOUT_A_WORD.values() if words not in said], said


@pytest.mark.parametrize("setting", ["default_process_limit: many", "smtpd_soft_error_limit: few"])
def test_what_ends_a_server_without_a_word_is_told_by_its_checker(setting: str, here: Program) -> None:
    """Values that only the daemon which reads them refuses: master(8) has no log yet, and smtpd(8) is started again and again."""
    here.write(f"name: {NAME}\nstores: [{{backend: dovecot}}]\nmta: {{settings: {{main_cf: {{{setting}}}}}}}\n")
    start = time.monotonic()
    ran = here("up", code=None)
    assert ran.code in (1, 3), str(ran)
    assert time.monotonic() - start < 30, "a server that will never answer is not waited for"
    assert WITHOUT_A_WORD[setting] in ran.err
    nothing_is_half_made(here)


def test_a_setting_that_would_end_the_running_mta_is_refused_by_it(standing: Program) -> None:
    """And does not keep the other servers from what is theirs."""
    try:
        stores = BOTH.replace("{backend: dovecot}", "{backend: dovecot, settings: {dovecot_conf: {login_greeting: Taken.}}}")
        standing.write(f"name: {standing.name}\n{stores}mta: {{settings: {{main_cf: {{default_process_limit: many}}}}}}\n")
        ran = standing("up", code=3)
        assert "default_process_limit = many: a number is due" in ran.err
        with Imap(Where.of(endpoints(standing), "dovecot", "imaps")) as imap:
            assert b"Taken." in imap.library.welcome
        standing("send", "--to", ALICE, "--subject", "still here", "--body", "")
        standing("wait", ALICE, "--subject", "still here")
    finally:
        standing.write(f"name: {standing.name}\n{BOTH}")
        standing("up")


def test_a_setting_that_kills_a_running_server_is_told_and_can_be_taken_back(standing: Program) -> None:
    standing("send", "--to", ALICE, "--subject", "before", "--body", "")
    standing("wait", ALICE, "--subject", "before")
    before = len(containers(standing.name, "-a"))
    try:
        standing.write(f"name: {standing.name}\n{BOTH.replace('{backend: dovecot}', '{backend: dovecot, settings: {dovecot_conf: {no_such_setting: 1}}}')}")
        ran = standing("up", code=None)
        assert ran.code in (1, 3), str(ran)
        assert "no_such_setting" in ran.err
        assert len(containers(standing.name, "-a")) == before, "what ran before is not thrown away"
    finally:
        standing.write(f"name: {standing.name}\n{BOTH}")
        standing("up")
    standing("wait", ALICE, "--subject", "before", "--timeout", "5")


# --- Interrupts, and two at once


def _line(words: str) -> Callable[[str], bool]:
    return lambda heard: words in heard


MOMENTS: dict[str, Callable[[str], Any]] = {
    "images": _line("images …"),
    "configuration": _line("configuration …"),
    "the first volume": lambda _: docker("volume", "ls", "-q", "--filter", f"label=org.stackctl.stack={NAME}"),
    "the network": lambda _: docker("network", "ls", "-q", "--filter", f"label=org.stackctl.stack={NAME}"),
    "the first container": lambda _: containers(NAME, "-a", "--filter", "label=org.stackctl.service"),
    "the first running container": lambda _: containers(NAME),
    "servers answer": _line("servers answer …"),
    "message accepted": _line("message accepted …"),
    "read": _line("read from dovecot …"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_of_the_first_start_leaves_nothing(moment: str, here: Program) -> None:
    process = here.start("up")
    heard: list[str] = []

    def listen() -> None:
        assert process.stderr
        for line in process.stderr:
            heard.append(line)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        until(lambda: MOMENTS[moment]("".join(heard)) or process.poll() is not None, what=moment)
        assert process.poll() is None, "it ended before its interrupt"
        interrupt(process)
        start = time.monotonic()
        process.wait(60)
        listener.join(5)
    finally:
        process.kill()
    assert process.returncode == 130, "".join(heard)
    assert "interrupted" in "".join(heard)
    assert "Traceback" not in "".join(heard)
    assert time.monotonic() - start < 15
    nothing_is_half_made(here)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_signal_to_the_first_start_leaves_nothing(sign: signal.Signals, here: Program) -> None:
    """What a CI runner sends that gives up, and a terminal that closes: to this process alone."""
    ours = signal.signal(sign, signal.SIG_DFL)  # it would inherit that this run ignores it, as under nohup(1)
    try:
        process = here.start("up")
    finally:
        signal.signal(sign, ours)
    try:
        until(lambda: containers(NAME))
        process.send_signal(sign)
        ran = ended(process)
    finally:
        process.kill()
    assert ran.code == 130, str(ran)
    assert "interrupted" in ran.err
    nothing_is_half_made(here)


def test_an_interrupt_is_heard_while_a_server_keeps_silent(here: Program) -> None:
    process = here.start("up")
    try:
        (frozen,) = until(lambda: containers(NAME, "--filter", "label=org.stackctl.service=dovecot"))
        docker("pause", frozen)
        time.sleep(1.5)  # into the wait for its answer; nothing tells when that begins
        interrupt(process)
        ran = ended(process, 15)
    finally:
        process.kill()
    assert ran.code == 130, str(ran)
    nothing_is_half_made(here)


def test_a_second_interrupt_does_not_stop_the_clearing_up(here: Program) -> None:
    process = here.start("up")
    try:
        until(lambda: containers(NAME))
        interrupt(process)
        time.sleep(0.15)  # a person's second key press
        if process.poll() is None:
            interrupt(process)
        ran = ended(process)
    finally:
        process.kill()
    assert ran.code == 130, str(ran)
    nothing_is_half_made(here)


def test_an_interrupt_of_a_change_leaves_the_stack_running(here: Program) -> None:
    here("up")
    before = sorted(containers(NAME))
    here.write(f"name: {NAME}\n{SMALL}message_size_limit: 1M\n")
    process = here.start("up")
    try:
        assert process.stderr and any("takes new files" in line for line in process.stderr)  # they are in the volume, and the server does not know
        interrupt(process)
        ran = ended(process)
    finally:
        process.kill()
    assert ran.code in (0, 130)
    assert sorted(containers(NAME)) == before
    here("up")
    with Smtp(Where.of(endpoints(here), "mta", "smtp")) as smtp:
        assert smtp.extensions["size"] == str(1024**2)


def test_two_starts_at_once_make_one_stack(here: Program) -> None:
    both = [here.start("up", "--json"), here.start("up", "--json")]
    try:
        ran = [ended(process, 120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [one.code for one in ran] == [0, 0], "\n".join(map(str, ran))
    assert len(containers(NAME, "-a", "--filter", f"label={SERVICE}")) == 2
    assert sorted(by_service(here).values()) == sorted(containers(NAME))
    here("status")


def test_a_killed_start_is_taken_up_by_the_next(here: Program) -> None:
    process = here.start("up")
    try:
        until(lambda: containers(NAME))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
    here("up")
    here("send", "--to", ALICE, "--subject", "after", "--body", "")
    here("wait", ALICE, "--subject", "after")


# --- The state folder


DAMAGE = {"empty": b"", "cut off": b'{"name": "x", "credentials": {', "not text": b"\xff\xfe\x00", "another shape": b"[]", "without its parts": b'{"name": "x"}'}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_told_with_the_way_out(damage: str, standing: Program) -> None:
    path = standing.state / "state.json"
    good = path.read_bytes()
    path.write_bytes(DAMAGE[damage])
    try:
        for command in (["up"], ["status", "--name", standing.name], ["endpoints", "--name", standing.name]):
            ran = standing(*command, code=2)
            assert f"{path}: damaged" in ran.err
            assert f"`stackctl down --name {standing.name}`" in ran.err
        assert standing("ls", "--json").json, "other stacks can still be listed"
        assert path.read_bytes() == DAMAGE[damage], "nobody wrote over the evidence"
    finally:
        path.write_bytes(good)
    standing("status")


def test_down_works_without_a_readable_state_and_the_way_out_keeps_mail(here: Program) -> None:
    here("up")
    here("send", "--to", ALICE, "--subject", "kept", "--body", "")
    here("wait", ALICE, "--subject", "kept")
    path = here.state / "state.json"
    path.write_bytes(b"{")
    here("down", "--name", NAME)
    assert containers(NAME, "-a") == []
    path.unlink()
    here("up")
    here("wait", ALICE, "--subject", "kept", "--timeout", "10")
    path.write_bytes(b"{")
    here("down", "--volumes")
    assert left(NAME) == []
    assert not here.state.exists()


def test_a_damaged_state_of_another_stack_is_no_hindrance(here: Program) -> None:
    other = here.state.with_name("other")
    other.mkdir(parents=True)
    (other / "state.json").write_bytes(b"{")
    here("up")
    here("status")
    here("down")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, on which nothing is left but what a test frees."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system needs root and the right to mount")
    try:
        with (place / "filler").open("wb", buffering=0) as out, pytest.raises(OSError, match="No space left"):
            while out.write(b"x" * 4096):
                pass
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("free", [0, 1, 2, 3, 4, 5, 7])
def test_a_full_disk_is_told(free: int, full_disk: Path, tmp_path: Path) -> None:
    """With `free` pages of 4 KiB: enough for the certificate, say, and not for the rest."""
    os.truncate(full_disk / "filler", (16 - free) * 4096)
    program = Program.below(tmp_path, NAME, STACKCTL_STATE=str(full_disk))
    program.write(f"name: {NAME}\n{SMALL}")
    try:
        ran = program("up", code=None)
        if ran.code == 0:
            assert free >= 4
            program("status")
        else:
            assert ran.code == 1, str(ran)
            assert re.search(r"stackctl: \S+: No space left on device\n  next: free some space there", ran.err), ran.err
            nothing_is_half_made(program)
    finally:
        program("down", "--volumes", "--name", NAME, code=None)
        assert left(NAME) == []


# --- The clock


def _serial(place: list[Any], authority: str) -> int:
    context = ssl.create_default_context(cafile=authority)
    with socket.create_connection((place[0], place[1]), 10) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
        der = tls.getpeercert(binary_form=True)
        assert der
        return x509.load_der_x509_certificate(der).serial_number


def _serials(program: Program) -> dict[str, int]:
    found = endpoints(program)
    places = {"submissions": found["mta"]["submissions"]}
    places |= {f"{store} {listener}": part[listener] for store, part in found["stores"].items() for listener in ("imaps", "pop3s")}
    return {key: _serial(place, found["ca"]) for key, place in places.items()}


def test_an_expired_certificate_is_renewed_live(standing: Program) -> None:
    before, old = by_service(standing), _serials(standing)
    assert len(set(old.values())) == 1
    root = Path(standing.env["CAROOT"])
    authority = ca.load_or_make_ca(root, ["example.test"], datetime.now(UTC))
    names = ["mail.example.test", "dovecot.example.test", "courier.example.test", "example.test", "localhost", "127.0.0.1", "::1"]
    expired = ca.make_leaf(authority.pair, names, datetime.now(UTC) - timedelta(days=400))
    (standing.state / "cert.pem").write_bytes(expired.certificate)
    (standing.state / "key.pem").write_bytes(expired.key)
    path = standing.state / "state.json"
    state = json.loads(path.read_text())
    state["certificate"] = list(certificate.validity(expired.certificate))
    path.write_text(json.dumps(state))
    standing("up")
    new = _serials(standing)
    assert len(set(new.values())) == 1
    assert set(new.values()).isdisjoint(old.values())
    assert by_service(standing) == before, "no container was started anew"
    assert standing("up", "--json").json["changed"] is False
    standing("send", "--to", ALICE, "--subject", "renewed", "--body", "")
    for store in ("dovecot", "courier"):
        standing("wait", ALICE, "--subject", "renewed", "--store", store)


# --- Containers that are stopped and killed


@pytest.mark.parametrize("service", ["mta", "dovecot", "courier"])
def test_a_server_stops_when_it_is_asked_to(service: str, standing: Program) -> None:
    container = by_service(standing)[service]
    start = time.monotonic()
    docker("stop", "-t", "10", container)
    took = time.monotonic() - start
    try:
        assert took < 5, f"{took:.1f} s"
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container).strip() != "137", "it was killed"
    finally:
        standing("up")
    assert by_service(standing)[service] == container


class _Sender(threading.Thread):
    """Sends its share of messages, each until it was answered 250; remembers which were."""

    def __init__(self, found: dict[str, Any], address: str, subjects: list[str], via: str) -> None:
        super().__init__(daemon=True)
        self.found, self.address, self.subjects, self.via = found, address, subjects, via
        self.answered: list[str] = []
        self.failed = 0
        self.deadline = time.monotonic() + 180

    def run(self) -> None:
        todo = list(reversed(self.subjects))
        while todo and time.monotonic() < self.deadline:
            try:
                with Smtp(Where.of(self.found, "mta", self.via), timeout=20) as smtp:
                    if self.via != "smtp":
                        smtp.login(self.address, tokens(self.found)[""])
                    while todo:
                        smtp.send(self.address, [self.address], f"Subject: {todo[-1]}\r\n\r\nText.\r\n".encode())
                        self.answered.append(todo.pop())
                        time.sleep(0.04)  # so that 500 messages take longer than the killings do
            except StackctlError:  # the server is down for a moment
                self.failed += 1
                time.sleep(0.02)


def test_no_message_that_was_accepted_is_lost_when_containers_are_killed(standing: Program) -> None:
    found, address = endpoints(standing), f"killed-{time.monotonic_ns()}@inbox.example.test"
    shares = [[f"m{thread}-{number:03}" for number in range(125)] for thread in range(4)]
    senders = [_Sender(found, address, share, "smtp" if number % 2 else "submission") for number, share in enumerate(shares)]
    for sender in senders:
        sender.start()

    def answered() -> int:
        return sum(len(sender.answered) for sender in senders)

    victims = by_service(standing)
    for count, service in ((50, "mta"), (150, "dovecot"), (250, "mta"), (350, "courier")):

        def enough(count: int = count) -> bool:
            return answered() >= count

        until(enough, 120, f"{count} accepted messages")
        docker("kill", "-s", "KILL", victims[service])
        standing("up")
    for sender in senders:
        sender.join(180)
    assert answered() == 500
    assert sum(sender.failed for sender in senders) > 0, "nobody noticed that the MTA was killed"
    sent = {subject for sender in senders for subject in sender.answered}
    for store in found["stores"]:
        with Imap(Where.of(found, store, "imaps")) as imap:
            imap.login(address, tokens(found)[""])

            def missing(imap: Imap = imap) -> set[str]:
                imap.select(readonly=True)
                return sent - {one.subject for one in imap.summaries(imap.uids())}

            deadline = time.monotonic() + 60
            while lacking := missing():
                assert time.monotonic() < deadline, f"{store} has lost {sorted(lacking)}"
                time.sleep(0.1)
    assert "Mail queue is empty" in standing("shell", "mta", "postqueue", "-p").out


# --- What a container may do, and what can be seen from outside


def test_a_container_may_do_little(standing: Program) -> None:
    declared = {service: part["backend"] for service, part in [("mta", endpoints(standing)["mta"]), *endpoints(standing)["stores"].items()]}
    for service, container in by_service(standing).items():
        about = json.loads(docker("inspect", container))[0]
        host = about["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        allowed = backends.all_backends()[declared[service]].container.capabilities
        assert {one.removeprefix("CAP_") for one in host["CapAdd"] or []} == set(allowed)
        assert all(len(reason) > 10 for reason in allowed.values())
        assert [one for one in host["SecurityOpt"] if one.startswith("no-new-privileges")] == ["no-new-privileges:true"]
        assert host["PidsLimit"] == 400
        assert host["Privileged"] is False
        assert (host["PidMode"], host["IpcMode"], host["UsernsMode"]) == ("", "private", "")
        bindings = [binding for places in host["PortBindings"].values() for binding in places]
        assert bindings
        assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
        assert {mount["Type"] for mount in about["Mounts"]} <= {"volume", "tmpfs"}
        assert [mount["RW"] for mount in about["Mounts"] if mount["Destination"] == "/etc/stackctl"] == [False]
        for path in ("/x", "/usr/local/bin/x", "/etc/stackctl/x"):
            assert "Read-only file system" in docker("exec", "-u", "0", container, "sh", "-c", f"touch {path} 2>&1 || true")
        assert docker("exec", container, "sh", "-c", "grep NoNewPrivs /proc/1/status").split() == ["NoNewPrivs:", "1"]


def _secrets(program: Program) -> list[str]:
    state = json.loads((program.state / "state.json").read_text())
    pairs = [*state["credentials"].values(), state["disposable"]]
    found = [pair[part] for pair in pairs for part in ("password", "hash")]
    for key in (program.state / "key.pem", Path(program.env["CAROOT"]) / "rootCA-key.pem"):
        found += [line for line in key.read_text().splitlines() if len(line) > 40 and not line.startswith("-----")]
    assert len(found) > 6
    return found


def test_no_secret_can_be_seen_from_outside(standing: Program) -> None:
    secrets = _secrets(standing)
    texts = {"compose.yaml": (standing.state / "compose.yaml").read_text()}
    for service, container in by_service(standing).items():
        texts[f"{service} inspect"] = docker("inspect", container)
        texts[f"{service} argv"] = docker("top", container, "-eo", "pid,args")
        texts[f"{service} environment"] = docker("exec", container, "env")
        texts[f"{service} logs"] = f"{standing('logs', service).out}-"
        image = json.loads(texts[f"{service} inspect"])[0]["Image"]
        texts[f"{service} history"] = docker("image", "history", "--no-trunc", image)
        texts[f"{service} image"] = docker("image", "inspect", image)
    for where, text in texts.items():
        assert text.strip(), where
        assert not [secret for secret in secrets if secret in text], where


def test_passwords_are_in_no_command_line_while_a_stack_starts(here: Program) -> None:
    here.write(f"name: {NAME}\n{SMALL}users: [{{address: {ALICE}, password: seen-in-no-argv}}]\n")
    seen: set[bytes] = set()
    process = here.start("up")
    try:
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:
                    continue
            time.sleep(0.02)
        assert ended(process).code == 0
    finally:
        process.kill()
    assert [argv for argv in seen if b"compose" in argv], "the look was too slow to see anything"
    secrets = [secret.encode() for secret in ["seen-in-no-argv", *_secrets(here)]]
    assert not [argv for argv in seen if any(secret in argv for secret in secrets)]


def test_what_is_remembered_is_for_its_owner_alone(standing: Program) -> None:
    for path in [standing.state, *standing.state.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path}: {mode:o}"
    assert stat.S_IMODE((Path(standing.env["CAROOT"]) / "rootCA-key.pem").stat().st_mode) & 0o077 == 0
