"""`python -m stackctl`, run to its end in a process that is forked from one that has loaded the program. It looks at nothing that comes out."""

from __future__ import annotations

import contextlib
import gc
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import drove

import stackctl

_context = get_context("forkserver")
_OURS = [module.name for module in pkgutil.walk_packages(stackctl.__path__, "stackctl.") if not module.name.startswith(("stackctl.testing", "stackctl.testcontainers"))]
_THEIRS = ["bcrypt", "cryptography.x509", "docker", "jinja2", "pydantic.dataclasses", "requests", "rich.live", "rich.table", "yaml"]
# What some command loads when it needs it. The first is what pytest was started with, or each process would load that.
_context.set_forkserver_preload(["__main__", "drove", *_OURS, *_THEIRS])


def run(arguments: Sequence[str], *, stdin: bytes, env: Mapping[str, str], cwd: Path, timeout: float) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run` would: killed after `timeout` seconds, which raises TimeoutExpired. Both outputs are read until nobody has them open."""
    (its_in, our_in), (our_out, its_out), (our_err, its_err), (our_servers, its_servers) = (_context.Pipe(duplex=False) for _ in range(4))
    process = _context.Process(target=_become, args=(list(arguments), dict(env), cwd, (its_in, its_out, its_err), its_servers))
    process.start()
    for end in (its_in, its_out, its_err, its_servers):
        end.close()
    with ThreadPoolExecutor(3) as pool:
        pool.submit(_write, our_in, stdin)
        outputs = [pool.submit(_read, end) for end in (our_out, our_err)]
        try:
            process.join(timeout)
            if process.exitcode is None:
                raise subprocess.TimeoutExpired(["stackctl", *arguments], timeout)
        finally:
            process.kill()
    with our_servers, contextlib.suppress(EOFError):  # one that was killed has told nothing
        drove.seen.update(our_servers.recv())
    return subprocess.CompletedProcess(["stackctl", *arguments], process.exitcode, *(output.result() for output in outputs))


def _write(end: Connection, content: bytes) -> None:
    with end, contextlib.suppress(BrokenPipeError), open(end.fileno(), "wb", closefd=False) as file:
        file.write(content)


def _read(end: Connection) -> bytes:
    with end, open(end.fileno(), "rb", closefd=False) as file:
        return file.read()


def _become(arguments: list[str], env: dict[str, str], cwd: Path, ends: tuple[Connection, Connection, Connection], servers: Connection) -> None:
    """In the new process: all that a program finds when it starts, and the program."""
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    sys.argv = ["stackctl", *arguments]
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(cwd)
    gc.freeze()  # looking through what was loaded would copy it into this process

    from stackctl.__main__ import main

    drove.watch(every_thread=True)
    leave = os._exit

    def left(code: int) -> None:
        servers.send(drove.seen)
        leave(code)

    os._exit = left  # type: ignore[assignment]
    main()
