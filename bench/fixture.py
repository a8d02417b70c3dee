"""What a test waits for: a mailbox of its own, and a message in it. It measures no server alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from unittest.mock import patch

from bench.figures import Figure, median, p95
from bench.stacks import Bench, since
from stackctl import command, running
from stackctl.backends import all_backends
from stackctl.clients.message import compose
from stackctl.clients.smtp import Smtp
from stackctl.testing.mailbox import STRANGER
from stackctl.testing.mailstack import MailStack

IMPORT = "import time, pytest; start = time.perf_counter(); import stackctl.testing.plugin; print((time.perf_counter() - start) * 1000)"
TESTS, SINGLE = 200, 60
PROJECT = f"""
import pytest

@pytest.mark.parametrize("number", range({TESTS}))
def test_it(number, mailbox):
    pass
"""
NOTES = """
def pytest_runtest_logreport(report):
    with open(report.when, "a") as out:
        print(report.duration * 1000, file=out)
"""


def fixture(bench: Bench, runs: int) -> Iterator[Figure]:
    """A fresh mailbox, and the time from the 250 for a message to the return of the wait for it."""
    imports = [float(command.run([sys.executable, "-c", IMPORT], env=bench.environment()).text) for _ in range(runs)]
    yield Figure("fixture", "what the plugin adds to a pytest that does not use it, median", "ms", median(imports), most=30)
    stores = [(one.family, one.version) for one in all_backends().values() if one.role == "store"]
    with bench.up("fixture", *stores) as found, patch.dict(os.environ, bench.environment()):
        yield from _mailboxes(bench, found["name"])
        known = running.named(found["name"])
        for store in found["stores"]:
            times = _waits(MailStack(known, store, 30))
            yield Figure("fixture", f"{store}: accepted until wait_for returns, median", "ms", median(times), most=25)
            yield Figure("fixture", f"{store}: accepted until wait_for returns, p95", "ms", p95(times))


def _mailboxes(bench: Bench, name: str) -> Iterator[Figure]:
    """The set-up and the end of the fixture in tests that do nothing else, as pytest times them."""
    folder = bench.folder / "project"
    folder.mkdir()
    (folder / "test_it.py").write_text(PROJECT)
    (folder / "conftest.py").write_text(NOTES)
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--stackctl-name={name}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    setups, ends = ([float(line) for line in (folder / when).read_text().split()] for when in ("setup", "teardown"))
    yield Figure("fixture", "a fresh mailbox: its set-up, median", "ms", median(setups), most=1)
    yield Figure("fixture", "… its end, where the stack stays: emptied in every store", "ms", median(ends))


def _waits(stack: MailStack) -> list[float]:
    times = []
    box = stack.fresh()
    with Smtp(stack.where("smtp")) as smtp:
        for number in range(SINGLE):
            smtp.send(STRANGER, [box.address], compose(STRANGER, [box.address], [], f"number {number}.", "x" * 70 + "\n", ()))
            start = time.perf_counter()
            box.wait_for(subject=rf"number {number}\.")
            times.append(since(start))
            box.delete_all()
    box.close()
    return times
