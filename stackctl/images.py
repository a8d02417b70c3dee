"""Images: one shared base per Debian release, and one image per backend, named after a hash of what it is made from.

It builds what is missing and nothing else. It configures nothing: an image holds packages alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackctl import apt, command, inventory
from stackctl.backends import Backend
from stackctl.errors import EngineError, StackctlError
from stackctl.labels import IMAGE
from stackctl.model import Debian

_BACKEND = "org.stackctl.backend"
_BASE = "org.stackctl.base"
_VERSION = "org.stackctl.version"
_VERSION_FILE = "/usr/local/lib/stackctl/version"
_SHOWN = 60  # characters of a step
_PULL_WITHIN = 180.0  # seconds for about 30 MB; where no registry can be reached the engine says so much sooner
_BUILD_WITHIN = 1800.0  # seconds
_BUILDKIT = {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}  # an attestation would make each image a list of two
# What a server never reads; the official slim images leave it out too, copyright files stay.
_LEFT_OUT = ("man", "locale", "doc", "info", "groff", "lintian", "bash-completion")
_KEPT = ("doc/*/copyright", "locale/locale.alias")
_STEP = re.compile(r"#(?P<vertex>\d+) \[ *(?:\S+ +)?(?P<step>\d+)/(?P<total>\d+)\] (?P<text>.*)")
_OUTPUT = re.compile(r"#(?P<vertex>\d+) (?:[\d.]+ (?P<text>.*)|ERROR: (?P<error>.*))")
_FROM_OUTSIDE = re.compile(r"\b(COPY|ADD)\s+(.*)", re.IGNORECASE)
_FULL = "no space left on device"
_UNREACHABLE = ("Temporary failure resolving", "Could not resolve", "Could not connect", "Failed to fetch", "Unable to locate package", "failed to download")


@dataclass(frozen=True)
class Progress:
    """How far the making of an image is; `total` is 0 where steps are not counted."""

    image: str
    text: str
    step: int = 0
    total: int = 0

    def __str__(self) -> str:
        return f"{self.image}: " + (f"step {self.step} of {self.total}: " if self.total else "") + _cut(self.text)


@dataclass(frozen=True)
class Base:
    """The image that others start from, the way it came (local, pulled or bootstrapped), and the engine's id of it."""

    reference: str
    way: str
    digest: str


Report = Callable[[Progress], None]


def release_of(backend: Backend, debian: Debian) -> str:
    """The Debian release that a backend's image is built from: the one that stack.yaml chooses where its packages serve, else its own."""
    chosen = debian.release
    return chosen if chosen and chosen in backend.releases else backend.release


def tag(backend: Backend, debian: Debian) -> str:
    """The image's name: a hash over the files that enter it, the release and the mirror.

    Templates and what is known of a server's settings enter no image: they count only where the Dockerfile copies them. Of a file's mode only
    whether it can be run counts: the rest of it is the umask of whoever unpacked it.
    """
    found = hashlib.sha256(repr((release_of(backend, debian), debian.mirror)).encode())
    left_out = {"templates", "known", "backend.yaml", "import.yaml", "conversion.yaml"} - _copied(backend.folder / "Dockerfile")
    for path in sorted(backend.folder.rglob("*")):
        inside = path.relative_to(backend.folder)
        if path.is_file() and inside.parts[0] not in left_out and "__pycache__" not in inside.parts:
            executable = bool(path.stat().st_mode & 0o111)
            found.update(repr((inside.as_posix(), executable, path.stat().st_size)).encode() + path.read_bytes())
    return f"stackctl/{backend.name}:{found.hexdigest()[:12]}"


def present() -> set[str]:
    """The tags of every image that stackctl has built. Raises EngineError when no engine answers."""
    return set(inventory.images())


def missing(backends: Iterable[Backend], debian: Debian) -> tuple[Backend, ...]:
    """Those of the backends whose image would have to be built."""
    here = present()
    return tuple(backend for backend in backends if tag(backend, debian) not in here)


def version_of(image: str) -> str:
    """The upstream version of the server in an image, "" for one that does not say. Raises EngineError when it is not there."""
    return versions([image])[image]


def versions(tags: Iterable[str]) -> dict[str, str]:
    """The upstream version of the server in each of these images, as `version_of` tells it, asked for all at once."""
    here = inventory.images()
    wanted = list(tags)
    if gone := [tag for tag in wanted if tag not in here]:
        raise EngineError(f"there is no image {', '.join(gone)}", "`stackctl build` makes what is missing")
    return {tag: here[tag].get(_VERSION, "") for tag in wanted}


def build(
    backends: Iterable[Backend], debian: Debian, report: Report = lambda _: None, force: bool = False, here: Callable[[], set[str]] = present
) -> dict[str, str]:
    """Builds what is missing of these images, in parallel; backend name to tag. With `force`, all of them anew.

    `here` tells which tags are there, for a caller that has asked already.
    Raises EngineError with the failed step's last lines, of every build that failed; the others are finished all the same.
    An interrupt ends what is running and leaves no half-made image.
    """
    chosen = {backend.name: backend for backend in backends}
    tags = {name: tag(backend, debian) for name, backend in chosen.items()}
    known = set() if force else here()
    to_build = [backend for name, backend in chosen.items() if tags[name] not in known]
    if not to_build:
        return tags
    releases = sorted({release_of(backend, debian) for backend in to_build})
    stopped = threading.Event()
    pool = ThreadPoolExecutor(len(releases) + len(to_build))
    bases: dict[str, Future[Base]] = {}
    jobs: dict[str, Future[Any]] = {}  # bases and images, by what a failure calls them
    try:
        for release in releases:
            jobs[f"base {release}"] = bases[release] = pool.submit(base_image, release, debian.mirror, report)
        for backend in to_build:
            job = _Build(backend, tags[backend.name], bases[release_of(backend, debian)], report, force, stopped)
            jobs[f"image {backend.name}"] = pool.submit(job.run)
        wait(jobs.values())
    except BaseException:
        stopped.set()
        while wait(jobs.values(), timeout=0.2).not_done:  # one that was between two programs has started its next by now
            command.end_all()
        raise
    finally:
        pool.shutdown()
    failed: list[tuple[str, BaseException]] = []
    for name, done in jobs.items():
        why = done.exception()
        if why and all(why is not known for _, known in failed):  # a base's failure is that of each image on it
            failed.append((name, why))
    _raise(failed)
    return tags


def base_image(release: str, mirror: str | None, report: Report = lambda _: None) -> Base:
    """The base image of a Debian release: the one that is here, else pulled, else bootstrapped from a Debian mirror.

    The mirror is `mirror`, else the one that this machine's apt uses, else mmdebstrap's default. An image that is here
    or pulled gets its packages from `mirror` too, in a derived image.
    Raises EngineError when none of the three works, with what to do.
    """
    reference, name = f"debian:{release}-slim", f"base {release}"
    derived = f"stackctl/base:{release}-{hashlib.sha256(mirror.encode()).hexdigest()[:12]}" if mirror else reference
    if digest := _digest(derived):
        report(Progress(name, f"{derived} is here"))
        return Base(derived, "local", digest)
    way = "local" if mirror and _digest(reference) else "pulled" if _pulled(reference, name, report) else "bootstrapped"
    if way == "bootstrapped":
        report(Progress(name, f"no registry in reach, bootstrapping {release} from {mirror or 'the Debian mirror of this machine'}"))
        _bootstrap(derived, release, mirror, lambda line: report(Progress(name, line)))
    elif mirror:
        _derive(reference, derived, release, mirror)
    report(Progress(name, f"{derived}: {way}"))
    return Base(derived, way, _digest(derived))


def _copied(dockerfile: Path) -> set[str]:
    """The first parts of the paths that a Dockerfile copies from its folder; all that could matter where it copies the whole of it."""
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    words = {word.strip('[]",').removeprefix("./") for line in text.splitlines() if (found := _FROM_OUTSIDE.match(line.strip())) for word in found[2].split()}
    everything = {"templates", "backend.yaml"} if words & {"", ".", "*"} or "type=bind" in text else set()
    return {word.split("/")[0] for word in words} | everything


def _digest(reference: str) -> str:
    done = command.run(["docker", "image", "inspect", "--format", "{{.Id}}", reference], check=False)
    return done.text.strip() if done.status == 0 else ""


def _pulled(reference: str, name: str, report: Report) -> bool:
    report(Progress(name, f"pulling {reference}"))
    try:
        return command.run(["docker", "pull", reference], check=False, timeout=_PULL_WITHIN, on_line=lambda line: report(Progress(name, line))).status == 0
    except StackctlError:
        return False  # a registry that never answers is as good as none


def _derive(reference: str, derived: str, release: str, mirror: str) -> None:
    """A base image whose packages come from another mirror."""
    recipe = (
        f'FROM {reference}\nARG RELEASE MIRROR\nRUN rm -f /etc/apt/sources.list.d/* && echo "deb $MIRROR $RELEASE main" > /etc/apt/sources.list\nLABEL {_BASE}=derived\n'
    )
    arguments = [f"--build-arg=RELEASE={release}", f"--build-arg=MIRROR={mirror}"]
    command.run(["docker", "build", *arguments, "-t", derived, "-"], stdin=recipe.encode(), env=_BUILDKIT)


def _bootstrap(reference: str, release: str, mirror: str | None, on_line: Callable[[str], None]) -> None:
    """A base image out of packages. It has its name only when it is whole: a stream that breaks off makes an image too."""
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{path}/*" for path in _LEFT_OUT]
    included = [f"--dpkgopt=path-include=/usr/share/{path}" for path in _KEPT]
    quick = ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']  # an image that is half written is made anew
    configured = [f"--aptopt={line}" for line in _apt_settings()]
    sources = [f"deb {mirror} {release} main"] if mirror else apt.lines_for(apt.read(), _codename(), release)
    argv = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", *excluded, *included, *quick, *configured, release, "-", *sources]
    changes = ["--change", f"LABEL {_BASE}=bootstrapped", "--change", 'CMD ["bash"]']
    unnamed = ["docker", "image", "prune", "--force", "--filter", f"label={_BASE}=bootstrapped"]
    try:
        made = command.pipe(argv, ["docker", "import", *changes, "-"], timeout=_BUILD_WITHIN, on_line=lambda line: on_line(line.removeprefix("I: ")))
        command.run(["docker", "tag", made.text.strip(), reference])
    except StackctlError as why:
        command.run(unnamed, check=False)
        hint = _next_step(why, f"an image called {reference} from elsewhere (`docker load`) does as well")
        said = why.message.partition("\n")[2] or why.message  # without the command line, which is long
        raise EngineError(f"the base image {reference} could not be made:\n{said}", hint) from why


def _apt_settings() -> tuple[str, ...]:
    """What this machine's apt must know to use its mirror: how old an index may be, and a proxy that is not on this machine itself."""
    try:
        lines = command.run(["apt-config", "dump"]).text.splitlines()
    except EngineError:  # no apt here
        return ()
    wanted = re.compile(r"Acquire::(Check-Valid-Until|Check-Date|https?::Proxy) \"(?!https?://(localhost|127\.|\[::1\]))[^\"]+\";")
    return tuple(line for line in lines if wanted.fullmatch(line))


def _codename() -> str:
    """The release of this machine, "" where it is not Debian (whose mirror alone has Debian's releases)."""
    import platform

    try:
        about = platform.freedesktop_os_release()
    except OSError:
        return ""
    return about.get("VERSION_CODENAME", "") if about.get("ID") == "debian" else ""


@dataclass
class _Build:
    """The build of one image, and what its current step has said."""

    backend: Backend
    image: str
    base: Future[Base]
    report: Report
    force: bool
    stopped: threading.Event
    steps: dict[str, str] = field(default_factory=dict)
    heard: dict[str, deque[str]] = field(default_factory=dict)
    failed: str = ""
    why: str = ""

    def run(self) -> None:
        """Builds under a passing name, asks the result for its version, and names it when all is well."""
        base = self.base.result()
        self._goes_on()
        self.report(Progress(self.backend.name, f"building on {base.reference} ({base.way})"))
        passing = f"{self.image}-unfinished-{os.getpid()}"  # another process may build the same
        argv = ["docker", "build", "--progress=plain", f"--build-arg=BASE={base.reference}", *(["--no-cache"] if self.force else [])]
        try:
            done = command.run([*argv, "-t", passing, str(self.backend.folder)], env=_BUILDKIT, on_line=self._on_line, timeout=_BUILD_WITHIN, check=False)
            self._goes_on()
            if done.status != 0:
                said = self.heard.get(self.failed, deque())
                raise EngineError("\n".join([f"{self.steps[self.failed]} failed ({self.why}):", *said]) if said else f"docker build failed:\n{done.last_words}")
            shown = command.run(["docker", "run", "--rm", "--network", "none", "--entrypoint", "cat", passing, _VERSION_FILE], check=False)
            self._goes_on()
            if shown.status != 0 or not shown.text.strip():
                raise EngineError(f"{_VERSION_FILE} does not hold the server's version:\n{shown.last_words}")
            labels = {IMAGE: "1", _BACKEND: self.backend.name, _BASE: f"{base.reference} {base.way}", _VERSION: shown.text.strip()}
            recipe = f"FROM {passing}\n" + "".join(f"LABEL {name}={json.dumps(value)}\n" for name, value in labels.items())
            command.run(["docker", "build", "-t", self.image, "-"], stdin=recipe.encode(), env=_BUILDKIT)
        finally:
            command.run(["docker", "image", "rm", passing], check=False)
        self.report(Progress(self.backend.name, f"{self.image} built, version {labels[_VERSION]}"))

    def _goes_on(self) -> None:
        if self.stopped.is_set():
            raise EngineError("interrupted")

    def _on_line(self, line: str) -> None:
        """Follows BuildKit's plain output: `#7 [2/5] RUN …` begins a step, `#7 1.23 …` is what it says, `#7 ERROR: …` its end."""
        if found := _STEP.match(line):
            self.steps[found["vertex"]] = f"step {found['step']} of {found['total']}, `{_short(found['text'])}`"
            self.report(Progress(self.backend.name, _short(found["text"]), int(found["step"]), int(found["total"])))
        elif (found := _OUTPUT.match(line)) and found["vertex"] in self.steps:
            if found["error"]:
                self.failed, self.why = found["vertex"], found["error"].rpartition("did not complete successfully: ")[2]
            else:
                self.heard.setdefault(found["vertex"], deque(maxlen=12)).append(found["text"])


def _short(text: str) -> str:
    return _cut(re.sub(r"--(mount|chmod)=\S+ ?", "", text))


def _cut(text: str) -> str:
    """As much as fits beside an image's name on a line of a terminal."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _raise(failed: Sequence[tuple[str, BaseException]]) -> None:
    """One error for all failures; anything that is not ours comes out as it is."""
    for _, why in failed:
        if not isinstance(why, StackctlError):
            raise why
    if failed:
        words = EngineError("\n".join(f"{name}: {why}" for name, why in failed))
        hints = dict.fromkeys(why.hint for _, why in failed if isinstance(why, StackctlError) and why.hint)
        raise EngineError(words.message, "\n".join(hints) or _next_step(words, "the folder images/ says how each image is built; then `stackctl build`"))


def _next_step(why: StackctlError, otherwise: str) -> str:
    if _FULL in why.message.lower():
        return "the engine's disk is full: `docker system df` shows what takes it, `docker system prune` frees what nothing uses"
    if any(word in why.message for word in _UNREACHABLE):
        return "the Debian mirror is not in reach; `debian: {mirror: …}` in stack.yaml names another one"
    return f"{why.hint}; {otherwise}" if why.hint else otherwise
