"""Mail to accounts of a directory, beside the same stack with its accounts in files. It makes no account itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.figures import Figure, interleaved, median
from bench.mail import CONNECTIONS, MESSAGES, Reader, Side
from bench.stacks import Bench
from stackctl import backends
from stackctl.model import Stack


@contextlib.contextmanager
def _side(bench: Bench, kind: str) -> Iterator[Side]:
    first = Stack().stores[0]
    with bench.up(f"accounts-{kind}", (first.backend, first.version), accounts={"backend": kind}) as found:
        host, port = found["mta"]["smtp"]
        [store] = found["stores"]
        side = Side((host, port), found["mta"]["container"], found["stores"][store]["container"], Reader.of(found, store))
        try:
            yield side
        finally:
            side.reader.close()


def accounts(bench: Bench, runs: int) -> Iterator[Figure]:
    """A thousand messages over ten connections into one mailbox, which every server looks up in the directory."""
    with _side(bench, "file") as files:
        for kind in backends.account_kinds()[1:]:
            with _side(bench, kind) as directory:
                interleaved(1, directory.many, files.many)  # warms both
                ours, theirs = interleaved(runs, directory.many, files.many)
            yield Figure("accounts", f"{kind}: {MESSAGES} messages, {CONNECTIONS} at once", "/s", median(ours), median(theirs), "file", least=0.9)
