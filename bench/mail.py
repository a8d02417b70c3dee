"""How fast mail goes through a stack, beside the same servers in bare containers with the least configuration that works. It reads no message."""

from __future__ import annotations

import contextlib
import imaplib
import smtplib
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import bare
from bench.figures import Figure, interleaved, median, p95
from bench.stacks import Bench, since
from stackctl import backends, engine
from stackctl.errors import CheckFailed, TimedOut

WHO = "alice@example.test"
MESSAGES, CONNECTIONS, OCTETS = 1000, 10, 4096
SINGLE = 60  # messages for each median of one message
WITHIN = 120.0  # seconds for what takes a few


class Reader:
    """An open INBOX over IMAPS, asked by NOOP."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, user: str, password: str) -> None:
        context.check_hostname = False  # the name is another than the address; the chain is verified
        self._library = imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=WITHIN)
        self._library.login(user, password)
        self.select()

    @classmethod
    def of(cls, found: Mapping[str, Any], store: str, user: str = WHO, password: str | None = None) -> Reader:
        """A reader of a store of a stack."""
        host, port = found["stores"][store]["imaps"]
        known = {account["address"]: account["password"] for account in found["accounts"]}
        return cls(host, port, ssl.create_default_context(cafile=found["ca"]), user, password or known[user])

    def noop(self) -> int:
        """How many messages there are: as many as before, unless the server says that it changed."""
        self._library.noop()
        if said := [line for line in self._library.response("EXISTS")[1] if line]:
            self.here = int(said[-1])
        return self.here

    def until(self, count: int, pause: float) -> None:
        """Returns when there are so many messages. Raises TimedOut."""
        deadline = time.monotonic() + WITHIN
        while self.noop() < count:
            if time.monotonic() > deadline:
                raise TimedOut(f"{self.here} of {count} messages after {WITHIN:g} s")
            time.sleep(pause)

    def select(self) -> None:
        """Opens the mailbox anew."""
        self.here = int(self._library.select("INBOX")[1][0] or b"0")

    def empty(self) -> None:
        """Removes every message."""
        self.select()
        if self.here:
            self._library.store("1:*", "+FLAGS.SILENT", r"(\Deleted)")
            self._library.expunge()
            self.select()

    def close(self) -> None:
        with contextlib.suppress(imaplib.IMAP4.error, OSError):
            self._library.logout()


@dataclass
class Side:
    """One of the two that are compared: where mail goes in, the containers of MTA and store, and an open mailbox."""

    smtp: tuple[str, int]
    mta: str
    store: str
    reader: Reader
    worked: list[float] = field(default_factory=list)  # processor seconds of each burst

    def one(self, session: smtplib.SMTP) -> float:
        """One message on a connection that stands; from the 250 until a NOOP tells of it, in milliseconds."""
        here = self.reader.noop()
        session.sendmail("bench@elsewhere.test", [WHO], _message())
        start = time.perf_counter()
        self.reader.until(here + 1, 0.001)
        return since(start)

    def many(self) -> float:
        """A burst; messages in a second from the first command until the mailbox holds them all. Raises CheckFailed for a deferred one."""
        self.reader.empty()
        argv = ["smtp-source", "-d", "-s", str(CONNECTIONS), "-l", str(OCTETS), "-m", str(MESSAGES), "-f", "bench@elsewhere.test", "-t", WHO, "127.0.0.1:25"]
        before = self.processor()
        start = time.perf_counter()
        status, output = engine.execute(self.mta, argv)
        if status != 0:
            raise CheckFailed(f"the burst failed: {output.strip()}")
        self.reader.until(MESSAGES, 0.02)
        took = time.perf_counter() - start
        self.worked.append(self.processor() - before)
        if deferred := [line for line in engine.logs(self.mta).splitlines() if "status=deferred" in line]:
            raise CheckFailed(f"{len(deferred)} deferred: {deferred[-1]}")
        return MESSAGES / took


    def processor(self) -> float:
        """The processor time that both containers have used so far, in seconds."""
        used: float = sum(engine.client().api.stats(one, stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]["total_usage"] for one in (self.mta, self.store))
        return used / 1e9


def _message() -> bytes:
    return b"From: bench@elsewhere.test\r\nTo: " + WHO.encode() + b"\r\nSubject: bench\r\n\r\n" + (b"x" * 62 + b"\r\n") * (OCTETS // 64)


@contextlib.contextmanager
def _sides(bench: Bench, store: backends.Backend) -> Iterator[tuple[Side, Side]]:
    """A stack with one store, and its bare twin."""
    what = store.name.replace(".", "-")
    with bench.up(f"one-{what}", (store.family, store.version)) as found, bare.pair(bench, store) as twin:
        host, port = found["mta"]["smtp"]
        [name] = found["stores"]
        stack = Side((host, port), found["mta"]["container"], found["stores"][name]["container"], Reader.of(found, name))
        other = Side(twin.smtp, twin.mta, twin.store, Reader(*twin.imaps, twin.context(), WHO, bare.PASSWORD))
        try:
            yield stack, other
        finally:
            stack.reader.close()
            other.reader.close()


def single(bench: Bench, runs: int, store: backends.Backend) -> Iterator[Figure]:
    """One message at a time."""
    with _sides(bench, store) as (stack, twin):
        with smtplib.SMTP(*stack.smtp, timeout=WITHIN) as mine, smtplib.SMTP(*twin.smtp, timeout=WITHIN) as its:
            for session in (mine, its):
                session.ehlo()
            interleaved(3, lambda: stack.one(mine), lambda: twin.one(its))  # warms both
            ours, theirs = interleaved(SINGLE, lambda: stack.one(mine), lambda: twin.one(its))
        yield Figure("single", f"{store.name}: accepted to visible, median", "ms", median(ours), median(theirs), "bare", most=1.2)
        yield Figure("single", f"{store.name}: accepted to visible, p95", "ms", p95(ours), p95(theirs), "bare")


def burst(bench: Bench, runs: int, store: backends.Backend) -> Iterator[Figure]:
    """A thousand messages over ten connections into one mailbox."""
    with _sides(bench, store) as (stack, twin):
        interleaved(1, stack.many, twin.many)  # warms both
        ours, theirs = interleaved(runs, stack.many, twin.many)
        yield Figure("burst", f"{store.name}: {MESSAGES} messages, {CONNECTIONS} at once", "/s", median(ours), median(theirs), "bare", least=0.9)
        yield Figure("burst", f"{store.name}: processor time of both servers for it", "s", median(stack.worked), median(twin.worked), "bare")
