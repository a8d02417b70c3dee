"""The hold that test processes have on a stack: whoever comes first brings it up, the last one takes it down. It decides nothing about mail.

A stack that was up before is used and left. A process that dies lets go of its hold with it (flock(2)), so nothing is held for ever.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from stackctl import running, state
from stackctl.errors import StackctlError, TimedOut
from stackctl.state import State

_FOLDER = ".tests"  # beside the stacks' own folders, which `down --volumes` removes
_WITHIN = 120.0  # seconds for another process to take the stack down


class Lease:
    """A hold on the stack of a name. `mark` is the MTA's container of the stack that tests brought up, "" where they did not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._file: IO[str] = _opened(name)
        deadline = time.monotonic() + _WITHIN
        while not _locked(self._file, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                self._file.close()
                raise TimedOut(f"the stack {name} is being taken down by another test run for {_WITHIN:g} s", "end that one, or give this one another --stackctl-name")
            time.sleep(0.02)

    @property
    def mark(self) -> str:
        """What was noted last."""
        self._file.seek(0)
        return self._file.read()

    @mark.setter
    def mark(self, container: str) -> None:
        self._file.truncate(0)
        self._file.write(container)
        self._file.flush()

    def release(self) -> None:
        """Lets go; `end` does the rest."""
        self._file.close()


def hold(file: Path | None, name: str | None) -> tuple[State, Lease]:
    """A stack that is up, and this process's hold on it. A name alone means the stack of that name as it was brought up before.

    Raises BadStack, EngineError, TimedOut.
    """
    from stackctl import load, standing

    if file is None and name:
        file = Path(source) if (source := state.load(name).source) else None
    found = standing.unchanged(file, name)
    lease = Lease(found.name if found else name or load.load(file).stack.name)
    try:
        before = state.load(lease.name).containers
        ours = not before or lease.mark == before["mta"]
        known = _up(file, name)
        if ours:
            lease.mark = known.containers["mta"]
    except BaseException:
        lease.release()
        end(lease.name, keep=False)  # nobody may come after this one
        raise
    return known, lease


def _up(file: Path | None, name: str | None) -> State:
    from stackctl import again, stack, standing

    found = standing.unchanged(file, name)
    if found and standing.stands(found):
        return found
    return ((again.up(found) if found else None) or stack.up(file, name)).state


def end(name: str, keep: bool) -> None:
    """Takes a stack down that tests brought up, with its mail, unless another process still holds it; with `keep` it is nobody's afterwards.

    Raises EngineError, TimedOut.
    """
    with _opened(name) as file:
        if not keep and not _locked(file, fcntl.LOCK_EX):
            return
        mark = file.read()
        file.truncate(0)
        if mark and not keep and state.load(name).containers.get("mta") == mark:
            running.down(name, volumes=True)


def write(name: str, content: str) -> Path:
    """Keeps the stack file of a stack that only tests use, where every run finds the same one. Raises StackctlError."""
    path = state.root() / _FOLDER / f"{name}.yaml"
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        state.write(path, content.encode())
    return path


def _opened(name: str) -> IO[str]:
    folder = state.root() / _FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.fdopen(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+", encoding="utf-8")
    except OSError as why:
        raise StackctlError(f"{folder}: {why.strerror}", "is the folder yours? $STACKCTL_STATE names another one") from why
    file.seek(0)
    return file


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
