"""Options and fixtures of all tests: golden files, a real stack for the session, the command line."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import drove
import pytest
import yaml
import zygote
from program import Program

from stackctl import inventory, running, stack, state
from stackctl.backends import all_backends
from stackctl.cli import app
from stackctl.scenario import Case, Context

pytest_plugins = ["pytester", "feature_results"]
ROOT = Path(__file__).parents[1]

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that: an interrupt would reach nobody.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
NAME = f"t{os.getpid()}"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(drove)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew; read the diff")


# Those that take longest, in the order in which they are begun: one that is begun last keeps a single worker busy.
LONG = ("test_faults", "test_queue", "test_cli", "test_ci", "test_wheel", "test_delivery", "test_again", "test_accounts_ldap", "test_accounts_postgres", "test_flow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_collection_finish() -> None:
    gc.freeze()  # thousands of tests that stay: nothing of them has to be looked through again and again


# --- A real stack


@dataclass
class Demo:
    """A stack that is up, of every store that there is; `endpoints` hold the passwords, `path` is its stack.yaml."""

    name: str
    path: Path
    environment: Mapping[str, str]
    state: state.State
    endpoints: dict[str, Any] = field(default_factory=dict)


def stack_file(name: str) -> str:
    """A stack with every store of images/, the defaults first, and something of what scenarios ask for."""
    stores = sorted((backend for backend in all_backends().values() if backend.role == "store"), key=lambda backend: not backend.default)
    return yaml.safe_dump(
        {
            "name": name,
            "stores": [
                {"name": backend.name.replace(".", "-"), "backend": backend.family, **({"version": backend.version} if backend.version else {})}
                for backend in stores
            ],
            "users": [{"address": "alice@example.test", "aliases": ["al@example.test"]}, {"address": "bob@example.test", "quota": "100M"}],
            "aliases": {"team@example.test": ["alice@example.test", "bob@example.test"]},
            "message_size_limit": "12M",  # above the largest sample, and little to send for the test of the limit
            "limits": {"auth_failure_delay": 0},
        },
        sort_keys=False,
    )


def store_names() -> list[str]:
    """What the stores of `demo` are called."""
    return [one["name"] for one in yaml.safe_load(stack_file(NAME))["stores"]]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Brings a stack up for the session and takes it down again, also where it does not come up."""
    folder = tmp_path_factory.mktemp("demo")
    path = folder / "stack.yaml"
    path.write_text(stack_file(NAME), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        environment = {"STACKCTL_STATE": str(folder / "state"), "CAROOT": str(folder / "ca")}
        for key, value in environment.items():
            patch.setenv(key, value)
        patch.delenv("STACKCTL_NAME", raising=False)
        try:
            up = stack.up(path)
            yield Demo(NAME, path, environment, up.state, running.endpoints(up.state, secrets=True))
        finally:
            running.down(NAME, volumes=True)


@pytest.fixture(scope="session")
def cli(demo: Demo) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `stackctl …` as a person would, for the stack of the session."""

    def run(*arguments: str, stdin: str = "", timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **demo.environment, "STACKCTL_NAME": demo.name, **environment}
        done = zygote.run(arguments, stdin=stdin.encode(), env=env, cwd=demo.path.parent, timeout=timeout)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


ADDRESSED = """\
domains: [sales.example, only.example]
users:
  - {address: alice@example.test, aliases: [al@example.test]}
  - {address: bob@example.test}
  - {address: info@example.test}
  - {address: info@sales.example}
  - {address: small@example.test, quota: {storage: 40K, messages: 50}}
  - {address: few@example.test, quota: {messages: 2}}
  - {address: plain@example.test, quota: 30K}
aliases:
  team@example.test: [alice@example.test, bob@example.test]
  info@only.example: [alice@example.test]
  on-call@example.test: [ops@example.test]
domain_catch_all: {sales.example: bob@example.test}
system_aliases:
  root: [alice@example.test]
  ops: [":include:ops.list", bob@example.test]
  log: ["|/bin/cat >>/tmp/log"]
  file: [/tmp/file]
  nowhere: [/dev/null]
mailbox_size_limit: 2M
message_size_limit: 200K
limits: {auth_failure_delay: 0}
"""


@pytest.fixture(scope="session")
def addressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack of every store with many kinds of address, and with limits that are easy to reach."""
    program = Program.below(tmp_path_factory.mktemp("addressed"), f"{NAME}-addressed", STACKCTL_NAME=f"{NAME}-addressed")
    stores = yaml.safe_dump({"stores": yaml.safe_load(stack_file(program.name))["stores"]})
    program.write(ADDRESSED + stores)
    program.write("# who is on duty\ninfo@sales.example, postmaster\n", "ops.list")
    with program.up():
        yield program


@pytest.fixture
def quick(addressed: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Runs `stackctl …` for the stack `addressed` within this process, half a second sooner; what it printed, and its errors."""
    for key, value in addressed.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(addressed.work)

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        ended = app.run(arguments)
        said = capsys.readouterr()
        assert ended == code, f"{arguments}: {ended}\n{said.out}\n{said.err}"
        return said.out, said.err

    return run


@pytest.fixture
def mail(addressed: Program) -> Context:
    """What a scenario has, for a test on the stack `addressed`: nothing that another test sent has its tag."""
    return Context(addressed("endpoints", "--json", "--secrets").json, Case(), os.urandom(4).hex())


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """After the session no container, volume or network of it is there any more."""
    yield
    if inventory.client.cache_info().currsize:  # some test used the engine
        left = {name: what for name, what in inventory.labelled().items() if name == NAME or name.startswith(f"{NAME}-")}
        assert not left, f"the tests left something in the engine: {left}"
