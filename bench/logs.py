"""How fast a log is read: one message among ten thousand lines, and its problems. It fills the log of a stack with real messages."""

from __future__ import annotations

import json
import smtplib
import time
from collections.abc import Iterator
from typing import Any

from bench.figures import Figure, interleaved, median
from bench.stacks import Bench, since
from stackctl import command

LINES = 10_000
AT_ONCE = 100  # messages on one connection
WITHIN = 300.0  # seconds


def logs(bench: Bench, runs: int) -> Iterator[Figure]:
    """Whole processes, from start to end, over the log of the default stack once it has `LINES` lines."""
    with bench.up("logs") as found:
        name, lines = found["name"], _fill(bench, found)
        container = found["mta"]["container"]

        def engine_alone() -> float:
            start = time.perf_counter()
            command.run(["docker", "logs", "--timestamps", container])
            return since(start)

        trace, problems, counts, alone = interleaved(
            runs,
            lambda: bench.timed("trace", "bench-0@bench.example", "--name", name),
            lambda: bench.timed("logs", "--problems", "--name", name),
            lambda: bench.timed("stats", "--json", "--name", name),
            engine_alone,
        )
    yield Figure("logs", f"trace of one message among {lines:,} lines", "ms", median(trace), most=300)
    yield Figure("logs", "logs --problems over them", "ms", median(problems))
    yield Figure("logs", "stats --json over them", "ms", median(counts))
    yield Figure("logs", "docker logs of the MTA alone", "ms", median(alone))


def _fill(bench: Bench, found: dict[str, Any]) -> int:
    deadline, sent = time.monotonic() + WITHIN, 0
    while (lines := len(json.loads(bench.stackctl("logs", "--json", "--name", found["name"])))) < LINES:
        if time.monotonic() > deadline:
            raise OSError(f"only {lines} lines after {WITHIN:g} s")
        with smtplib.SMTP(*found["mta"]["smtp"]) as smtp:
            for number in range(sent, sent + AT_ONCE):
                message = f"Subject: bench\r\nMessage-ID: <bench-{number}@bench.example>\r\n\r\nx\r\n"
                smtp.sendmail("bench@bench.example", [f"bench-{number % 7}@{found['disposable']['domain']}"], message)
        sent += AT_ONCE
    return lines
