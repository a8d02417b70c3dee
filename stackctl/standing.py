"""Tells in a few milliseconds whether a stack already stands as its file says. It changes nothing and asks the engine once.

It imports next to nothing, for `up` of an unchanged stack is mostly the start of Python.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

from stackctl import __version__, inventory, state
from stackctl.errors import UsageError

DEFAULT_FILE = Path("stack.yaml")
DEFAULT_NAME = "demo"
RENEW_BEFORE = 7 * 86_400  # seconds


def source(path: Path | None) -> tuple[str, bytes]:
    """The absolute path of a stack file and its octets; ("", b"") where there is none, which means the demo stack.

    Raises UsageError for a file that cannot be read.
    """
    path = path or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)
    try:
        return (str(path.resolve()), path.read_bytes()) if path else ("", b"")
    except OSError as why:
        raise UsageError(f"{path}: {why.strerror}", "name a readable file; `stackctl init` writes one") from why


def fingerprint(content: bytes, name: str | None) -> str:
    """A hash over all that a stack is made from, besides the files that it names: its file, this version, images and compose."""
    package = Path(__file__).resolve().parent
    data = package / "_data" if (package / "_data").is_dir() else package.parent
    found = hashlib.sha256(repr((__version__, name)).encode() + content)
    for part in ("images", "compose"):
        for path in sorted((data / part).rglob("*")):
            stat = path.stat()
            found.update(f"{path} {stat.st_mode} {stat.st_size} {stat.st_mtime_ns if path.is_file() else 0}\n".encode())
    return found.hexdigest()


def watch(paths: Iterable[Path]) -> dict[str, list[int]]:
    """What tells whether the files changed that a stack.yaml names."""
    return {str(path.resolve()): [path.stat().st_mtime_ns, path.stat().st_size] for path in paths}


def known_by(path: str) -> str | None:
    """The stack that was last brought up from a file ("" for the built-in demo stack)."""
    if path == "":
        return DEFAULT_NAME
    for name in state.names():
        with contextlib.suppress(UsageError):  # a damaged state, perhaps of another stack: whoever needs it says so
            if state.load(name).source == path:
                return name
    return None


def unchanged(path: Path | None, name: str | None) -> state.State | None:
    """The state of the stack as it was last brought up, if nothing that it is made from changed its certificate is good, and nothing is made to fail; else None."""
    where, content = source(path)
    known = name or known_by(where)
    if known is None:
        return None
    found = state.load(known)
    if found.hindered or found.source != where or found.fingerprint != fingerprint(content, name):
        return None
    start, end = found.certificate
    if not start <= time.time() < end - RENEW_BEFORE:
        return None
    for watched, stamp in found.watched.items():
        stat = Path(watched).stat() if Path(watched).exists() else None
        if stat is None or [stat.st_mtime_ns, stat.st_size] != stamp:
            return None
    return found


def stands(found: state.State) -> bool:
    """Whether every container of the stack runs."""
    if not found.containers:
        return False
    return set(found.containers.values()) <= {one.id for one in inventory.containers(found.name) if one.running}
