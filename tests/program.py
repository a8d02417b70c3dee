"""The program as a person runs it: a process, its output and its exit code. It asserts nothing but the exit code that it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drove
import zygote

from stackctl.labels import LABEL


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    argv: tuple[str, ...]
    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"{' '.join(self.argv)} → {self.code}\n{self.out}\n{self.err}"


@dataclass
class Program:
    """Runs `stackctl` with a state folder, a CA folder and a working folder of its own."""

    folder: Path
    name: str
    more: Mapping[str, str]

    @classmethod
    def below(cls, folder: Path, name: str, **more: str) -> Program:
        for part in ("state", "ca", "work"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        return cls(folder, name, more)

    @classmethod
    @contextmanager
    def started(cls, folder: Path, name: str, file: str) -> Iterator[Program]:
        """A stack of this stack.yaml that is up, and gone afterwards."""
        program = cls.below(folder, name, STACKCTL_NAME=name)
        program.write(file)
        with program.up():
            yield program

    @property
    def endpoints(self) -> dict[str, Any]:
        """Where everything of the stack is, with its passwords."""
        found: dict[str, Any] = self("endpoints", "--json", "--secrets", "--name", self.name).json
        return found

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def state(self) -> Path:
        return Path(self.env["STACKCTL_STATE"]) / self.name

    @property
    def env(self) -> dict[str, str]:
        own = {"STACKCTL_STATE": str(self.folder / "state"), "CAROOT": str(self.folder / "ca")}
        inherited = {key: value for key, value in os.environ.items() if key != "STACKCTL_NAME"}
        return {**inherited, "PYTHONPATH": str(Path(__file__).resolve().parent.parent), **own, **self.more}

    def __call__(self, *arguments: str, code: int | None = 0, stdin: bytes = b"", timeout: float = 240, **env: str) -> Ran:
        """Runs a command to its end. Fails unless its exit code is `code` (None: any)."""
        assert not any(key.startswith("PYTHON") for key in env), "only an interpreter that starts reads these: use `start`"
        done = zygote.run(arguments, stdin=stdin, env={**self.env, **env}, cwd=self.work, timeout=timeout)
        ran = Ran(("stackctl", *arguments), done.returncode, done.stdout, done.stderr.decode())
        assert code is None or ran.code == code, f"exit code {ran.code}, not {code}\n{ran}"
        assert "Traceback" not in ran.err, str(ran)
        return ran

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Starts `python -m stackctl` in a session of its own; whoever calls waits for it, with `ended`."""
        argv = [sys.executable, "-m", "stackctl", *arguments]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**self.env, **env}, cwd=self.work, start_new_session=True)

    def write(self, text: str, name: str = "stack.yaml") -> Path:
        """Writes a file in the working folder."""
        path = self.work / name
        path.write_text(text, encoding="utf-8")
        return path

    def destroy(self) -> None:
        """Removes the stack, whatever state it is in."""
        self("down", "--volumes", "--name", self.name, code=None)
        assert left(self.name) == []

    @contextmanager
    def up(self, *arguments: str) -> Iterator[Ran]:
        """A stack that is up, and gone afterwards."""
        try:
            yield self("up", "--name", self.name, *arguments)
        finally:
            self.destroy()


def ended(process: subprocess.Popen[str], timeout: float = 60) -> Ran:
    """A started command's end; one that does not end is killed, and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{out}\n{err}") from None
    assert "Traceback" not in err, err
    return Ran(("stackctl",), process.returncode, out.encode(), err)


def interrupt(process: subprocess.Popen[str]) -> None:
    """What Ctrl-C does: SIGINT to the whole process group."""
    os.killpg(process.pid, signal.SIGINT)


def until(true: Callable[[], Any], timeout: float = 60, what: str = "") -> Any:
    """Polls until something is true, and returns it."""
    deadline = time.monotonic() + timeout
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or true}"
        time.sleep(0.01)
    return found


def docker(*arguments: str) -> str:
    """The output of a `docker` command that must succeed."""
    drove.ran(["docker", *arguments])
    for _ in range(5):
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, check=False)
        if "unable to freeze" not in done.stderr:  # a busy machine's kernel needs longer than the runtime waits
            break
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    if arguments[0] in ("stop", "kill"):  # the engine's lists say so a little later than its answer
        until(lambda: not set(arguments) & set(docker("ps", "--no-trunc", "--format", "{{.ID}}\n{{.Names}}").split()), what=f"{arguments} shows in lists")
    return done.stdout


def containers(name: str, *options: str) -> list[str]:
    """The ids of a stack's containers."""
    return docker("ps", "--no-trunc", "-q", "--filter", f"label={LABEL}={name}", *options).split()


def left(name: str) -> list[str]:
    """All that the engine has of a stack."""
    what = [f"container {one}" for one in docker("ps", "-a", "--filter", f"label={LABEL}={name}", "--format", "{{.Names}}").split()]
    for kind in ("network", "volume"):
        what += [f"{kind} {one}" for one in docker(kind, "ls", "--filter", f"label={LABEL}={name}", "--format", "{{.Name}}").split()]
    return what


def tokens(endpoints: Mapping[str, Any]) -> dict[str, str]:
    """Address to password of `endpoints --secrets`; "" is the disposable domain's."""
    found = {account["address"]: account["password"] for account in endpoints["accounts"]}
    return {**found, "": endpoints["disposable"]["password"]}
