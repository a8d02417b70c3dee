"""The wheel, away from this checkout: it carries all that it needs, and brings a stack up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import NAME
from program import left

from stackctl import __version__

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A4")]
ROOT = Path(__file__).resolve().parent.parent


def run(*argv: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> str:
    done = subprocess.run([*map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def data_files() -> dict[str, Path]:
    """What the program needs besides its modules, by its path in the checkout."""
    found = [path for part in ("images", "compose") for path in (ROOT / part).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix(): path for path in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is made out of it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `stackctl` of an environment that holds the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel, cwd=folder)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # Only its path: the .pth files there, of which one leads to the checkout, are not followed from here.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin" / "stackctl"


def test_the_wheel_carries_images_and_compose_files(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, path in data_files().items():
            entry = archive.getinfo(f"stackctl/_data/{name}")
            assert archive.read(entry) == path.read_bytes(), name
            # Unpacked by pip with the mode that is in the archive; the image's name counts on it.
            assert bool(entry.external_attr >> 16 & 0o111) == os.access(path, os.X_OK), name
        assert not [name for name in archive.namelist() if name.startswith(("tests/", "docs/", "bench/"))]


def test_the_source_archive_carries_all_that_the_wheel_is_made_of(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stackctl").rglob("*.py")}
    assert modules | set(data_files()) | {"LICENSE", "README.md", "Makefile", "pyproject.toml"} <= set(inside)
    assert all(bool(inside[name].mode & 0o111) == os.access(path, os.X_OK) for name, path in data_files().items())


def test_an_installed_wheel_uses_nothing_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "--version", cwd=tmp_path) == f"stackctl {__version__}\n"
    program = "from stackctl import backends; print(backends.__file__); print(backends.resource('images')); print(backends.resource('compose'))"
    for place in run(installed.with_name("python"), "-c", program, cwd=tmp_path).split():
        assert Path(place).exists()
        assert Path(place).is_relative_to(installed.parent.parent)
    assert json.loads(run(installed, "schema", cwd=tmp_path))["properties"]["stores"]


def test_an_installed_wheel_names_images_as_the_checkout_does(installed: Path, tmp_path: Path) -> None:
    program = "from stackctl import images, backends, model; d = model.Debian(); print({n: images.tag(b, d) for n, b in backends.all_backends().items()})"
    here = run(sys.executable, "-c", program, cwd=ROOT)
    assert run(installed.with_name("python"), "-c", program, cwd=tmp_path) == here


def test_an_installed_wheel_brings_a_stack_up_and_down(installed: Path, tmp_path: Path) -> None:
    name = f"w{os.getpid()}"
    env = {**os.environ, "STACKCTL_STATE": str(tmp_path / "state"), "CAROOT": str(tmp_path / "ca")}
    file = tmp_path / "stack.yaml"
    file.write_text(f"name: {name}\nstores:\n  - backend: dovecot\n")
    try:
        assert json.loads(run(installed, "up", "--json", "-f", file, cwd=tmp_path, env=env))["changed"] is True
        states = {row["service"]: row["state"] for row in json.loads(run(installed, "status", "--json", "-f", file, cwd=tmp_path, env=env))}
        assert states == {"mta": "running", "dovecot": "running"}
        assert json.loads(run(installed, "up", "--json", "-f", file, cwd=tmp_path, env=env))["changed"] is False
    finally:
        removed = json.loads(run(installed, "down", "--volumes", "--json", "-f", file, "--name", name, cwd=tmp_path, env=env))["removed"]
    assert any(what.startswith("volume ") for what in removed)
    assert name not in run("docker", "volume", "ls", "--format", "{{.Name}}", cwd=tmp_path)


PROJECT = """\
import smtplib

import pytest


def sign_up(address, stack):
    where = stack.where("submission")
    with smtplib.SMTP(where.host, where.port) as smtp:
        smtp.starttls(context=where.context())
        smtp.login("alice@example.test", stack.environment["MAIL_PASSWORD_ALICE"])
        smtp.sendmail("alice@example.test", [address], "From: alice@example.test\\r\\nSubject: Welcome\\r\\n\\r\\nhttps://shop.example/confirm?t=1\\r\\n")


@pytest.mark.parametrize("number", range(4))
def test_sign_up_sends_a_link(number, mailbox, mail_stack):
    sign_up(mailbox.address, mail_stack)
    assert mailbox.wait_for(subject="Welcome", sender="alice@").links() == ["https://shop.example/confirm?t=1"]


@pytest.mark.mail_engines("courier", "dovecot-2.3")
def test_on_an_engine_that_the_stack_lacks(mailbox, mail_stack):
    sign_up(mailbox.address, mail_stack)
    mailbox.wait_for(subject="Welcome")
    print("read from", mail_stack.name, mail_stack.store)
"""


@pytest.mark.feature("A6")
def test_a_project_elsewhere_tests_its_mail_with_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """The plugin is there without a word, on xdist's workers too; what it brought up is gone afterwards, and the project has no stray file."""
    name = f"{NAME}-project"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "STACKCTL_"))}
    env |= {"STACKCTL_STATE": str(tmp_path / "state"), "CAROOT": str(tmp_path / "ca"), "PYTHONDONTWRITEBYTECODE": "1"}
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_shop.py").write_text(PROJECT)
    (project / "stack.yaml").write_text(f"name: {name}\nusers: [{{address: alice@example.test}}]\nstores: [{{backend: courier}}]\n")
    said = run(installed.with_name("python"), "-m", "pytest", "-n", "2", "-rP", "-p", "no:cacheprovider", cwd=project, env=env)
    assert f"stackctl {__version__}: stack of {project}/stack.yaml" in said
    assert "6 passed" in said
    assert f"read from {name} courier" in said and f"read from {name}-engines dovecot-2-3" in said
    assert {path.name for path in project.iterdir()} == {"test_shop.py", "stack.yaml"}
    assert left(name) == left(f"{name}-engines") == []
