"""How fast mail goes through a stack, beside the same servers in bare containers with the least configuration that works. It reads no message."""

from __future__ import annotations

import contextlib
import dataclasses
import imaplib
import smtplib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bench import bare
from bench.figures import Figure, interleaved, median, p95
from bench.stacks import Bench, since
from stackctl import backends
from stackctl.errors import CheckFailed, TimedOut

WHO = "alice@example.test"
MESSAGES, CONNECTIONS, OCTETS = 1000, 10, 4096
SINGLE = 60  # messages for each median of one message
LOGINS, FETCHES = 200, 5  # sessions of each measurement of logins; how often the mailbox is read for one of fetches
WITHIN = 120.0  # seconds for what takes a few


class Reader:
    """An open INBOX over IMAPS, asked by NOOP."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, user: str, password: str) -> None:
        context.check_hostname = False  # the name is another than the address; the chain is verified
        self._as_this: Callable[[], Reader] = lambda: Reader(host, port, context, user, password)
        self._library = imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=WITHIN)
        self._library.login(user, password)
        self.select()

    def again(self, _: int = 0) -> None:
        """A whole session as this one began: TLS, login, mailbox, logout."""
        self._as_this().close()

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

    def fetch(self) -> int:
        """Reads every message whole; their octets."""
        return sum(len(part[1]) for part in self._library.fetch("1:*", "(BODY.PEEK[])")[1] if isinstance(part, tuple))

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
    """One of the two that are compared: where mail goes in, MTA and store, and an open mailbox."""

    smtp: tuple[str, int]
    mta: bare.Server
    store: bare.Server
    reader: Reader
    way_in: str = "127.0.0.1:25"  # as it is seen beside the MTA
    sender: bare.Server | None = None  # what has smtp-source and is beside the MTA, where the MTA's own image lacks it
    worked: list[float] = field(default_factory=list)  # processor seconds of each piece of work

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
        argv = ["smtp-source", "-d", "-s", str(CONNECTIONS), "-l", str(OCTETS), "-m", str(MESSAGES), "-f", "bench@elsewhere.test", "-t", WHO, self.way_in]

        def sent() -> None:
            status, output = (self.sender or self.mta).run(argv)
            if status != 0:
                raise CheckFailed(f"the burst failed: {output.strip()}")
            self.reader.until(MESSAGES, 0.02)

        rate = self._rate(MESSAGES, sent)
        if deferred := [line for line in self.mta.logs().splitlines() if "status=deferred" in line]:
            raise CheckFailed(f"{len(deferred)} deferred: {deferred[-1]}")
        return rate

    def logins(self) -> float:
        """Sessions in a second, ten at once."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return self._rate(LOGINS, lambda: list(pool.map(self.reader.again, range(LOGINS))))

    def fetches(self) -> float:
        """Messages in a second, all of the mailbox by one FETCH, five times. Raises CheckFailed where octets are missing."""
        octets: list[int] = []
        rate = self._rate(FETCHES * MESSAGES, lambda: octets.extend(self.reader.fetch() for _ in range(FETCHES)))
        if min(octets) < MESSAGES * OCTETS:
            raise CheckFailed(f"{min(octets)} octets of {MESSAGES} messages with {OCTETS} each")
        return rate

    def _rate(self, units: int, work: Callable[[], object]) -> float:
        """How many units of work are done in a second; the processor time for it is noted."""
        before, start = self.processor(), time.perf_counter()
        work()
        took = time.perf_counter() - start
        self.worked.append(self.processor() - before)
        return units / took

    def processor(self) -> float:
        """The processor time that both servers have used so far, in seconds."""
        return self.mta.processor() + self.store.processor()


def _message() -> bytes:
    return b"From: bench@elsewhere.test\r\nTo: " + WHO.encode() + b"\r\nSubject: bench\r\n\r\n" + (b"x" * 62 + b"\r\n") * (OCTETS // 64)


@contextlib.contextmanager
def _sides(bench: Bench, store: backends.Backend, outside: bool = False) -> Iterator[tuple[Side, Side]]:
    """A stack with one store, and its bare twin, in containers or outside."""
    what = store.name.replace(".", "-")
    with bench.up(f"one-{what}", (store.family, store.version)) as found, (bare.outside if outside else bare.pair)(bench, store) as twin:
        host, port = found["mta"]["smtp"]
        [name] = found["stores"]
        stack = Side((host, port), bare.Container(found["mta"]["container"]), bare.Container(found["stores"][name]["container"]), Reader.of(found, name))
        other = Side(twin.smtp, twin.mta, twin.store, Reader(*twin.imaps, twin.context(), WHO, bare.PASSWORD))
        if outside:
            other.way_in = f"{twin.smtp[0]}:{twin.smtp[1]}"
        try:
            yield stack, other
        finally:
            stack.reader.close()
            other.reader.close()


def single(bench: Bench, runs: int, store: backends.Backend) -> Iterator[Figure]:
    """One message at a time."""
    with _sides(bench, store) as (stack, twin):
        yield from one_at_a_time(stack, twin, store.name, "bare", most=1.2)


def one_at_a_time(stack: Side, twin: Side, what: str, against: str, most: float | None = None) -> Iterator[Figure]:
    """How long one message takes, of sixty."""
    with smtplib.SMTP(*stack.smtp, timeout=WITHIN) as mine, smtplib.SMTP(*twin.smtp, timeout=WITHIN) as its:
        for session in (mine, its):
            session.ehlo()
        interleaved(3, lambda: stack.one(mine), lambda: twin.one(its))  # warms both
        ours, theirs = interleaved(SINGLE, lambda: stack.one(mine), lambda: twin.one(its))
    yield Figure("single", f"{what}: accepted to visible, median", "ms", median(ours), median(theirs), against, most=most)
    yield Figure("single", f"{what}: accepted to visible, p95", "ms", p95(ours), p95(theirs), against)


def rates(stack: Side, twin: Side, runs: int, what: str, work: Callable[[Side], float]) -> Iterator[Figure]:
    """The rate of some work, and the processor time of both servers for it."""
    interleaved(1, lambda: work(stack), lambda: work(twin))  # warms both
    for side in (stack, twin):
        side.worked.clear()
    ours, theirs = interleaved(runs, lambda: work(stack), lambda: work(twin))
    yield Figure("work", what, "/s", median(ours), median(theirs), "bare", least=0.9)
    yield Figure("work", "… processor time of both servers", "s", median(stack.worked), median(twin.worked), "bare")


def burst(bench: Bench, runs: int, store: backends.Backend) -> Iterator[Figure]:
    """A thousand messages over ten connections into one mailbox."""
    with _sides(bench, store) as (stack, twin):
        yield from rates(stack, twin, runs, f"{store.name}: {MESSAGES} messages, {CONNECTIONS} at once", Side.many)


def outside(bench: Bench, runs: int, store: backends.Backend) -> Iterator[Figure]:
    """The same messages, one at a time and many at once, beside the servers outside containers: what containers cost, and the rest of a stack."""
    with _sides(bench, store, outside=True) as (stack, twin):
        yield from one_at_a_time(stack, twin, store.name, "outside")
        for figure in rates(stack, twin, runs, f"{store.name}: {MESSAGES} messages, {CONNECTIONS} at once", Side.many):
            yield dataclasses.replace(figure, against="outside", least=None)


def sessions(bench: Bench, runs: int, store: backends.Backend) -> Iterator[Figure]:
    """Logins, and a thousand messages fetched, over IMAPS."""
    with _sides(bench, store) as (stack, twin):
        yield from rates(stack, twin, runs, f"{store.name}: logins over IMAPS, {CONNECTIONS} at once", Side.logins)
        for side in (stack, twin):
            side.many()
        yield from rates(stack, twin, runs, f"{store.name}: {MESSAGES} messages fetched over IMAPS", Side.fetches)
