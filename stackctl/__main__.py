"""The program `stackctl`. Never does anything itself: it finds the command, and turns errors into words and exit codes."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys


def main() -> None:
    """Runs the command line and exits: 0 ok, 1 a check failed, 2 usage, 3 engine, 4 timed out, 130 interrupted."""
    if sys.argv[1:] == ["--version"]:
        from stackctl import __version__

        print(f"stackctl {__version__}")
        return
    gc.set_threshold(100_000)  # a command makes many objects and hardly a cycle: looking for these took 30 ms of each start
    for sign in (signal.SIGTERM, signal.SIGHUP):  # a CI runner that gives up, a terminal that closes: as Ctrl-C
        if signal.getsignal(sign) is signal.SIG_DFL:  # nohup has SIGHUP ignored, and so it stays
            signal.signal(sign, signal.default_int_handler)
    try:
        from stackctl.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before `run` could take it
        print("\nstackctl: interrupted", file=sys.stderr)
        code = 130
    with contextlib.suppress(OSError, ValueError):  # a closed pipe
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # every thread and file is done with: taking the interpreter apart would be 70 ms for nothing


if __name__ == "__main__":
    main()
