"""What moving a large mailbox takes, beside the target's own tool, which writes the same messages from a folder that it has already. It proves nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from bench.contents import MESSAGES, full
from bench.figures import Figure, interleaved, median
from bench.stacks import Bench
from stackctl import command

WHO = "full@inbox.example.test"


def migrate(bench: Bench, runs: int) -> Iterator[Figure]:
    """From Courier into files of a format of its own, so that the tool cannot link them; each time into an empty mailbox. What was moved is proven besides."""
    stores: list[dict[str, Any]] = [{"backend": "courier"}, {"backend": "dovecot", "mailbox": "sdbox"}]
    with bench.up("migrate", stores=stores) as endpoints:
        name, container = endpoints["name"], endpoints["stores"]["dovecot"]["container"]
        bench.stackctl("preload", str(full(bench)), "--to", WHO, "--store", "courier", "--name", name)
        whole: list[float] = []

        def emptied() -> None:
            command.run(["docker", "exec", container, "sh", "-c", "rm -rf /var/vmail/.bench /var/vmail/inbox.example.test"])

        def moved() -> float:
            emptied()
            start = time.perf_counter()
            row = json.loads(bench.stackctl("migrate", "--from", "courier", "--to", "dovecot", "--user", WHO, "--name", name, "--json"))["mailboxes"][0]
            whole.append(time.perf_counter() - start)
            return float(row["seconds"])

        def alone() -> float:
            start = time.perf_counter()
            command.run(["docker", "exec", container, "doveadm", "-o", "mail_fsync=never", "backup", "-u", WHO, "sdbox:/var/vmail/.bench"])
            return time.perf_counter() - start

        moves, tool = interleaved(runs, moved, alone)
        yield Figure("migrate", f"{MESSAGES} messages moved", "/s", MESSAGES / median(moves), MESSAGES / median(tool), "doveadm backup", least=0.5)
        yield Figure("migrate", f"{MESSAGES} messages moved and proven, a whole process", "s", median(whole))
