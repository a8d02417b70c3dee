"""What stackctl needs on this machine: looks, says what is missing and, when asked, sets it up. Never acts without a plan that was shown.

`diagnose` looks, `plan` says what `fix` would do, `fix` does it. Only Debian and Ubuntu can be set up, and only by root;
everybody else is told what to do.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stackctl import apt, backends, command, inventory
from stackctl.errors import EngineError, StackctlError, TimedOut

_PYTHON = (3, 11)
_API = (1, 41)  # Engine 20.10: what the images' BuildKit features and the cgroup options need
_COMPOSE = (2, 20)
_FREE = 2 * 1024**3  # octets: the default stack's images with their build cache, and mail
_ANSWER_WITHIN = 20.0  # seconds
_START_WITHIN = 60.0  # seconds
_APT_WITHIN = 1800.0  # seconds
_LOG = "/var/log/dockerd.log"
_PID_FILES = {"dockerd": Path("/var/run/docker.pid"), "containerd": Path("/var/run/docker/containerd/containerd.pid")}
_NAMES: Mapping[str, Mapping[str, str]] = {  # who packages it, and under which names
    "debian": {"engine": "docker.io", "client": "docker-cli", "compose": "docker-compose", "buildx": "docker-buildx"},
    "ubuntu": {"engine": "docker.io", "client": "docker.io", "compose": "docker-compose-v2", "buildx": "docker-buildx", "keys": "debian-archive-keyring"},
    "vendor": {"engine": "docker-ce", "client": "docker-ce-cli", "compose": "docker-compose-plugin", "buildx": "docker-buildx-plugin"},
}
_ENGINE = ("engine", "client", "compose", "buildx", "iptables")
_LATER = "trixie"  # the first Debian release whose Compose is version 2
_SOURCE = Path(f"/etc/apt/sources.list.d/stackctl-{_LATER}.sources")
_PIN = Path(f"/etc/apt/preferences.d/stackctl-{_LATER}")
_PINNED = ("docker.io", "docker-cli", "docker-compose", "docker-buildx")
_SHOWN = ("Get:", "Unpacking ", "Setting up ", "Fetched ", "Err:", "E: ", "W: ")
# No question, no restart of other services, no waiting for ever for another apt.
_APT = ("apt-get", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Languages=none")
_QUIETLY = {"DEBIAN_FRONTEND": "noninteractive", "APT_LISTCHANGES_FRONTEND": "none", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}

Report = Callable[[str], None]


@dataclass(frozen=True)
class Machine:
    """What this machine is. `distribution` is "" where packages are not ours to install; `release` as os-release's VERSION_ID."""

    platform: str
    distribution: Literal["debian", "ubuntu", "vendor", ""]
    release: str
    codename: str
    root: bool
    systemd: bool
    user: str
    sources: tuple[apt.Source, ...] = ()
    keyring: bool = True  # whether the archive keys of _LATER are known

    @property
    def older(self) -> bool:
        """Whether its own packages of Compose are too old: Debian 12. A release before that cannot run later packages."""
        return self.distribution == "debian" and self.release == "12"


@dataclass(frozen=True)
class Fix:
    """How a finding is set right: a sentence for the person, packages by the part that they are, and whether to start the engine."""

    what: str
    packages: tuple[str, ...] = ()
    start: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `detail` is what was found, `fix` what to do when it is not `ok`."""

    name: str
    ok: bool
    detail: str
    fix: Fix | None = None


@dataclass(frozen=True)
class _Write:
    """A file to be written."""

    path: Path
    text: str
    why: str

    @property
    def sentence(self) -> str:
        return f"write {self.path} ({self.why})"

    @property
    def by_hand(self) -> str:
        return f"printf '%s\\n' {shlex.join(self.text.splitlines())} | sudo tee {self.path}"

    def act(self, report: Report) -> None:
        report(self.sentence)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.new")  # apt reads no file whose name begins with a dot
        fresh.write_text(self.text, encoding="utf-8")
        fresh.chmod(0o644)
        fresh.replace(self.path)


@dataclass(frozen=True)
class _Run:
    """A program to be run. Where it is not `needed`, its failure shows in what comes after it."""

    argv: tuple[str, ...]
    why: str
    needed: bool = True

    @property
    def sentence(self) -> str:
        return f"{self.why}: {shlex.join(self.argv)}"

    @property
    def by_hand(self) -> str:
        return f"sudo {shlex.join(self.argv)}"

    def act(self, report: Report) -> None:
        report(self.why)
        try:
            command.run(self.argv, env=_QUIETLY, timeout=_APT_WITHIN, on_line=lambda line: report(line) if line.startswith(_SHOWN) else None)
        except EngineError as why:
            if self.needed:
                raise EngineError(f"could not {self.why}:\n{why.message}", _apt_hint(why.message)) from why
            report(why.message.splitlines()[-1])


@dataclass(frozen=True)
class _Start:
    """The engine to be started where no init does it."""

    @property
    def sentence(self) -> str:
        return f"start the engine: dockerd, detached, its log in {_LOG}"

    @property
    def by_hand(self) -> str:
        return f"sudo sh -c 'setsid dockerd >> {_LOG} 2>&1 < /dev/null &'"

    def act(self, report: Report) -> None:
        program = _dockerd()
        if program is None:
            raise EngineError("dockerd: command not found", "is the package docker.io installed? `dpkg -l docker.io`")
        if _at_work("dockerd"):  # the package's own script has started it
            return _wait_for_engine(lambda: "")
        report("starting the engine")
        for name, file in _PID_FILES.items():
            if not _at_work(name):  # dockerd takes the number of any process, even of one that has ended, for another dockerd
                file.unlink(missing_ok=True)
        start = Path(_LOG).stat().st_size if Path(_LOG).exists() else 0
        pid = command.start_detached([program], _LOG)
        _wait_for_engine(lambda: "" if _alive(pid) else f"dockerd ended at once:\n{_tail(_LOG, start)}")


_Step = _Write | _Run | _Start


def this_machine(env: Mapping[str, str]) -> Machine:
    """What this machine is: from os-release(5), dpkg, /etc/apt and its first process."""
    try:
        about = platform.freedesktop_os_release()
    except OSError:
        about = {}
    kin = {about.get("ID", ""), *about.get("ID_LIKE", "").split()}
    distribution: Literal["debian", "ubuntu", "vendor", ""] = "ubuntu" if "ubuntu" in kin else "debian" if about.get("ID") == "debian" else ""
    if distribution and Path("/var/lib/dpkg/info/docker-ce-cli.list").exists():
        distribution = "vendor"  # Docker's own packages, with which the distribution's do not go together
    return Machine(
        platform=sys.platform,
        distribution=distribution,
        release=about.get("VERSION_ID", ""),
        codename=about.get("VERSION_CODENAME", ""),
        root=os.geteuid() == 0,
        systemd=Path("/run/systemd/system").is_dir(),  # sd_booted(3)
        user=getpass.getuser(),
        sources=apt.read(without=_SOURCE.name) if distribution else (),
        keyring=any(Path(folder).glob(f"debian-archive-{_LATER}-*") for folder in ("/usr/share/keyrings", "/etc/apt/trusted.gpg.d")),
    )


def diagnose(env: Mapping[str, str], machine: Machine | None = None) -> tuple[Finding, ...]:
    """Everything that stackctl needs, looked at; changes nothing. Takes under a second unless something does not answer."""
    machine = machine or this_machine(env)
    client = shutil.which("docker", path=env.get("PATH"))
    found = [_python()]
    if client is None:
        fix = Fix(_advice(machine, "the docker client"), _ENGINE)
        found.append(Finding("docker client", False, "there is no program docker", fix))
        found.append(Finding("engine", False, "not looked for without a client", Fix(fix.what, _ENGINE, start=_local(env))))
        return (*found, _disk(machine, Path("/var/lib/docker")), _base(machine, None, env))
    found.append(Finding("docker client", True, client))
    engine, server = _engine(machine, env)
    found.append(engine)
    if server:
        version = _numbers(str(server.get("ApiVersion", "")))
        update = Fix(_advice(machine, "a newer engine (20.10 at least)"), ("engine",))
        found.append(Finding("engine API", version >= _API, f"{server.get('ApiVersion')} (at least {_dotted(_API)})", update if version < _API else None))
    found += [_plugin(machine, "compose", "Compose", _COMPOSE, env), _plugin(machine, "buildx", "Buildx", (0, 10), env)]
    found.append(_disk(machine, _image_root(env) if server else Path("/var/lib/docker")))
    found.append(_base(machine, client, env))
    return tuple(found)


def plan(findings: Iterable[Finding], machine: Machine | None = None) -> tuple[str, ...]:
    """What `fix` would do, in sentences; () where it can do nothing, or may not."""
    machine = machine or this_machine(os.environ)
    return tuple(step.sentence for step in _steps(findings, machine)) if machine.root else ()


def fix(findings: Iterable[Finding], report: Report = lambda _: None, machine: Machine | None = None) -> None:
    """Sets up what is missing, and returns when the engine answers. Doing it again does nothing.

    Raises EngineError when a step fails, with its last lines; and when nothing can be done from here, with what to do instead.
    """
    findings = [finding for finding in findings if not finding.ok]
    machine = machine or this_machine(os.environ)
    steps = _steps(findings, machine)
    if not steps:
        if wrong := [finding for finding in findings if finding.fix]:
            words = "; ".join(f"{finding.name}: {finding.detail}" for finding in wrong)
            raise EngineError(f"this cannot be set right from here: {words}", "\n".join(dict.fromkeys(finding.fix.what for finding in wrong if finding.fix)))
        return
    if not machine.root:
        by_hand = "\n".join(f"  {step.by_hand}" for step in steps)
        raise EngineError("setting this machine up needs root", f"run `sudo {sys.executable} -m stackctl doctor --fix`, or these commands one by one:\n{by_hand}")
    written: list[Path] = []
    for step in steps:
        if isinstance(step, _Write) and not step.path.exists():
            written.append(step.path)
        try:
            step.act(report)
        except BaseException:
            # A source that its mirror does not have would fail every later `apt-get update`.
            for path in written if isinstance(step, _Run) and step.argv[0] == _APT[0] else ():
                path.unlink(missing_ok=True)
            raise
    if any(finding.fix and finding.fix.start for finding in findings):
        _wait_for_engine(lambda: "")


def _steps(findings: Iterable[Finding], machine: Machine) -> tuple[_Step, ...]:
    wrong = [finding.fix for finding in findings if not finding.ok and finding.fix]
    parts = tuple(dict.fromkeys(part for each in wrong for part in each.packages))
    steps: list[_Step] = []
    if parts and machine.distribution and (machine.distribution != "debian" or machine.release in ("", "12") or _numbers(machine.release) >= (13,)):
        names = _NAMES[machine.distribution]
        if "mmdebstrap" in parts:
            parts = (*parts, *(("keys",) if "keys" in names else ()))
        packages = tuple(dict.fromkeys(names.get(part, part) for part in parts))
        if machine.older and set(packages) & set(_PINNED):
            steps += _later_source(machine)
        steps.append(_Run((*_APT, "update"), "read the package lists", needed=False))
        steps.append(_Run((*_APT, "install", "--no-install-recommends", *packages), f"install {', '.join(packages)}"))
    if any(each.start for each in wrong) and (steps or not parts):
        steps.append(_Run(("systemctl", "enable", "--now", "docker"), "start the engine") if machine.systemd else _Start())
    return tuple(steps)


def _later_source(machine: Machine) -> list[_Step]:
    """Debian 12 has Compose 1 alone. The packages of its successor install on it: they need libc 2.34, it has 2.36."""
    names = (machine.codename, "stable", "oldstable")
    source = next((found for name in names if (found := apt.archive(machine.sources, name))), None)
    known = apt.offers(machine.sources, _LATER)
    if source is None and not known:
        return []
    steps: list[_Step] = []
    if not machine.keyring:
        steps.append(_Run((*_APT, "update"), "read the package lists", needed=False))
        steps.append(_Run((*_APT, "install", "--no-install-recommends", "debian-archive-keyring"), f"get the archive keys of {_LATER}"))
    if source is not None and not known:
        text = f"# Written by `stackctl doctor --fix`, for the packages that are pinned in {_PIN}.\n{apt.stanza(source, _LATER)}"
        steps.append(_Write(_SOURCE, text, f"{_LATER} from {source.uris[0]}, where {machine.codename} comes from"))
    # Whoever has the release among their sources already has also decided about the rest of it.
    steps.append(_Write(_PIN, apt.pin(_LATER, _PINNED, rest=not known), f"of {_LATER} only {', '.join(_PINNED)}"))
    return steps


def _advice(machine: Machine, thing: str) -> str:
    """What a person does to get a part of the engine."""
    if machine.platform == "darwin":
        return f"{thing} comes with Docker Desktop: install or update it, and start it (`open -a Docker`)"
    if machine.platform == "win32":
        return f"{thing} comes with Docker Desktop: install or update it, and run stackctl inside WSL 2"
    if machine.distribution == "debian" and (0,) < _numbers(machine.release) < (12,):
        return f"Debian {machine.release} is too old for {thing} (its libc is older than 2.34): upgrade it, or use a remote engine by $DOCKER_HOST"
    if machine.distribution:
        return "`stackctl doctor --fix` installs it" if machine.root else f"`sudo {sys.executable} -m stackctl doctor --fix` installs it"
    return f"install {thing} with your distribution's packages: Docker Engine 20.10 or later with the plugins Compose ({_dotted(_COMPOSE)} or later) and Buildx"


def _python() -> Finding:
    version = sys.version_info[:3]
    fix = Fix(f"run stackctl with Python {_dotted(_PYTHON)} or later") if version < _PYTHON else None
    return Finding("Python", fix is None, f"{_dotted(version)} (at least {_dotted(_PYTHON)})", fix)


def _engine(machine: Machine, env: Mapping[str, str]) -> tuple[Finding, Mapping[str, Any]]:
    try:
        done = command.run(["docker", "version", "--format", "{{json .Server}}"], env=env, check=False, timeout=_ANSWER_WITHIN)
    except TimedOut:
        log = "`journalctl -u docker`" if machine.systemd else _LOG
        return Finding("engine", False, f"it does not answer within {_ANSWER_WITHIN:g} s", Fix(f"look into its log ({log}) and restart it")), {}
    server = json.loads(done.text) if done.status == 0 and done.text.startswith("{") else None
    if server:
        return Finding("engine", True, f"{server.get('Version')} on {server.get('Os')}/{server.get('Arch')}"), server
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    detail = said[-1] if said else "it does not answer"
    if "permission denied" in detail.lower():
        fix = Fix(f"only members of the group docker may use the engine: `sudo usermod -aG docker {machine.user}`, then log out and in again (or `newgrp docker`)")
    elif not _local(env):
        where = env.get("DOCKER_HOST") or f"docker context {inventory.context(env)}"
        fix = Fix(f"the engine is elsewhere ({where}): start it there, or use this machine's: `unset DOCKER_HOST`, `docker context use default`")
    elif machine.platform != "linux":
        fix = Fix(_advice(machine, "the engine"))
    elif _dockerd() or machine.distribution == "vendor":
        fix = Fix("`stackctl doctor --fix` starts it" if machine.root else f"`sudo {sys.executable} -m stackctl doctor --fix` starts it", start=True)
        detail = "installed, but it does not run"
    else:
        fix = Fix(_advice(machine, "the engine"), _ENGINE, start=True)
        detail = "there is none on this machine"
    return Finding("engine", False, detail, fix), {}


def _plugin(machine: Machine, plugin: str, name: str, least: tuple[int, ...], env: Mapping[str, str]) -> Finding:
    try:
        done = command.run(["docker", plugin, "version"], env=env, check=False, timeout=_ANSWER_WITHIN)
    except TimedOut as why:
        return Finding(name, False, why.message, Fix(f"run `docker {plugin} version` and see what keeps it"))
    found = re.search(r"\bv?(\d+\.\d+[\w.+~-]*)", done.text) if done.status == 0 else None
    if found is None:
        return Finding(name, False, f"the docker client has no plugin {plugin}", Fix(_advice(machine, f"the plugin {plugin}"), (plugin,)))
    ok = _numbers(found[1]) >= least
    fix = None if ok else Fix(_advice(machine, f"{name} {_dotted(least)} or later"), (plugin,))
    return Finding(name, ok, f"{found[1]} (at least {_dotted(least)})", fix)


def _disk(machine: Machine, root: Path | None) -> Finding:
    if machine.platform != "linux" or root is None:
        return Finding("disk space", True, "on the engine's own disk, not looked at")
    place = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    fix = Fix("`docker system df` shows what takes the space, `docker system prune` frees what nothing uses") if free < _FREE else None
    return Finding("disk space", fix is None, f"{free / 1024**3:.1f} GiB free at {root} (at least {_FREE / 1024**3:g})", fix)


def _base(machine: Machine, client: str | None, env: Mapping[str, str]) -> Finding:
    """Whether base images can be had: with mmdebstrap always; without it when they are here, or a registry has them."""
    name = "base images"
    if shutil.which("mmdebstrap", path=env.get("PATH")):
        return Finding(name, True, "mmdebstrap can make those that a registry does not give")
    fix = Fix(_advice(machine, "mmdebstrap (it makes base images where no registry can be reached)"), ("mmdebstrap",))
    if client is None:
        return Finding(name, False, "no mmdebstrap, and not known whether a registry has them", fix)
    wanted = sorted({f"debian:{backend.release}-slim" for backend in backends.all_backends().values()})
    absent = [image for image in wanted if not _succeeds(["docker", "image", "inspect", image], env)]
    if all(_succeeds(["docker", "manifest", "inspect", image], env) for image in absent):
        return Finding(name, True, "they are here" if not absent else f"a registry has {', '.join(absent)}")
    return Finding(name, False, f"{', '.join(absent)}: not here, no registry has it, and there is no mmdebstrap to make it", fix)


def _succeeds(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    try:
        return command.run(argv, env=env, check=False, timeout=_ANSWER_WITHIN).status == 0
    except StackctlError:
        return False


def _image_root(env: Mapping[str, str]) -> Path | None:
    """Where a local engine keeps its images; None for one whose disk cannot be seen from here."""
    done = command.run(["docker", "info", "--format", "{{.DockerRootDir}}"], env=env, check=False, timeout=_ANSWER_WITHIN)
    root = Path(done.text.strip() or "/var/lib/docker")
    return root if _local(env) or root.exists() else None


def _local(env: Mapping[str, str]) -> bool:
    """Whether the engine in use is the one that this machine itself would start."""
    return env.get("DOCKER_HOST", "") in ("", "unix:///var/run/docker.sock", "unix:///run/docker.sock") and inventory.context(env) in ("", "default")


def _dockerd() -> str | None:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin")


def _wait_for_engine(ended: Callable[[], str]) -> None:
    """Returns when the engine answers. Raises EngineError as soon as `ended` has something to say, TimedOut at the deadline."""
    deadline = time.monotonic() + _START_WITHIN
    last = ""
    while time.monotonic() < deadline:
        done = command.run(["docker", "version", "--format", "{{.Server.Version}}"], check=False, timeout=_ANSWER_WITHIN)
        if done.status == 0:
            return
        last = done.last_words
        if why := ended():
            raise EngineError(why, f"the whole log is {_LOG}; when it is dealt with, `stackctl doctor --fix` again")
        time.sleep(0.1)
    raise TimedOut(f"the engine does not answer after {_START_WITHIN:g} s (last: {last})", f"its log is {_LOG}, or `journalctl -u docker`")


def _at_work(name: str) -> bool:
    """Whether a program of the engine runs, be it that it does not answer yet. Its file may be left over from one that was killed."""
    try:
        pid = int(_PID_FILES[name].read_text(encoding="utf-8"))
        return Path(f"/proc/{pid}/exe").readlink().name == name  # a process that has ended and was not waited for has none
    except (OSError, ValueError):
        return False


def _alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def _tail(path: str, start: int) -> str:
    with open(path, "rb") as log:
        log.seek(start)
        return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-8:])


def _apt_hint(words: str) -> str:
    if "Could not get lock" in words or "is another process using it" in words:
        return "another program installs packages just now; try again when it is done"
    if "no space left" in words.lower() or "enough free space" in words:
        return "the disk is full: `apt-get clean` frees what apt has kept"
    if any(word in words for word in ("Failed to fetch", "Could not resolve", "Could not connect", "Unable to locate", "has no installation candidate")):
        return "is the mirror in /etc/apt/sources.list.d in reach, and current? `apt-get update` shows; then `stackctl doctor --fix` again"
    return "the lines above are the program's own; when they are dealt with, `stackctl doctor --fix` goes on from there"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("-")[0])[:3])


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))
