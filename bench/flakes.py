"""Whether tests that share one stack ever fail for no fault of theirs: 200 of them over four processes, again and again. It measures no server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, median
from bench.stacks import Bench, since
from stackctl import inventory

TESTS, WORKERS, PATIENCE = 200, 4, 600  # seconds
KINDS = 8
# A test of each kind after the other, as projects have them. Each may take what it waits for as sure: it is alone with its mailboxes.
PROJECT = f"""
import asyncio, re, smtplib, uuid
import pytest
from stackctl.testing.aio import AsyncMailbox

each = pytest.mark.parametrize("number", range({TESTS // KINDS}))

@each
def test_a_link(number, mailbox):
    mailbox.send_from(subject="Welcome", body=f"Go to https://shop.example/confirm/{{number}}\\n")
    assert mailbox.wait_for(subject="^Welcome$").links() == [f"https://shop.example/confirm/{{number}}"]

@each
def test_a_code(number, mailbox):
    mailbox.send_from(subject="Your code", body=f"It is {{100000 + number}}.\\n")
    assert mailbox.wait_for(body="It is").codes() == [str(100000 + number)]

@each
def test_nobody_else_has_it(number, mailbox, mailbox_factory):
    other = mailbox_factory("other")
    mailbox.send_from(subject="for one")
    mailbox.wait_for(subject="for one")
    other.assert_none(within=0.1)

@each
def test_an_answer(number, mailbox, mailbox_factory):
    other = mailbox_factory("other")
    mailbox.send_to(other.address, subject="a question")
    other.send_to(other.wait_for(subject="a question").email["From"], subject="an answer")
    assert mailbox.wait_for(subject="an answer").sender == other.address

@each
def test_some_and_then_none(number, mailbox):
    for one in range(3):
        mailbox.send_from(subject=f"number {{one}}")
    assert {{one.subject for one in mailbox.wait_for_count(3)}} == {{"number 0", "number 1", "number 2"}}
    mailbox.delete_all()
    assert mailbox.messages() == []

@each
def test_what_comes_back(number, mailbox, smtp_faults):
    sent = mailbox.send_to(smtp_faults.address("552.delivery"), subject="in vain")
    assert mailbox.wait_for_bounce(of=sent).status == "5.2.2"

@each
def test_the_second_try(number, mailbox, smtp_faults):
    if number % 5:  # by its name, or set on the running stack
        address = smtp_faults.address("grey")
    else:
        address = mailbox.address
        smtp_faults.set(address, reply=451, times=1)
    with smtplib.SMTP(*mailbox.stack.endpoints["mta"]["smtp"], timeout=30) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("shop@elsewhere.example", [address], b"Subject: again\\r\\n\\r\\n")
        client.sendmail("shop@elsewhere.example", [address], b"Subject: again\\r\\n\\r\\n")
    if address == mailbox.address:
        mailbox.wait_for(subject="again")

@each
def test_two_at_once(number, mailbox, mailbox_factory):
    async def both():
        boxes = [AsyncMailbox(mailbox), AsyncMailbox(mailbox_factory("second"))]
        await asyncio.gather(*(box.send_from(subject="at once") for box in boxes))
        return await asyncio.gather(*(box.wait_for(subject="at once") for box in boxes))

    assert len(asyncio.run(both())) == 2
"""


def flakes(bench: Bench, runs: int) -> Iterator[Figure]:
    """Runs the tests four times as often as others are measured. What a run that failed has said is in the error output."""
    name, many, times, failed = bench.name("flakes"), runs * 4, [], 0
    folder = bench.folder / "flakes"
    folder.mkdir()
    (folder / "test_it.py").write_text(PROJECT)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(WORKERS), "-p", "no:cacheprovider", f"--stackctl-name={name}", f"--stackctl-file={_stack(folder, name)}"]
    with bench.removed(name):
        for _ in range(many):
            start = time.perf_counter()
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **bench.environment()}, check=False)
            times.append(since(start))
            left = inventory.containers(name)
            passed = re.search(r"(\d+) passed", done.stdout)
            if done.returncode or not passed or int(passed[1]) != TESTS or left:
                failed += 1
                print(f"--- run {len(times)} of {many}, {len(left)} containers left\n{done.stdout[-20_000:]}{done.stderr[-2_000:]}", file=sys.stderr, flush=True)
    yield Figure("flakes", f"runs of {TESTS} tests over {WORKERS} processes and one stack that failed, of {many}", "", failed, most=0)
    yield Figure("flakes", "… and how long one takes, with the stack's start and end, median", "ms", median(times))


def _stack(folder: Path, name: str) -> Path:
    """The default stack under a name of its own."""
    file = folder / "stack.yaml"
    file.write_text(f"name: {name}\n")
    return file
