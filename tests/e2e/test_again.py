"""A stack that was only taken down comes up again without a look at its configuration, and only where nothing changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Program, containers, docker, ended, interrupt, left, until

from stackctl import again, compose, standing, start, state
from stackctl.errors import EngineError
from stackctl.labels import config_volume, volume_name
from stackctl.resource import resource
from stackctl.stack import up as bring_up

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A4")]

NAME = f"agn{os.getpid()}"
ALICE = "alice@example.test"
UP = ("up", "--name", NAME)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack with one store and a message."""
    program = Program.below(tmp_path_factory.mktemp("again"), NAME)
    program.write(f"name: {NAME}\nstores: [{{backend: dovecot}}]\n")
    with program.up():
        program("send", "--to", ALICE, "--subject", "kept", "--body", "")
        program("wait", ALICE, "--subject", "kept")
        yield program


@pytest.fixture
def down(stack: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """The same, down; this process sees its state. Afterwards it must come up with its mail."""
    stack("down")
    for name in ("STACKCTL_STATE", "CAROOT"):
        monkeypatch.setenv(name, stack.env[name])
    yield stack
    stack(*UP)
    stack("wait", ALICE, "--subject", "kept", "--timeout", "10")


def left_running() -> list[str]:
    """What is there besides the volumes."""
    return [what for what in left(NAME) if not what.startswith("volume")]


def known(program: Program) -> state.State | None:
    return standing.unchanged(program.work / "stack.yaml", NAME)


def test_it_comes_up_again_with_its_mail(down: Program) -> None:
    found = known(down)
    assert found
    done = again.up(found)
    assert done
    assert [step.what for step in done.steps if step.what in ("configuration", "containers", "message accepted")] == ["containers", "message accepted"]
    assert set(state.load(NAME).containers.values()) == set(containers(NAME))
    down("status")


def test_a_port_that_is_taken_is_left_to_up(down: Program) -> None:
    found = known(down)
    assert found
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", found.ports["mta.smtp"]))
        assert again.up(found) is None
    assert containers(NAME, "-a") == []


def test_what_is_not_there_any_more_is_left_to_up(down: Program) -> None:
    found = known(down)
    assert found
    docker("volume", "rm", volume_name(NAME, config_volume("mta")))
    assert again.up(found) is None
    found.images["postfix"] = "stackctl/postfix:gone"
    state.save(found)
    assert again.up(found) is None
    assert containers(NAME, "-a") == []


def test_a_change_in_the_meantime_is_left_to_up(down: Program) -> None:
    found = known(down)
    assert found
    changed = state.load(NAME)
    changed.fingerprint = ""
    state.save(changed)
    assert again.up(found) is None
    assert known(down) is None


def test_a_server_that_ends_is_named_and_nothing_stays(down: Program) -> None:
    found = known(down)
    assert found
    project = start.project(NAME)
    broken = project.read_text().replace("services:\n  mta:\n", "services:\n  mta:\n    entrypoint: [sh, -c, 'echo no luck; exit 3']\n")
    project.write_text(broken)
    found.compose_digest = hashlib.sha256(broken.encode()).hexdigest()
    state.save(found)
    with pytest.raises(EngineError, match=r"exited \(3\): no luck") as why:
        again.up(found)
    assert "evidence" in why.value.hint
    assert left_running() == []


def test_a_changed_file_is_applied(down: Program) -> None:
    file = down.work / "stack.yaml"
    before = file.read_text()
    down.write(f"{before}message_size_limit: 30000\n")
    down(*UP)
    assert "message_size_limit = 30000" in down("config", "show", "mta").out
    down.write(before)


def test_a_changed_fragment_makes_anew_what_it_is_about(down: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragments = shutil.copytree(resource("compose"), tmp_path / "compose")
    monkeypatch.setattr(compose, "resource", lambda _: fragments)

    def up() -> dict[str, str]:
        return dict(bring_up(down.work / "stack.yaml").state.containers)

    before = up()
    mta = fragments / "mta.yaml"
    mta.write_text(mta.read_text().replace("stop_grace_period: 5s", "stop_grace_period: 6s"))
    after = up()
    assert after["dovecot"] == before["dovecot"] and after["mta"] != before["mta"]


@pytest.mark.parametrize("moment", ["the network", "the first container", "the first running container", "message accepted"])
def test_an_interrupt_leaves_the_mail_and_nothing_else(moment: str, down: Program) -> None:
    ours = ("--filter", f"label=org.stackctl.stack={NAME}")
    process = down.start(*UP)
    try:
        match moment:
            case "the network":
                until(lambda: docker("network", "ls", "-q", *ours), 20)
            case "message accepted":
                assert process.stderr
                assert any("message accepted …" in line for line in process.stderr)
            case _:
                until(lambda: containers(NAME, *(["-a"] if moment == "the first container" else [])), 20)
        interrupt(process)
        ran = ended(process, 20)
    finally:
        process.kill()
    assert ran.code == 130, str(ran)
    assert "Traceback" not in ran.err
    assert left_running() == []
