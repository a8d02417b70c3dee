"""Starts the containers of a stack, and proves that mail flows: every port answers, and a message goes through. It makes no configuration.

All that it needs is in the stack's folder, so that it can run before anything else of a stack is loaded.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from stackctl import command, engine, inventory, state
from stackctl.clients.where import Where
from stackctl.errors import StackctlError
from stackctl.steps import Step, Up

PROBE = "stackctl-probe"  # the local part, in the disposable domain, of the mailbox that takes the first message
READY_WITHIN = 60.0  # seconds; a warm start takes about one
LATE = 5.0  # seconds after which a server that does not answer is asked what it thinks of its files


def project(stack: str) -> Path:
    """The Compose project of a stack, as it was last started."""
    return state.folder(stack) / "compose.yaml"


def containers(up: Up, started: Mapping[str, threading.Event]) -> None:
    """Has Compose start what is not running, and notes the containers' ids; `started` tells of each service as soon as it runs. Raises EngineError."""
    known = up.state
    with up.step("containers", f"{len(started)} started by Docker Compose"):
        engine.start(known.name, project(known.name), started, known.ports)
    known.containers = {one.service: one.id for one in inventory.containers(known.name)}
    for service, part in state.parts(known.endpoints).items():
        part["container"] = known.containers[service]


def prove(up: Up, starting: Future[Any], started: Mapping[str, threading.Event], complaint: Callable[[str], str]) -> None:
    """Waits until every open listener greets and its certificate verifies; the first message goes as soon as those that it needs do.

    `starting` is what Compose does, `started` tells of each service that it runs; `complaint` says what is wrong with a service's files,
    "" where nothing is. Raises EngineError, TlsFailed, TimedOut, or what `starting` raised.

    A server is asked as soon as it runs, while Compose still starts the others. Not before: a connection to an address that
    is not there yet makes the kernel wait a second until it asks for it again (ARP).
    """

    def all_started(_: object) -> None:
        for event in started.values():
            event.set()

    starting.add_done_callback(all_started)
    from stackctl.clients.probe import probe

    known, start = up.state, time.monotonic()
    _load_the_rest()
    given_up, first_read, looking = threading.Event(), threading.Event(), threading.Lock()
    complaints: dict[str, str] = {}

    def gone(service: str) -> str | None:
        """Why a server will never answer: it has ended, or it is late and its own checker says why."""
        if given_up.is_set() or (starting.done() and starting.exception()):
            return "given up"
        if not starting.done():
            return None
        words = engine.last_words(known.containers[service])
        if words is None and time.monotonic() - start < LATE:
            return None
        with looking:
            if service not in complaints:
                complaints[service] = complaint(service)
        return "; ".join(filter(None, [words, complaints[service]])) or None

    def one(service: str, listener: str, when: threading.Event) -> None:
        when.wait()
        place, protocol = Where.of(known.endpoints, service, listener), known.protocols[f"{service}.{listener}"]
        probe(place, protocol, start + READY_WITHIN, lambda: gone(service), f"{service} {listener}")

    jobs = [(service, listener) for service, _, listener in (key.rpartition(".") for key in known.protocols)]
    way = "submission" if ("mta", "submission") in jobs else "submissions"
    firsts = {service: way if service == "mta" else "imaps" if (service, "imaps") in jobs else listener for service, listener in jobs}
    with ThreadPoolExecutor(len(jobs)) as pool:
        up.report("servers answer …")
        try:
            # One listener of each server is asked until it answers, the rest once a message was read: many at once would take the time from the servers.
            needed = [pool.submit(one, service, listener, started[service]) for service, listener in firsts.items()]
            rest = [pool.submit(one, service, listener, first_read) for service, listener in jobs if listener != firsts[service]]
            for answered in needed:
                answered.result()
            up.steps.append(Step("servers answer", "banner and verified TLS, asked since Compose began", time.monotonic() - start))
            _first_message(up, way, first_read)
            with up.step("every port answers", "the same, on those that the message did not need"):
                for answered in rest:
                    answered.result()
            starting.result()
        except BaseException:
            given_up.set()
            first_read.set()
            if starting.done() and (why := starting.exception()):
                raise why from None
            raise


def _load_the_rest() -> None:
    """Loads the libraries that are needed once the servers run: 0.1 s, in which this process has nothing else to do."""
    from stackctl.clients import imap, message, pop3, smtp  # noqa: F401


def _first_message(up: Up, way: str, first_read: threading.Event) -> None:
    """Sends one message through a submission port and reads it from every store, by IMAP and by POP3; then deletes it. `first_read` tells of the first.

    Its mailbox is one of the disposable domain, so that nobody's INBOX holds what he did not expect.
    """
    from stackctl.clients.imap import Imap
    from stackctl.clients.message import compose
    from stackctl.clients.pop3 import Pop3
    from stackctl.clients.smtp import Smtp

    known = up.state
    assert known.disposable
    address = f"{PROBE}@{known.endpoints['disposable']['domain']}"
    password = known.disposable.password
    subject = f"probe {os.urandom(8).hex()}"
    message = compose(address, [address], [], subject, "Mail flows.\n", ())
    with up.step("message accepted", f"{way}, TLS verified, AUTH"), Smtp(Where.of(known.endpoints, "mta", way)) as smtp:
        smtp.login(address, password)
        smtp.send(address, [address], message)

    def read(store: str) -> list[Step]:
        seen = Up(known, up.report)
        with seen.step(f"read from {store}", "IMAPS"), Imap(Where.of(known.endpoints, store, "imaps")) as imap:
            imap.login(address, password)
            imap.wait(subject=re.escape(subject), timeout=30, prompt_idle=False)
        first_read.set()
        if not known.endpoints["stores"][store].get("pop3s"):
            return seen.steps
        with seen.step(f"read from {store}", "POP3S"), Pop3(Where.of(known.endpoints, store, "pop3s")) as pop3:
            pop3.login(address, password)
            numbers = range(1, pop3.stat()[0] + 1)
            if not any(subject.encode() in pop3.retr(number) for number in numbers):
                raise StackctlError(f"{store}: the first message is there by IMAP and not by POP3", f"`stackctl logs {store}` shows more")
            for number in numbers:
                pop3.dele(number)
        return seen.steps

    pool = ThreadPoolExecutor(len(known.endpoints["stores"]))
    try:
        for one in [pool.submit(read, store) for store in known.endpoints["stores"]]:
            up.steps += one.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # who still waits for an answer ends with the server that keeps silent
        raise
    pool.shutdown()


def end(under_way: Sequence[Future[Any]]) -> None:
    """Ends what is under way after a failure, programs too."""
    while wait(under_way, timeout=0.05).not_done:  # an interrupt reaches the main thread alone
        command.end_all()


def abandon(stack: str, volumes_before: Sequence[str], why: BaseException | None) -> None:
    """Takes the evidence, then removes what a failed start of a stack made that was down; the hint of `why`, where it was for a server, names the servers' logs."""
    evidence = _abandon(stack, volumes_before)
    if evidence and isinstance(why, StackctlError):
        why.hint = f"what the servers said is in {evidence}; `stackctl check` lets them look at their files"


def _abandon(name: str, volumes_before: Sequence[str]) -> Path | None:
    """The folder of the evidence, if there is any."""
    evidence = None
    with contextlib.suppress(StackctlError):  # a full disk, say: what was made goes all the same
        for one in inventory.containers(name):
            state.write(state.folder(name) / "evidence" / f"{one.service}.log", engine.logs(one.id).encode())
            evidence = state.folder(name) / "evidence"
    with contextlib.suppress(StackctlError):
        engine.remove(name, volumes=not volumes_before)
    with contextlib.suppress(StackctlError):
        known = state.load(name)
        known.containers, known.compose_digest, known.fingerprint = {}, "", ""
        known.pushed = known.pushed if volumes_before else {}
        state.save(known)
    return evidence
