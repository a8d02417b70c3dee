"""What doctor sees and would do, on machines of every kind: made up where the answer is a plan, real where it is a finding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stackctl import apt, command, doctor
from stackctl.doctor import Finding, Fix, Machine
from stackctl.errors import EngineError

pytestmark = pytest.mark.feature("A4")

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/own.gpg check-valid-until=no] http://mirror.example/debian bookworm main contrib  # ours
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/security bookworm-security main
"""
DEB822 = """\
# the archive
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/own.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""
SOURCE = """\
Types: deb
URIs: http://mirror.example/debian
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/own.gpg
"""
PIN = """\
Package: *
Pin: release n=trixie
Pin-Priority: 50

Package: docker.io docker-cli docker-compose docker-buildx
Pin: release n=trixie
Pin-Priority: 990
"""
PACKAGES = ("docker.io", "docker-cli", "docker-compose", "docker-buildx")

BOOKWORM = Machine("linux", "debian", "12", "bookworm", root=True, systemd=False, user="ann", sources=apt.parse_stanzas(DEB822))
TRIXIE = replace(BOOKWORM, release="13", codename="trixie", systemd=True, sources=())
MAC = Machine("darwin", "", "", "", root=False, systemd=False, user="ann")
NO_ENGINE = Finding("engine", False, "there is none on this machine", Fix("install it", ("engine", "client", "compose", "buildx", "iptables"), start=True))
STOPPED = Finding("engine", False, "installed, but it does not run", Fix("start it", start=True))
NO_COMPOSE = Finding("Compose", False, "no plugin", Fix("install it", ("compose",)))
NO_TOOL = Finding("base images", False, "no mmdebstrap", Fix("install it", ("mmdebstrap",)))
FULL = Finding("disk space", False, "0.1 GiB free", Fix("`docker system prune` frees what nothing uses"))
WELL = Finding("engine", True, "26.1 on linux/amd64")


# -- apt's files


def test_one_line_sources_are_read_and_others_are_not() -> None:
    archive, security = apt.parse_lines(ONE_LINE)
    assert archive.uris == ("http://mirror.example/debian",)
    assert archive.suites == ("bookworm",)
    assert archive.components == ("main", "contrib")
    assert archive.options["signed-by"] == "/usr/share/keyrings/own.gpg"
    assert security.suites == ("bookworm-security",)


def test_deb822_sources_are_read_and_disabled_ones_and_sources_of_sources_are_not() -> None:
    (archive,) = apt.parse_stanzas(DEB822)
    assert archive.uris == ("http://mirror.example/debian",)
    assert archive.suites == ("bookworm", "bookworm-updates")
    assert archive.components == ("main", "contrib")
    assert archive.options == {"signed-by": "/usr/share/keyrings/own.gpg"}


def test_every_file_that_apt_reads_is_read_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://one.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "a.list").write_text("deb http://two.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "b.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "c.list.disabled").write_text("deb http://three.example/debian bookworm main\n")
    assert [source.uris[0] for source in apt.read(tmp_path)] == ["http://one.example/debian", "http://two.example/debian", "http://mirror.example/debian"]
    assert apt.read(tmp_path / "nowhere") == ()


def test_a_source_on_a_disc_is_not_an_archive() -> None:
    sources = apt.parse_lines("deb cdrom:[Debian]/ bookworm main\ndeb http://mirror.example/debian bookworm contrib\n")
    assert apt.archive(sources, "bookworm") is None


@pytest.mark.parametrize("sources", [apt.parse_stanzas(DEB822), apt.parse_lines(ONE_LINE.replace(" check-valid-until=no", ""))], ids=["deb822", "one-line"])
def test_the_source_of_the_next_release_is_the_own_mirror_with_its_key(sources: tuple[apt.Source, ...]) -> None:
    found = apt.archive(sources, "bookworm")
    assert found
    assert apt.stanza(found, "trixie") == SOURCE


def test_only_the_named_packages_come_from_the_next_release() -> None:
    assert apt.pin("trixie", PACKAGES, rest=True) == PIN
    assert apt.pin("trixie", PACKAGES, rest=False) == PIN.partition("\n\n")[2]


def test_a_base_image_gets_its_packages_from_the_mirror_of_this_machine() -> None:
    sources = apt.parse_lines(ONE_LINE)
    trusted = "deb [check-valid-until=no] http://mirror.example/debian trixie main"
    assert apt.lines_for(sources, "bookworm", "trixie") == (trusted, "deb http://mirror.example/security trixie-security main")
    assert apt.lines_for(sources, "bookworm", "sid") == (trusted.replace("trixie", "sid"),), "sid has no updates and no security suite"
    assert apt.lines_for(sources, "noble", "trixie") == (), "what is no Debian mirror has no Debian release"


def test_a_mirror_on_this_machine_itself_is_no_mirror_for_an_image() -> None:
    assert apt.lines_for(apt.parse_lines("deb http://localhost:3142/debian bookworm main\n"), "bookworm", "trixie") == ()


# -- plans


def plan_for(machine: Machine, *findings: Finding) -> str:
    return "\n".join(doctor.plan(findings, machine))


def by_hand(machine: Machine, *findings: Finding) -> EngineError:
    with pytest.raises(EngineError) as caught:
        doctor.fix(findings, machine=replace(machine, root=False))
    return caught.value


def test_a_machine_that_is_well_has_an_empty_plan() -> None:
    assert plan_for(BOOKWORM, WELL) == ""
    doctor.fix([WELL], machine=BOOKWORM)


def test_debian_12_gets_a_source_a_pin_the_packages_and_a_start_in_this_order() -> None:
    steps = doctor.plan([NO_ENGINE, NO_TOOL], BOOKWORM)
    assert "sources.list.d/stackctl-trixie.sources" in steps[0] and "http://mirror.example/debian" in steps[0]
    assert "preferences.d/stackctl-trixie" in steps[1]
    assert steps[2].endswith("update")
    assert steps[3].endswith("install --no-install-recommends docker.io docker-cli docker-compose docker-buildx iptables mmdebstrap")
    assert "dockerd" in steps[4]
    assert len(steps) == 5


def test_what_debian_12_gets_is_written_out_for_who_is_not_root() -> None:
    hint = by_hand(BOOKWORM, NO_ENGINE).hint
    for line in (*SOURCE.splitlines(), *filter(None, PIN.splitlines())):
        assert line in hint
    assert "sudo apt-get" in hint and "| sudo tee /etc/apt/sources.list.d/stackctl-trixie.sources" in hint


def test_debian_13_needs_no_other_source_and_systemd_starts_the_engine() -> None:
    words = plan_for(TRIXIE, NO_ENGINE)
    assert "sources.list.d" not in words and "preferences.d" not in words
    assert "systemctl enable --now docker" in words


def test_a_release_that_is_offered_already_is_pinned_and_not_added() -> None:
    both = replace(BOOKWORM, sources=(*BOOKWORM.sources, *apt.parse_lines("deb http://mirror.example/debian trixie main")))
    words = plan_for(both, NO_COMPOSE)
    assert "sources.list.d" not in words and "preferences.d/stackctl-trixie" in words


def test_mmdebstrap_alone_needs_no_other_source_and_no_start() -> None:
    words = plan_for(BOOKWORM, NO_TOOL)
    assert words.endswith("install --no-install-recommends mmdebstrap")
    assert "trixie" not in words and "dockerd" not in words


def test_an_engine_that_is_stopped_is_only_started() -> None:
    assert len(doctor.plan([STOPPED], BOOKWORM)) == 1
    assert "dockerd" in plan_for(BOOKWORM, STOPPED)
    assert "apt-get" not in plan_for(BOOKWORM, STOPPED)


def test_ubuntu_has_other_names_for_the_same_packages() -> None:
    ubuntu = Machine("linux", "ubuntu", "24.04", "noble", root=True, systemd=True, user="ann")
    assert "docker.io docker-compose-v2 docker-buildx iptables" in plan_for(ubuntu, NO_ENGINE)
    assert "trixie" not in plan_for(ubuntu, NO_ENGINE)


def test_the_engine_makers_own_packages_are_not_mixed_with_the_distributions() -> None:
    assert "install --no-install-recommends docker-compose-plugin" in plan_for(replace(BOOKWORM, distribution="vendor"), NO_COMPOSE)


def test_nothing_is_installed_on_a_debian_that_is_too_old() -> None:
    assert "apt-get" not in plan_for(replace(BOOKWORM, release="11", codename="bullseye"), NO_ENGINE)


def test_who_is_not_root_gets_commands_and_no_plan() -> None:
    assert doctor.plan([STOPPED], replace(TRIXIE, root=False)) == ()
    error = by_hand(TRIXIE, STOPPED)
    assert error.exit_code == 3
    assert "doctor --fix" in error.hint and "sudo systemctl enable --now docker" in error.hint


def test_what_no_program_can_mend_is_left_to_the_person() -> None:
    assert plan_for(BOOKWORM, FULL) == ""
    with pytest.raises(EngineError, match=r"disk space: 0\.1 GiB free") as caught:
        doctor.fix([FULL], machine=BOOKWORM)
    assert "docker system prune" in caught.value.hint


# -- deeds


class Programs:
    """Stands in for the programs that need root: notes what would be run, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.seen: list[str] = []
        self.failing = failing

    def __call__(self, argv: Sequence[str], **_: object) -> command.Done:
        self.seen.append(" ".join(argv))
        if self.failing and self.failing in argv:
            raise EngineError(f"{argv[0]}: exit status 100\nE: Package 'docker-compose' has no installation candidate")
        return command.Done(tuple(argv), 0, b"", b"")


@pytest.fixture
def apt_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(doctor, "_SOURCE", tmp_path / "sources.list.d" / doctor._SOURCE.name)
    monkeypatch.setattr(doctor, "_PIN", tmp_path / "preferences.d" / doctor._PIN.name)
    return tmp_path


def test_the_files_are_written_before_apt_is_asked_and_a_second_time_is_as_the_first(apt_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", programs := Programs())
    for _ in range(2):
        doctor.fix([NO_COMPOSE], machine=BOOKWORM)
        source, pin = apt_folder / "sources.list.d" / "stackctl-trixie.sources", apt_folder / "preferences.d" / "stackctl-trixie"
        assert "".join(line for line in source.read_text().splitlines(keepends=True) if not line.startswith("#")) == SOURCE
        assert pin.read_text() == PIN
        assert {source.stat().st_mode & 0o777, pin.stat().st_mode & 0o777} == {0o644}
        assert {path.name for path in apt_folder.rglob("*") if path.is_file()} == {source.name, pin.name}
    assert [line.split()[0] for line in programs.seen] == ["apt-get"] * 4
    assert programs.seen[1].endswith("install --no-install-recommends docker-compose")


def test_a_source_that_does_not_work_is_taken_away_again(apt_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", Programs(failing="install"))
    with pytest.raises(EngineError, match="has no installation candidate") as caught:
        doctor.fix([NO_COMPOSE], machine=BOOKWORM)
    assert caught.value.hint
    assert [path for path in apt_folder.rglob("*") if path.is_file()] == []


def test_the_number_of_an_ended_or_another_process_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "docker.pid"
    monkeypatch.setattr(doctor, "_PID_FILES", {"dockerd": file, Path(sys.executable).resolve().name: file})
    assert not doctor._at_work("dockerd")
    file.write_text(f"{os.getpid()}\n")
    assert not doctor._at_work("dockerd")
    assert doctor._at_work(Path(sys.executable).resolve().name)
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    file.write_text(f"{ended.pid}\n")
    assert not doctor._at_work("dockerd")
    ended.wait()


# -- findings


def shaped(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.name.lower(): finding for finding in findings}


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def client(folder: Path, api: str, compose: str, buildx: str) -> None:
    """A docker client that has little to say."""
    version = f'{{"Version":"28.0","ApiVersion":"{api}","Os":"linux","Arch":"amd64"}}'
    program(folder, "docker", f"case $1 in version) echo '{version}';; info) echo /;; compose) {compose};; buildx) {buildx};; *) exit 1;; esac")


@pytest.mark.e2e
def test_this_machine_is_well() -> None:
    bad = [finding for finding in doctor.diagnose(os.environ) if not finding.ok]
    assert bad == []


def test_a_machine_without_docker_is_told_apart_from_a_stopped_engine(tmp_path: Path) -> None:
    found = shaped(doctor.diagnose({"PATH": str(tmp_path)}, BOOKWORM))
    assert not found["docker client"].ok and not found["engine"].ok
    words = plan_for(BOOKWORM, *found.values())
    assert "docker-cli" in words and "mmdebstrap" in words


def test_a_mac_is_told_about_docker_desktop(tmp_path: Path) -> None:
    found = doctor.diagnose({"PATH": str(tmp_path)}, MAC)
    with pytest.raises(EngineError) as caught:
        doctor.fix(found, machine=MAC)
    assert "Docker Desktop" in caught.value.hint


def test_an_old_engine_and_an_old_compose_are_not_good_enough(tmp_path: Path) -> None:
    client(tmp_path / "bin", api="1.40", compose="echo 2.19.1", buildx="exit 1")
    found = shaped(doctor.diagnose({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}, TRIXIE))
    assert found["engine"].ok
    assert not found["engine api"].ok and "1.41" in found["engine api"].detail
    assert not found["compose"].ok and "2.20" in found["compose"].detail
    assert not found["buildx"].ok
    assert "docker-compose" in plan_for(TRIXIE, found["compose"]) and "docker-buildx" in plan_for(TRIXIE, found["buildx"])


def test_a_new_engine_and_a_new_compose_are_good_enough(tmp_path: Path) -> None:
    client(tmp_path / "bin", api="1.48", compose="echo v2.40.3", buildx="echo x v0.29.1")
    found = shaped(doctor.diagnose({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}, TRIXIE))
    assert all(found[name].ok for name in ("engine", "engine api", "compose", "buildx"))


def test_an_engine_that_one_may_not_talk_to_is_a_matter_of_the_group(tmp_path: Path) -> None:
    program(tmp_path / "bin", "docker", "echo 'permission denied while trying to connect to the docker API' >&2; exit 1")
    engine = shaped(doctor.diagnose({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}, replace(TRIXIE, root=False)))["engine"]
    assert not engine.ok and engine.fix and "usermod -aG docker ann" in engine.fix.what
    assert doctor.plan([engine], TRIXIE) == ()


def test_another_machines_engine_is_not_started_here(tmp_path: Path) -> None:
    program(tmp_path / "bin", "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "DOCKER_HOST": "tcp://engine.example:2376"}
    engine = shaped(doctor.diagnose(env, BOOKWORM))["engine"]
    assert not engine.ok and engine.fix and "engine.example" in engine.fix.what
    assert plan_for(BOOKWORM, engine) == ""


@pytest.mark.parametrize("arguments", [["build"], ["ls"], ["doctor"]], ids=" ".join)
def test_no_engine_ends_in_exit_code_3_and_a_next_step(arguments: list[str], tmp_path: Path) -> None:
    env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/closed.sock", "STACKCTL_STATE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "stackctl", *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "next: " in done.stderr) == (3, True), done.stderr
    assert "Traceback" not in done.stderr
