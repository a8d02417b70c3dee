"""The GitHub action and the GitLab template: every shell step of theirs is run as a runner would, and leaves what the job needs."""

from __future__ import annotations

import os
import re
import smtplib
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from program import Program, docker, left

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A6")]
ROOT = Path(__file__).resolve().parent.parent
ONE_STORE = "stores: [{backend: dovecot}]\nusers: [{address: alice@example.test}]\n"


@dataclass
class Runner:
    """The files and variables of a job, as a runner keeps them."""

    program: Program
    variables: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    said: str = ""

    @property
    def temp(self) -> Path:
        return self.program.folder / "temp"

    def step(self, step: Mapping[str, Any], action: Path, inputs: Mapping[str, str]) -> int:
        """Runs a step of a composite action; its exit status. One that uses another action is left out."""
        if "run" not in step:
            return 0
        files = {name: self.temp / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
        for name, path in files.items():
            if name != "GITHUB_STEP_SUMMARY":
                path.write_text("")
        own = {name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: inputs[m[1]], str(value)) for name, value in step.get("env", {}).items()}
        places = {name: str(path) for name, path in files.items()} | {"RUNNER_TEMP": str(self.temp), "GITHUB_ACTION_PATH": str(action)}
        environment = {key: value for key, value in self.program.env.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=self.program.work,
            env={**environment, **self.variables, **places, **own},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.said += done.stdout + done.stderr
        self.outputs[step.get("id", "")] = _pairs(files["GITHUB_OUTPUT"])
        self.variables |= _pairs(files["GITHUB_ENV"])
        for line in files["GITHUB_PATH"].read_text().splitlines():
            self.variables["PATH"] = f"{line}:{self.variables.get('PATH', os.environ['PATH'])}"
        return done.returncode

    def action(self, folder: Path, **inputs: str) -> None:
        """Runs every step of an action; fails where one does."""
        described = yaml.safe_load((folder / "action.yml").read_text())
        chosen = {name: str(one.get("default", "")) for name, one in described["inputs"].items()} | inputs
        for step in described["runs"]["steps"]:
            assert self.step(step, folder, chosen) == 0, f"{step['name']}\n{self.said}"


def _pairs(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A job in which the action has run."""
    name = f"ci{os.getpid()}"
    program = Program.below(tmp_path_factory.mktemp("ci"), name)
    program.write(ONE_STORE)
    one = Runner(program)
    one.temp.mkdir()
    # What the action installs from a package index is this environment's: its own code comes from the action's folder all the same.
    one.variables |= {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": sysconfig.get_path("purelib")}
    try:
        one.action(ROOT, name=name)
        yield one
    finally:
        program.destroy()


def test_a_job_knows_where_everything_is(runner: Runner) -> None:
    outputs = runner.outputs["up"]
    assert {"smtp", "submission", "submissions", "imaps", "pop3s", "ca", "endpoints"} == set(outputs)

    def login(password: str) -> None:
        with smtplib.SMTP("127.0.0.1", int(outputs["submission"]), timeout=30) as client:
            client.starttls()
            client.login("alice@example.test", password)

    login(runner.variables["MAIL_PASSWORD_ALICE"])
    with pytest.raises(smtplib.SMTPAuthenticationError):
        login("wrong")
    assert Path(outputs["ca"]).is_file()
    declared = yaml.safe_load((ROOT / "action.yml").read_text())["outputs"]
    assert set(declared) == set(outputs), "what the action declares is what its step tells"


def test_passwords_are_masked_before_they_are_told_and_nowhere_else(runner: Runner) -> None:
    secrets = [value for name, value in runner.variables.items() if name.startswith("MAIL_") and "PASSWORD" in name]
    assert len(secrets) == 2
    summary = (runner.temp / "github_step_summary").read_text()
    assert "submission" in summary
    for secret in secrets:
        assert f"::add-mask::{secret}" in runner.said
        assert secret not in runner.said.replace(f"::add-mask::{secret}", "")
        assert secret not in summary and secret not in str(runner.outputs)
    assert (runner.temp / "stackctl-endpoints.json").stat().st_mode & 0o077 == 0


def test_images_are_kept_by_their_content(runner: Runner) -> None:
    kept = runner.outputs["images"]
    assert re.fullmatch(r"stackctl-images-[0-9a-f]{16}", kept["key"])
    archive = Path(kept["path"]) / "images.tar"
    assert "Loaded image: stackctl/" in docker("load", "--quiet", "--input", str(archive))
    archive.unlink()


def test_a_failed_start_fails_the_step_with_the_reason(runner: Runner, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("stroes: []\n")
    steps = {step.get("id"): step for step in yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]}
    assert runner.step(steps["up"], ROOT, {"file": str(bad), "name": "bad"}) == 2
    assert "did you mean 'stores'?" in runner.said
    assert left("bad") == []


def test_the_report_has_the_logs_and_ends_the_stack(runner: Runner) -> None:
    runner.action(ROOT / "ci" / "report")
    report = Path(runner.outputs["collect"]["path"])
    assert "postfix/" in (report / "logs.txt").read_text()
    assert (report / "queue.json").read_text().strip() == "[]"
    assert "running" in (report / "status.txt").read_text()
    assert left(runner.program.name) == []


def test_the_gitlab_template_starts_a_stack_and_ends_it(runner: Runner, tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / "ci" / "gitlab.yml").read_text())[".stackctl"]
    program = Program.below(tmp_path, f"gl{os.getpid()}")
    program.write(ONE_STORE)
    script = "\n".join([*job["before_script"], 'stackctl inbox alice@example.test; test -n "$MAIL_PASSWORD_ALICE"', *job["after_script"]])
    # The job's own installation stands for one that it would make.
    script = script.replace('python3 -m venv "$CI_BUILDS_DIR/stackctl-$CI_JOB_ID"', 'ln -s "$RUNNER_TEMP/stackctl" "$CI_BUILDS_DIR/stackctl-$CI_JOB_ID"')
    environment = {**program.env, "CI_BUILDS_DIR": str(tmp_path), "CI_JOB_ID": "7", "STACKCTL_NAME": program.name, "RUNNER_TEMP": str(runner.temp)}
    try:
        pip = {name: runner.variables[name] for name in ("PIP_NO_DEPS", "PIP_NO_BUILD_ISOLATION", "PYTHONPATH")}
        done = subprocess.run(["bash", "-e", "-c", script], cwd=program.work, env={**environment, **pip, "STACKCTL_SOURCE": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "postfix/" in (program.work / "stackctl-logs.txt").read_text()
        assert set(job["artifacts"]["paths"]) <= {path.name for path in program.work.iterdir()}
        assert left(program.name) == []
    finally:
        program.destroy()
