"""Images: what their names depend on, what a build leaves behind, and what it says when it fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stackctl import images
from stackctl.backends import Backend, all_backends
from stackctl.errors import EngineError
from stackctl.images import Progress
from stackctl.model import Debian

pytestmark = pytest.mark.feature("A1")
PLAIN = Debian.model_validate({})
DESCRIPTION = """\
family: tiny
role: store
summary: nothing at all
release: trixie
other_releases: [bookworm]
listeners: {}
files: []
container: {}
verbs: []
"""
WORKS = """\
ARG BASE
FROM ${BASE}
COPY --chmod=0755 entrypoint /usr/local/bin/entrypoint
RUN mkdir -p /usr/local/lib/stackctl && echo 1.2.3 > /usr/local/lib/stackctl/version
"""
FAILS = """\
ARG BASE
FROM ${BASE}
RUN echo the last thing it said && exit 7
"""


def tiny(folder: Path, dockerfile: str) -> Backend:
    """A backend of no use, whose folder is made here."""
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    (folder / "templates" / "tiny.conf.j2").write_text("a = 1\n")
    (folder / "Dockerfile").write_text(dockerfile)
    (folder / "entrypoint").write_text("#!/bin/sh\n# " + folder.as_posix() + "\n")
    (folder / "entrypoint").chmod(0o755)
    return Backend.model_validate({**yaml.safe_load(DESCRIPTION), "name": name_for(folder), "folder": folder})


def name_for(folder: Path) -> str:
    """A name of its own for each test, so that tests beside it do not disturb it."""
    return f"tiny-{zlib.crc32(folder.as_posix().encode()):08x}"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def names(folder: Path) -> list[str]:
    """The images that were made from a folder."""
    return docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"stackctl/{name_for(folder)}").split()


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Backend]:
    backend = tiny(tmp_path / "tiny", WORKS)
    yield backend
    subprocess.run(["docker", "image", "rm", "-f", images.tag(backend, PLAIN)], capture_output=True, timeout=60)


# -- names


def test_every_backend_has_a_name_of_its_own_that_a_second_look_gives_again() -> None:
    first = {name: images.tag(backend, PLAIN) for name, backend in all_backends().items()}
    assert len(set(first.values())) == len(first)
    assert first == {name: images.tag(backend, PLAIN) for name, backend in all_backends().items()}


def test_a_changed_byte_or_mode_or_name_changes_the_name(tmp_path: Path) -> None:
    backend = tiny(tmp_path / "tiny", WORKS)
    seen = [images.tag(backend, PLAIN)]
    entrypoint = backend.folder / "entrypoint"
    entrypoint.write_text(entrypoint.read_text().replace("#!/bin/sh", "#!/bin/zh"))  # of the same length
    seen.append(images.tag(backend, PLAIN))
    entrypoint.chmod(0o644)
    seen.append(images.tag(backend, PLAIN))
    entrypoint.rename(backend.folder / "beginning")
    seen.append(images.tag(backend, PLAIN))
    assert len(set(seen)) == len(seen)


def test_what_does_not_enter_the_image_does_not_change_the_name(tmp_path: Path) -> None:
    backend = tiny(tmp_path / "tiny", WORKS)
    before = images.tag(backend, PLAIN)
    (backend.folder / "templates" / "tiny.conf.j2").write_text("a = 2\n")
    (backend.folder / "backend.yaml").write_text(DESCRIPTION)
    (backend.folder / "entrypoint").chmod(0o711)  # another umask; it is executable as before
    assert images.tag(backend, PLAIN) == before


def test_a_template_that_the_dockerfile_copies_does_change_the_name(tmp_path: Path) -> None:
    backend = tiny(tmp_path / "tiny", WORKS + "COPY templates /templates\n")
    before = images.tag(backend, PLAIN)
    (backend.folder / "templates" / "tiny.conf.j2").write_text("a = 2\n")
    assert images.tag(backend, PLAIN) != before


def test_release_and_mirror_change_the_name(tmp_path: Path) -> None:
    backend = tiny(tmp_path / "tiny", WORKS)
    choices = [{}, {"release": "bookworm"}, {"mirror": "http://mirror.example/debian"}, {"mirror": "http://other.example/debian"}]
    assert len({images.tag(backend, Debian.model_validate(choice)) for choice in choices}) == len(choices)
    assert images.tag(backend, Debian(release="sid")) == images.tag(backend, PLAIN), "it does not work with that, and keeps its own"


def test_where_the_folder_lies_does_not_change_the_name(tmp_path: Path) -> None:
    backend = tiny(tmp_path / "tiny", WORKS)
    elsewhere = shutil.copytree(backend.folder, tmp_path / "elsewhere")
    assert images.tag(backend.model_copy(update={"folder": elsewhere}), PLAIN) == images.tag(backend, PLAIN)


def test_a_progress_line_is_one_short_line() -> None:
    line = str(Progress("tiny", "RUN apt-get update\n && apt-get install -y " + "package " * 40, 2, 5))
    assert line.startswith("tiny: step 2 of 5: RUN apt-get update && apt-get install")
    assert "\n" not in line and len(line) <= 90 and line.endswith("…")
    assert str(Progress("tiny", "pulled")) == "tiny: pulled"


# -- builds


@pytest.mark.e2e
def test_a_build_makes_the_image_and_a_second_one_does_nothing(works: Backend) -> None:
    heard: list[Progress] = []
    expected = images.tag(works, PLAIN)
    assert works in images.missing([works], PLAIN)
    assert images.build([works], PLAIN, heard.append) == {works.name: expected}
    assert images.version_of(expected) == "1.2.3"
    assert images.missing([works], PLAIN) == ()
    assert [each.total for each in heard if each.step]
    assert any("local" in each.text or "pulled" in each.text or "bootstrapped" in each.text for each in heard), "the build says where its base came from"
    made = docker("image", "inspect", "--format", "{{.Id}} {{.Created}} {{.Metadata.LastTagTime}}", expected)

    heard.clear()
    start = time.monotonic()
    assert images.build([works], PLAIN, heard.append) == {works.name: expected}
    assert time.monotonic() - start < 1
    assert heard == []
    assert docker("image", "inspect", "--format", "{{.Id}} {{.Created}} {{.Metadata.LastTagTime}}", expected) == made


@pytest.mark.e2e
def test_a_failed_build_says_its_last_words_and_leaves_no_image(tmp_path: Path) -> None:
    backend = tiny(tmp_path / "tiny", FAILS)
    with pytest.raises(EngineError) as caught:
        images.build([backend], PLAIN)
    assert f"image {backend.name}: step 2 of 2, `RUN echo the last thing it said && exit 7` failed (exit code: 7):" in caught.value.message
    assert caught.value.message.endswith("the last thing it said")
    assert caught.value.hint
    assert names(tmp_path / "tiny") == []


@pytest.mark.e2e
def test_a_build_that_fails_does_not_keep_another_from_its_end(works: Backend, tmp_path: Path) -> None:
    bad = tiny(tmp_path / "bad", FAILS)
    with pytest.raises(EngineError, match=f"image {bad.name}"):
        images.build([works, bad], PLAIN)
    assert images.missing([works], PLAIN) == ()


@pytest.mark.e2e
def test_an_image_that_does_not_say_its_version_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="/usr/local/lib/stackctl/version"):
        images.build([tiny(tmp_path / "tiny", f"ARG BASE\nFROM ${{BASE}}\nENV FOR={tmp_path}\n")], PLAIN)
    assert names(tmp_path / "tiny") == []


@pytest.mark.e2e
def test_an_interrupt_ends_the_build_soon_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    marker = f"unfinished-{time.time_ns()}"
    tiny(folder, f"ARG BASE\nFROM ${{BASE}}\nRUN echo {marker} && sleep 300\n")
    program = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_images import PLAIN, images, tiny
        backend = tiny(Path({str(folder)!r}), Path({str(folder / "Dockerfile")!r}).read_text())
        images.build([backend], PLAIN, lambda progress: print(progress, flush=True))
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        for line in child.stdout:
            if marker in line:
                break
        child.send_signal(2)  # SIGINT, as Ctrl-C
        start = time.monotonic()
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert time.monotonic() - start < 10
    assert child.returncode != 0 and "KeyboardInterrupt" in errors
    assert names(tmp_path / "tiny") == []


@pytest.mark.e2e
def test_the_base_image_says_which_way_it_came() -> None:
    base = images.base_image("trixie", None)
    assert base.reference == "debian:trixie-slim"
    assert base.way in ("local", "pulled", "bootstrapped")
    assert base.digest == docker("image", "inspect", "--format", "{{.Id}}", base.reference)
    assert images.base_image("trixie", None).way == "local"


@pytest.mark.e2e
def test_a_mirror_of_ones_own_is_where_every_image_takes_its_packages_from() -> None:
    base = images.base_image("trixie", "http://mirror.example/debian")
    try:
        assert base.reference != "debian:trixie-slim"
        assert docker("run", "--rm", "--network", "none", base.reference, "cat", "/etc/apt/sources.list") == "deb http://mirror.example/debian trixie main"
        assert "mirror.example" not in docker("run", "--rm", "--network", "none", "debian:trixie-slim", "sh", "-c", "cat /etc/apt/sources.list* || true")
    finally:
        docker("image", "rm", base.reference)


@pytest.mark.e2e
def test_a_base_that_nobody_can_make_ends_in_a_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = shutil.which("docker")
    assert client
    (tmp_path / "docker").symlink_to(client)
    monkeypatch.setenv("PATH", str(tmp_path))  # without mmdebstrap
    with pytest.raises(EngineError, match="mmdebstrap: command not found") as caught:
        images.base_image("no-such-release", None)
    assert "`stackctl doctor --fix`" in caught.value.hint


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="base images are pulled on this machine")
def test_a_bootstrap_from_a_mirror_that_is_not_there_says_so_and_leaves_no_image() -> None:
    unnamed = ("image", "ls", "--quiet", "--filter", "dangling=true", "--filter", "label=org.stackctl.base=bootstrapped")
    with pytest.raises(EngineError, match="base image stackctl/base:no-such-release-") as caught:
        images.base_image("no-such-release", "http://127.0.0.1:9/debian")
    assert "mirror" in caught.value.hint
    assert docker("image", "ls", "--quiet", "--filter", "reference=stackctl/base:no-such-release-*") == ""
    assert docker(*unnamed) == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [("write /x: no space left on device", "disk is full"), ("E: Failed to fetch http://mirror.example/x", "mirror"), ("sh: 1: make: not found", "stackctl build")],
    ids=["disk full", "no mirror", "anything else"],
)
def test_the_next_step_is_that_of_the_fault(words: str, hint: str) -> None:
    with pytest.raises(EngineError) as caught:
        images._raise([("image tiny", EngineError(words))])
    assert hint in caught.value.hint
    assert caught.value.message == f"image tiny: {words}"
