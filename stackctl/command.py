"""Runs other programs: argument lists in, status and output out. The only module that starts processes.

Never a shell, never a secret in an argument; what a failed command printed is in the error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import IO

from stackctl.errors import EngineError, TimedOut

_LAST_LINES = 12
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Done:
    """A finished program: what was run, its exit status (negative: the signal) and its two outputs."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the last line end."""
        return self.stdout.decode("utf-8", "replace").rstrip("\n")

    @property
    def last_words(self) -> str:
        """The last lines of both outputs, the errors last."""
        lines = (self.stdout + b"\n" + self.stderr).decode("utf-8", "replace").splitlines()
        return "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout: float = 600,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Done:
    """Runs a program to its end, within `timeout` seconds.

    `env` is added to this process's environment; `on_line` sees each line of either output as it comes.
    Raises EngineError when the program is missing, or (with `check`) when its exit status is not 0, and
    TimedOut when it was ended at the deadline. An interrupt ends the program too, and its children.
    """
    child = _start(argv, subprocess.PIPE if stdin is not None else subprocess.DEVNULL, env)
    try:
        stdout, stderr = _talk(child, stdin, timeout, on_line)
    except subprocess.TimeoutExpired as why:
        _end(child)
        raise TimedOut(f"{_shown(argv)}: not done after {timeout:g} s") from why
    except BaseException:
        _end(child)
        raise
    finally:
        _running.discard(child)
    done = Done(tuple(argv), child.returncode, stdout, stderr)
    if check and done.status != 0:
        raise EngineError(_failure(done))
    return done


def pipe(producer: Sequence[str], consumer: Sequence[str], *, timeout: float = 600, on_line: Callable[[str], None] | None = None) -> Done:
    """Runs two programs, the output of the first being the input of the second; what the second one gave.

    `on_line` sees what the first says on standard error. Raises as `run` does; what both said, when both failed.
    """
    first = _start(producer, subprocess.DEVNULL, None)
    heard: list[bytes] = []
    try:
        assert first.stdout and first.stderr
        second = _start(consumer, first.stdout, None)
        first.stdout.close()  # the second one's alone now, so that the first is told when it ends
        listener = threading.Thread(target=_listen, args=(first.stderr, heard, on_line or (lambda _: None)), daemon=True)
        listener.start()
        try:
            stdout, stderr = second.communicate(timeout=timeout)
            first.wait(timeout)
            listener.join(timeout)
        except subprocess.TimeoutExpired as why:
            raise TimedOut(f"{_shown(producer)} | {_shown(consumer)}: not done after {timeout:g} s") from why
        finally:
            _end(second)
            _running.discard(second)
    finally:
        _end(first)
        _running.discard(first)
    done = Done(tuple(consumer), second.returncode, stdout, stderr)
    if failed := [each for each in (Done(tuple(producer), first.returncode, b"", b"".join(heard)), done) if each.status != 0]:
        raise EngineError("\n".join(map(_failure, failed)))
    return done


def follow(argv: Sequence[str], on_line: Callable[[str], None]) -> Done:
    """Runs a program for as long as it likes; `on_line` sees each line of either output as it comes, and only the last ones are kept.

    Raises EngineError when the program is missing. `end_all` ends it from another thread.
    """
    child = _start(argv, subprocess.DEVNULL, None)
    stdout: deque[bytes] = deque(maxlen=_LAST_LINES)
    stderr: deque[bytes] = deque(maxlen=_LAST_LINES)
    try:
        assert child.stdout and child.stderr
        other = threading.Thread(target=_listen, args=(child.stderr, stderr, on_line), daemon=True)
        other.start()
        _listen(child.stdout, stdout, on_line)
        other.join()
        child.wait()
    finally:
        _end(child)
        _running.discard(child)
    return Done(tuple(argv), child.returncode, b"".join(stdout), b"".join(stderr))


def end_all() -> None:
    """Ends every program that any thread of this process is running: only the main thread sees an interrupt."""
    for child in list(_running):
        _end(child)


def replace(argv: Sequence[str]) -> None:
    """Becomes another program, which keeps the terminal (an interactive shell, say). Raises EngineError when it is missing."""
    try:
        os.execvp(argv[0], list(argv))
    except FileNotFoundError as why:
        raise EngineError(f"{argv[0]}: command not found") from why


def start_detached(argv: Sequence[str], log: str) -> int:
    """Starts a program that outlives this one, its output appended to the file `log`; returns its process id."""
    with open(log, "ab") as out:
        return subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True).pid


def _talk(child: subprocess.Popen[bytes], stdin: bytes | None, timeout: float, on_line: Callable[[str], None] | None) -> tuple[bytes, bytes]:
    if on_line is None:
        return child.communicate(stdin, timeout)
    outputs: dict[str, list[bytes]] = {"stdout": [], "stderr": []}

    readers = [threading.Thread(target=_listen, args=(getattr(child, name), outputs[name], on_line), daemon=True) for name in outputs]
    for reader in readers:
        reader.start()
    if stdin is not None and child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(stdin)
        child.stdin.close()
    child.wait(timeout)
    for reader in readers:
        reader.join(timeout)
    return b"".join(outputs["stdout"]), b"".join(outputs["stderr"])


def _start(argv: Sequence[str], stdin: int | IO[bytes], env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    full = {**os.environ, **env} if env else None
    try:  # a session of its own, so that the whole family can be ended
        child = subprocess.Popen(list(argv), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=full, start_new_session=True)
    except FileNotFoundError as why:
        raise EngineError(f"{argv[0]}: command not found", "`stackctl doctor` says what is missing, `stackctl doctor --fix` installs it") from why
    except PermissionError as why:
        raise EngineError(f"{argv[0]}: {why.strerror}") from why
    _running.add(child)
    return child


def _listen(stream: IO[bytes], heard: MutableSequence[bytes], on_line: Callable[[str], None]) -> None:
    for line in stream:
        heard.append(line)
        on_line(line.decode("utf-8", "replace").rstrip())


def _failure(done: Done) -> str:
    return f"{_shown(done.argv)}: exit status {done.status}\n{done.last_words}".rstrip()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends a program and its children: asks first, then insists. Nothing where it has ended already."""
    if child.poll() is not None:
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
            return


def _shown(argv: Sequence[str]) -> str:
    return " ".join(argv)
