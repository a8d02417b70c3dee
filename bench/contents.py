"""What a test waits for that wants a stack as it was: reset, and a snapshot of ten thousand messages. It changes nothing of how they work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, interleaved, median
from bench.stacks import Bench

MESSAGES = 10_000
OCTETS = 4096


def contents(bench: Bench, runs: int) -> Iterator[Figure]:
    """Whole processes, on the default stack: a full INBOX in every store."""
    folder = full(bench)
    with bench.removed(bench.name("contents")) as name:
        bench.stackctl("up", "--name", name)
        [few] = interleaved(runs, lambda: bench.timed("reset", "--name", name))
        yield Figure("contents", "reset of a stack with little mail", "ms", median(few), most=1000)
        start = time.perf_counter()
        bench.stackctl("preload", str(folder), "--to", "alice@example.test", "--name", name)
        yield Figure("contents", f"preload of {MESSAGES} messages into every store", "/s", MESSAGES / (time.perf_counter() - start))
        saved = bench.timed("snapshot", "save", "full", "--name", name)
        yield Figure("contents", f"snapshot save of {MESSAGES} messages in every store", "ms", saved)
        resets, restores = interleaved(runs, lambda: bench.timed("reset", "--name", name), lambda: bench.timed("snapshot", "restore", "full", "--name", name))
        yield Figure("contents", f"reset of {MESSAGES} messages in every store", "ms", median(resets), most=1000)
        yield Figure("contents", f"snapshot restore of {MESSAGES} messages in every store", "ms", median(restores), most=2000)


def full(bench: Bench) -> Path:
    """A Maildir with all these messages."""
    folder = bench.folder / "maildir"
    for part in ("cur", "new", "tmp"):
        (folder / part).mkdir(parents=True)
    for number in range(MESSAGES):
        text = f"Subject: number {number}\nMessage-ID: <{number}@bench.example>\n\n".encode()
        (folder / "new" / f"{number:06}.bench").write_bytes(text + b"x" * 70 + b"\n" * (OCTETS - len(text) - 70))
    return folder
