"""Where the engine is asked what it has: a socket, a context, an address; and what answers that is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Demo
from program import Program, docker

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A1")]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Program:
    """The program with a client's folder of its own, in which no context is chosen."""
    (tmp_path / "client").mkdir()
    return Program.below(tmp_path, "elsewhere", DOCKER_CONFIG=str(tmp_path / "client"))


def context(program: Program, name: str, place: Path) -> None:
    docker("--config", program.env["DOCKER_CONFIG"], "context", "create", name, "--docker", f"host=unix://{place}")


@contextmanager
def answering(place: Path, words: bytes) -> Iterator[None]:
    """A server behind a socket that says one thing to the first who comes."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()

        def answer() -> None:
            one, _ = server.accept()
            with one:
                one.recv(1 << 16)
                one.sendall(words)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield
        thread.join(10)


def stacks(program: Program, where: str = "", value: str = "") -> list[str]:
    return [row["name"] for row in program("ls", "--json", **{where: value} if where else {}).json]  # type: ignore[arg-type]


def test_a_context_says_where_the_engine_is(elsewhere: Program, demo: Demo) -> None:
    (elsewhere.folder / "socket").symlink_to("/var/run/docker.sock")
    context(elsewhere, "other", elsewhere.folder / "socket")
    assert demo.name in stacks(elsewhere)
    assert demo.name in stacks(elsewhere, "DOCKER_CONTEXT", "other")
    assert demo.name in stacks(elsewhere, "DOCKER_HOST", f"unix://{elsewhere.folder / 'socket'}")


def test_a_context_without_an_engine_is_no_other_engine(elsewhere: Program, demo: Demo) -> None:
    context(elsewhere, "dead", elsewhere.folder / "nobody")
    assert "no container engine answers" in elsewhere("ls", code=3, DOCKER_CONTEXT="dead").err
    assert "there is no docker context missing" in elsewhere("ls", code=3, DOCKER_CONTEXT="missing").err


@pytest.mark.parametrize(("words", "said"), [(b"220 mail.example.test ESMTP\r\n", "is no container engine"), (b"", "is no container engine")])
def test_what_is_no_engine_is_told(words: bytes, said: str, elsewhere: Program) -> None:
    place = elsewhere.folder / "socket"
    with answering(place, words):
        assert said in elsewhere("ls", code=3, DOCKER_HOST=f"unix://{place}").err


def test_what_the_engine_refuses_is_told_in_its_words(elsewhere: Program) -> None:
    place = elsewhere.folder / "socket"
    with answering(place, b'HTTP/1.0 500 Internal Server Error\r\nContent-Type: application/json\r\n\r\n{"message": "no space left on device"}'):
        ran = elsewhere("ls", code=3, DOCKER_HOST=f"unix://{place}")
    assert "the engine refused: no space left on device" in ran.err
    assert "docker system df" in ran.err
