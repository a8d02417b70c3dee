"""Images: one shared base per Debian release, and one image per backend, named after a hash of what it is made from.

It builds what is missing and nothing else. It configures nothing: an image holds packages alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stackctl import command
from stackctl.backends import Backend
from stackctl.errors import EngineError, StackctlError
from stackctl.model import Debian

LABEL = "org.stackctl.image"
_VERSION = "org.stackctl.version"
_PULL_WITHIN = 120.0  # seconds; where no registry can be reached it is refused much sooner
_BUILD_WITHIN = 1800.0
# What a server never reads; the official slim images leave it out too.
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")
_STEP = re.compile(r"#\d+ \[ *(?:stage-\d+ +)?(\d+)/(\d+)\] (.*)")


@dataclass(frozen=True)
class Progress:
    """How far the build of an image is."""

    image: str
    text: str
    step: int = 0
    total: int = 0

    def __str__(self) -> str:
        return f"{self.image}: " + (f"step {self.step} of {self.total}: " if self.total else "") + self.text


@dataclass(frozen=True)
class Base:
    """The image that others start from, and the way it came: local, pulled or bootstrapped."""

    reference: str
    way: str


Report = Callable[[Progress], None]


def release_of(backend: Backend, debian: Debian) -> str:
    """The Debian release that a backend's image is built from."""
    return debian.release or backend.release


def tag(backend: Backend, debian: Debian) -> str:
    """The image's name: a hash over the files that enter it, the release and the mirror. Templates enter containers, not images."""
    found = hashlib.sha256(repr((release_of(backend, debian), debian.mirror)).encode())
    for path in sorted(backend.folder.rglob("*")):
        inside = path.relative_to(backend.folder)
        if path.is_file() and inside.parts[0] not in ("templates", "backend.yaml") and "__pycache__" not in inside.parts:
            executable = bool(path.stat().st_mode & 0o100)
            found.update(repr((str(inside), executable)).encode() + path.read_bytes())
    return f"stackctl/{backend.name}:{found.hexdigest()[:12]}"


def present() -> set[str]:
    """The tags of every image that stackctl has built. Raises EngineError when no engine answers."""
    done = command.run(["docker", "image", "ls", "--filter", f"label={LABEL}", "--format", "{{.Repository}}:{{.Tag}}"], check=False)
    if done.status != 0:
        raise EngineError(f"no container engine answers:\n{done.last_words}", "`stackctl doctor` says what is missing, `stackctl doctor --fix` sets it up")
    return set(done.text.splitlines())


def build(backends: Sequence[Backend], debian: Debian, report: Report = lambda _: None, force: bool = False) -> dict[str, str]:
    """Builds what is missing of these images, in parallel; backend name to tag.

    Raises EngineError with the last lines of every build that failed; the others are finished all the same.
    """
    tags = {backend.name: tag(backend, debian) for backend in backends}
    here = present()
    missing = [backend for backend in {backend.name: backend for backend in backends}.values() if force or tags[backend.name] not in here]
    if not missing:
        return tags
    releases = sorted({release_of(backend, debian) for backend in missing})
    with ThreadPoolExecutor(len(releases)) as pool:
        bases = dict(zip(releases, pool.map(lambda release: base_image(release, debian.mirror, report), releases), strict=True))

    def one(backend: Backend) -> StackctlError | None:
        try:
            _build(backend, tags[backend.name], bases[release_of(backend, debian)], report, force)
        except StackctlError as why:
            return why
        return None

    with ThreadPoolExecutor(len(missing)) as pool:
        failed = [(backend.name, why) for backend, why in zip(missing, pool.map(one, missing), strict=True) if why]
    if failed:
        words = "\n".join(f"image {name}: {why.message}" for name, why in failed)
        hint = "free some space on the engine's disk: `docker system df` shows what takes it" if "no space left" in words else ""
        raise EngineError(words, hint or "is the Debian mirror reachable? `debian: {mirror: …}` in stack.yaml names another one; then `stackctl build`")
    return tags


def version_of(image: str) -> str:
    """The upstream version of the server in an image, "" for one that does not say."""
    done = command.run(["docker", "image", "inspect", "--format", "{{json .Config.Labels}}", image])
    labels: Mapping[str, str] = json.loads(done.text) or {}
    return labels.get(_VERSION, "")


def base_image(release: str, mirror: str | None, report: Report) -> Base:
    """The base image of a Debian release: the one that is here, else pulled, else bootstrapped from the Debian mirror.

    Raises EngineError when none of the three works, with what to do.
    """
    reference = f"debian:{release}-slim"
    name = f"base {release}"
    if command.run(["docker", "image", "inspect", reference], check=False).status == 0:
        report(Progress(name, f"{reference} is here"))
        return Base(reference, "local")
    report(Progress(name, f"pulling {reference}"))
    pulled = _try_pull(reference)
    if pulled is None:
        report(Progress(name, f"{reference} pulled"))
        return Base(reference, "pulled")
    report(Progress(name, f"no registry in reach, bootstrapping {release} from the Debian mirror"))
    _bootstrap(reference, release, mirror, lambda line: report(Progress(name, line)))
    report(Progress(name, f"{reference} bootstrapped"))
    return Base(reference, "bootstrapped")


def _try_pull(reference: str) -> str | None:
    """Why an image could not be pulled, None when it could."""
    try:
        done = command.run(["docker", "pull", "--quiet", reference], check=False, timeout=_PULL_WITHIN)
    except StackctlError as why:
        return why.message
    return None if done.status == 0 else done.last_words


def _bootstrap(reference: str, release: str, mirror: str | None, on_line: Callable[[str], None]) -> None:
    import tempfile

    options = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
    hint = "`stackctl doctor --fix` installs mmdebstrap; or load an image called " + reference + " yourself (`docker load`)"
    with tempfile.TemporaryDirectory(prefix="stackctl-base-") as folder:
        archive = Path(folder) / "base.tar"
        argv = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", *options, release, str(archive), *([mirror] if mirror else [])]
        try:
            command.run(argv, on_line=lambda line: on_line(line) if line.startswith("I:") else None, timeout=_BUILD_WITHIN)
            changes = ["--change", "LABEL org.stackctl.base=bootstrapped", "--change", 'CMD ["bash"]']
            command.run(["docker", "import", *changes, str(archive), reference])
        except EngineError as why:
            raise EngineError(f"the base image {reference} could not be made: {why.message}", hint) from why


def _build(backend: Backend, image: str, base: Base, report: Report, force: bool) -> None:
    """Builds one image, then labels it with the version that it says it holds (every layer is cached by then)."""

    def on_line(line: str) -> None:
        if found := _STEP.match(line):
            report(Progress(backend.name, found[3], int(found[1]), int(found[2])))

    report(Progress(backend.name, f"building on {base.reference} ({base.way})"))
    labels = {LABEL: "1", "org.stackctl.backend": backend.name, "org.stackctl.base": f"{base.reference} {base.way}"}
    argv = ["docker", "build", "--progress=plain", f"--build-arg=BASE={base.reference}", *(["--no-cache"] if force else [])]
    environment = {"DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
    unfinished = f"{image}-unfinished"
    try:
        command.run([*argv, "-t", unfinished, str(backend.folder)], env=environment, on_line=on_line, timeout=_BUILD_WITHIN)
        done = command.run(["docker", "run", "--rm", "--network", "none", "--entrypoint", "cat", unfinished, "/usr/local/lib/stackctl/version"])
        labels[_VERSION] = done.text.strip()
        named = [f"--label={key}={value}" for key, value in labels.items()]
        command.run([*[word for word in argv if word != "--no-cache"], *named, "-t", image, str(backend.folder)], env=environment, timeout=_BUILD_WITHIN)
    finally:
        command.run(["docker", "image", "rm", unfinished], check=False)
    report(Progress(backend.name, f"{image} built, version {labels[_VERSION]}"))
