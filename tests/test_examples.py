"""The examples of the documentation, run as their readers would run them: each signs somebody up and takes the link out of the mail that came."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from program import Program

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A6")]
ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"
NPM_WITHIN = 120  # seconds


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack that is up before the examples' tests begin."""
    with Program.started(tmp_path_factory.mktemp("examples"), f"ex{os.getpid()}", "stores: [{backend: dovecot}]\n") as program:
        yield program


def ended(argv: list[str], folder: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(argv, cwd=folder, env={**env, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True, timeout=NPM_WITHIN)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("example", "tests"), [("smtplib", 3), ("flask", 2), ("django", 2)])
def test_an_example_in_python(example: str, tests: int, running: Program, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / example, tmp_path / example, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest.ini").write_text("[pytest]\n")  # a project of its own
    said = ended([sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], folder, running.env)
    assert f"{tests} passed" in said


def test_an_example_in_node(running: Program, tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("there is no npm")
    folder = shutil.copytree(EXAMPLES / "node", tmp_path / "node")
    variables = running("env", "--format", "json", "--secrets").json
    shop = {"SHOP_ADDRESS": "alice@example.test", "SHOP_PASSWORD": variables["MAIL_PASSWORD_ALICE"]}
    env = {**running.env, **variables, **shop, "NODE_EXTRA_CA_CERTS": variables["MAIL_CA"]}
    ended(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], folder, env)
    assert "# pass 2" in ended(["npm", "test"], folder, env)
    broken = subprocess.run(["npm", "test"], cwd=folder, env={**env, "NODE_EXTRA_CA_CERTS": ""}, capture_output=True, text=True, timeout=NPM_WITHIN)
    assert broken.returncode != 0 and "certificate" in broken.stdout, "whoever does not know the CA sends nothing"
