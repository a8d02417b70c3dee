"""What a scenario is: a sentence that a running stack must make true, and what it is given to work with. It runs none.

A scenario is written for a case (a store, a way in, a way out) and says what it needs; it never asks which server it speaks to.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from stackctl import corpus
from stackctl.backends import Backend, all_backends
from stackctl.clients.imap import Imap
from stackctl.clients.pop3 import Pop3
from stackctl.clients.smtp import Smtp
from stackctl.clients.transcript import Context as TlsContext
from stackctl.clients.transcript import Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError, TimedOut

WAYS_IN = ("smtp", "submission", "submissions")  # port 25 with STARTTLS; 587 with STARTTLS and AUTH; 465 with TLS and AUTH
WAYS_OUT = ("imaps", "pop3s", "imap", "pop3")  # the last two with STARTTLS and STLS
AXES = ("store", "way_in", "way_out")
WITHIN = 30.0  # seconds for a message to arrive, and for an answer; either takes a few hundredths
_PAUSE = 0.05  # seconds between two looks into a POP3 mailbox, which is a new session each time
FOREIGN_SENDER = "writer@elsewhere.example"  # RFC 2606: .example is nobody's

T = TypeVar("T")


class Failed(StackctlError):
    """The stack did not do what the sentence says."""


class Skipped(StackctlError):
    """The case does not apply to this stack; the message says why."""


class NotOffered(StackctlError):
    """The server itself says that it does not have what the scenario is about; the message names it."""


def expect(truth: object, otherwise: str) -> None:
    """Raises Failed unless `truth`; `assert` would be gone under python -O."""
    if not truth:
        raise Failed(otherwise)


def offered(session: Imap | Pop3, *names: str) -> None:
    """Raises NotOffered unless the server announces all of these extensions at this point of the session."""
    if missing := set(names) - session.capabilities:
        where = "CAPABILITY" if isinstance(session, Imap) else "CAPA"
        raise NotOffered(f"not offered: {', '.join(sorted(missing))} (from its {where})")


@dataclass(frozen=True)
class Case:
    """Where a scenario is tried; None where it does not matter."""

    store: str | None = None
    way_in: str | None = None
    way_out: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.way_in, self.store, self.way_out) if part) or "stack"


@dataclass(frozen=True)
class Scenario:
    """A sentence, the function that tries it, and where. `needs` is asked of the store, `of_mta` of the MTA."""

    name: str
    function: Callable[[Context], None]
    features: tuple[str, ...]
    over: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    of_mta: frozenset[str] = frozenset()
    ways_in: tuple[str, ...] = WAYS_IN
    ways_out: tuple[str, ...] = WAYS_OUT
    alone: bool = False

    @property
    def sentence(self) -> str:
        """The name as people read it."""
        return self.name.replace("_", " ")

    def cases(self, stores: Iterable[str]) -> list[Case]:
        """Every combination of what the scenario is tried over."""
        return [
            Case(store, way_in, way_out)
            for way_in in (self.ways_in if "way_in" in self.over else (None,))
            for store in (tuple(stores) if "store" in self.over else (None,))
            for way_out in (self.ways_out if "way_out" in self.over else (None,))
        ]


registry: dict[str, Scenario] = {}


def scenario(
    *,
    feature: str | tuple[str, ...],
    over: tuple[str, ...] = (),
    needs: Iterable[str] = (),
    of_mta: Iterable[str] = (),
    ways_in: tuple[str, ...] = WAYS_IN,
    ways_out: tuple[str, ...] = WAYS_OUT,
    alone: bool = False,
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Registers a function as a scenario. `alone`: nothing else may run meanwhile, for it disturbs the servers."""

    def register(function: Callable[[Context], None]) -> Callable[[Context], None]:
        features = (feature,) if isinstance(feature, str) else feature
        name = function.__name__
        registry[name] = Scenario(name, function, features, over, frozenset(needs), frozenset(of_mta), ways_in, ways_out, alone)
        return function

    return register


class Recorder:
    """The transcripts of a case's connections, in the order in which they were opened."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, Transcript]] = []
        self.services: set[str] = set()  # those that were spoken to

    def open(self, label: str) -> Transcript:
        """A transcript for a new connection."""
        transcript = Transcript()
        self._parts.append((label, transcript))
        return transcript

    def include(self, other: Recorder) -> None:
        """Adds what another recorder holds: connections that several cases share."""
        self._parts += other._parts
        self.services |= other.services

    def __str__(self) -> str:
        return "\n".join(f"== {label}\n{transcript}" for label, transcript in self._parts)


class Shared:
    """What several cases of a run need and one of them makes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Future[Any]] = {}

    def once(self, key: str, make: Callable[[], T]) -> T:
        """The value of `make`, called by whoever comes first; the others wait. Its error is everybody's."""
        with self._lock:
            mine = key not in self._made
            future: Future[T] = self._made.setdefault(key, Future())
        if mine:
            try:
                future.set_result(make())
            except BaseException as why:
                future.set_exception(why)
                raise
        return future.result()


@dataclass(frozen=True)
class Context:
    """What a scenario works with: the stack's endpoints with their passwords, its case, and a tag that is in every address it uses."""

    endpoints: Mapping[str, Any]
    case: Case
    tag: str
    run_tag: str = "run"
    recorder: Recorder = field(default_factory=Recorder)
    shared: Shared = field(default_factory=Shared)

    @property
    def domain(self) -> str:
        """The strict main domain."""
        return str(self.endpoints["domain"])

    @property
    def disposable(self) -> str:
        """The domain in which every address exists."""
        return str(self.endpoints["disposable"]["domain"])

    @property
    def catch_all(self) -> str:
        """Whose mailbox takes mail for foreign domains."""
        return str(self.endpoints["catch_all"]["address"])

    @property
    def users(self) -> list[str]:
        """The users of the strict domains."""
        return [account["address"] for account in self.endpoints["accounts"]]

    @property
    def user(self) -> str:
        """One of them."""
        if not self.users:
            raise Skipped("the stack has no user; `users:` in stack.yaml")
        return self.users[0]

    @property
    def stores(self) -> list[str]:
        """The stores of the case: its own, or all of them."""
        return [self.case.store] if self.case.store else list(self.endpoints["stores"])

    @property
    def store(self) -> str:
        """The case's store."""
        return self.case.store or next(iter(self.endpoints["stores"]))

    @cached_property
    def known_passwords(self) -> dict[str, str]:
        """Passwords of the strict domains' mailboxes."""
        return {account["address"]: account["password"] for account in [*self.endpoints["accounts"], self.endpoints["catch_all"]]}

    @property
    def mta_provides(self) -> frozenset[str]:
        """What the MTA provides, as its backend says."""
        return frozenset(self._mta.provides)

    def has_status(self, text: str, status: str) -> bool:
        """Whether a reply's text begins with this enhanced status code (RFC 3463), or what its backend says of it; any will do for an MTA that gives none.

        A status that ends with a dot stands for all that begin so, "" for any.
        """
        said = text.split(" ")[0]
        own = [one for key, many in self._mta.statuses.items() for one in many if key == status or (status.endswith(".") and key.startswith(status))]
        return said == status or said in own or (said.startswith(status) and status[-1:] in ("", ".")) or "enhancedstatuscodes" not in self.mta_provides

    @property
    def _mta(self) -> Backend:
        return all_backends()[self.endpoints["mta"]["backend"]]

    def fresh(self, label: str = "box") -> str:
        """An address that nobody used before and no other case uses."""
        return f"{label}-{self.tag}@{self.disposable}"

    def password(self, address: str) -> str:
        """The password of a mailbox. Raises Skipped for one that the stack does not have."""
        if address.endswith(f"@{self.disposable}"):
            return str(self.endpoints["disposable"]["password"])
        if address not in self.known_passwords:
            raise Skipped(f"the password of {address} is not known")
        return self.known_passwords[address]

    def message(self, sender: str, recipient: str, name: str = "message", extra: str = "", body: bytes = b"Hello.\r\n") -> bytes:
        """A short message whose Subject is the name and the case's tag."""
        return corpus.message(name, sender, recipient, self.tag, body=body, extra=extra)

    # --- Connections; everything that is said on them is recorded.

    def where(self, service: str, listener: str, **changes: Any) -> Where:
        """Where a listener is; `changes` are other values of it, such as ca=None. Raises Skipped when it is closed."""
        part = self.endpoints["mta"] if service == "mta" else self.endpoints["stores"][service]
        if not part.get(listener):
            raise Skipped(f"{service} has no open listener {listener}")
        self.recorder.services.add(service)
        return replace(Where.of(self.endpoints, service, listener), **changes)

    def smtp(self, way: str | None = None, login: str | None = None, **changes: Any) -> Smtp:
        """A session by a way in (the case's), logged in where `login` names an address."""
        way = way or self.case.way_in or "submission"
        session = Smtp(self.where("mta", way, **changes), WITHIN, self.recorder.open(f"{way} of mta"))
        if login:
            session.login(login, self.password(login))
        return session

    def imap(self, login: str | None = None, store: str | None = None, way: str | None = None, **changes: Any) -> Imap:
        """An IMAP session with a store (the case's), logged in where `login` names an address."""
        store, way = store or self.store, way or (self.case.way_out if self.case.way_out in ("imap", "imaps") else "imaps")
        session = Imap(self.where(store, way, **changes), WITHIN, self.recorder.open(f"{way} of {store}"))
        if login:
            session.login(login, self.password(login))
        return session

    def pop3(self, login: str | None = None, store: str | None = None, way: str | None = None, **changes: Any) -> Pop3:
        """A POP3 session with a store (the case's), logged in where `login` names an address."""
        store, way = store or self.store, way or (self.case.way_out if self.case.way_out in ("pop3", "pop3s") else "pop3s")
        session = Pop3(self.where(store, way, **changes), WITHIN, self.recorder.open(f"{way} of {store}"))
        if login:
            session.login(login, self.password(login))
        return session

    def log_in(self, address: str, password: str, **changes: Any) -> None:
        """One login by the case's way out. Raises AuthRefused, TlsFailed."""
        if self.case.way_out in ("imap", "imaps"):
            with self.imap(**changes) as imap:
                imap.login(address, password)
        else:
            with self.pop3(**changes) as pop3:
                pop3.login(address, password)

    def raw_smtp(self, way: str | None = None, login: str | None = None, **changes: Any) -> RawSmtp:
        """An SMTP connection for exact octets, greeted and inside TLS, after EHLO (and AUTH, for `login`)."""
        way = way or self.case.way_in or "submission"
        found = RawSmtp(self.where("mta", way, **changes), self.recorder.open(f"{way} of mta"))
        if login:
            found.login(login, self.password(login))
        return found

    # --- Mail

    def send(self, recipients: str | list[str], message: bytes, sender: str | None = None, way: str | None = None, **options: Any) -> str:
        """Hands a message in, by the case's way in; returns the envelope sender: a stranger on port 25, a fresh address elsewhere."""
        way = way or self.case.way_in or "submission"
        sender = sender or self.sender(way)
        with self.smtp(way, None if way == "smtp" else sender) as smtp:
            refused = smtp.send(sender, [recipients] if isinstance(recipients, str) else recipients, message, **options)
        expect(not refused, f"recipients were refused: {refused}")
        return sender

    def sender(self, way: str | None = None) -> str:
        """Who sends by a way in: a stranger on port 25, a fresh address elsewhere."""
        return FOREIGN_SENDER if (way or self.case.way_in) == "smtp" else self.fresh("sender")

    def mailbox(self, address: str, count: int, store: str | None = None, way: str | None = None) -> list[bytes]:
        """All messages of a mailbox, as soon as there are `count`; by the case's way out (or IMAPS).

        Raises TimedOut when they do not come, and Failed when there are more.
        """
        if count:
            wait = self._await_pop3 if (way or self.case.way_out) in ("pop3", "pop3s") else self._await_imap
            wait(address, count, store, way)
        found = self.look(address, store, way)
        expect(len(found) == count, f"the mailbox of {address} holds {len(found)} messages instead of {count}")
        return found

    def look(self, address: str, store: str | None = None, way: str | None = None) -> list[bytes]:
        """What a mailbox holds now, by the case's way out (or IMAPS)."""
        if (way or self.case.way_out) in ("pop3", "pop3s"):
            with self.pop3(address, store, way) as pop3:
                return [pop3.retr(number) for number in range(1, pop3.stat()[0] + 1)]
        with self.imap(address, store, way) as imap:
            imap.select(readonly=True)
            return [imap.fetch(uid) for uid in imap.uids()]

    def _await_imap(self, address: str, count: int, store: str | None, way: str | None) -> None:
        with self.imap(address, store, way) as imap:
            imap.wait(count=count, timeout=WITHIN)

    def _await_pop3(self, address: str, count: int, store: str | None, way: str | None) -> None:
        deadline = time.monotonic() + WITHIN
        while True:
            with self.pop3(address, store, way) as pop3:
                here = pop3.stat()[0]
            if here >= count:
                return
            if time.monotonic() > deadline:
                raise TimedOut(f"{address}: {here} of {count} messages after {WITHIN:g} s by POP3", "`stackctl logs mta` shows what became of them")
            time.sleep(_PAUSE)

    def take(self, address: str, name: str, store: str) -> bytes:
        """The one message of this case and name in the INBOX of somebody who has others too; it is removed there."""
        with self.imap(address, store, "imaps") as imap:
            subject = f"^{re.escape(name)} {self.tag}$"
            found = imap.wait(subject=subject, timeout=WITHIN)
            octets = imap.fetch(found[0].uid)
            imap.select()
            imap.delete([one.uid for one in found])
        expect(len(found) == 1, f"the message came {len(found)} times to {address} on {store}")
        return octets


class RawSmtp:
    """One SMTP connection on which a scenario says exact octets. A context manager; leaving it closes the connection."""

    def __init__(self, where: Where, transcript: Transcript) -> None:
        self._socket: Any = connect(where, transcript, WITHIN)
        self._buffer = b""
        self._transcript = transcript
        if where.tls == "implicit":
            self.start_tls(where)
        self.greeting = self.reply()
        self.ehlo = self.ask("EHLO client.invalid")
        if where.tls == "starttls":
            self.expect("STARTTLS", 220)
            self.start_tls(where)
            self.ehlo = self.ask("EHLO client.invalid")

    def start_tls(self, where: Where) -> None:
        """The TLS handshake, after the server agreed to it."""
        self._socket = TlsContext(where, self._transcript).wrap_socket(self._socket)

    def __enter__(self) -> RawSmtp:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, octets: bytes) -> None:
        """Sends octets as they are."""
        try:
            self._socket.sendall(octets)
        except OSError as why:
            raise StackctlError(f"the server closed the connection: {why}") from why

    def reply(self) -> tuple[int, str]:
        """The next reply: its code and its lines, joined by line ends. Raises StackctlError when none comes."""
        lines = []
        while True:
            line = self._line()
            lines.append(line[4:])
            if not re.match(r"[2-5][0-9]{2}([ -]|$)", line):
                raise StackctlError(f"not an SMTP reply: {line!r}")
            if line[3:4] != "-":
                return int(line[:3]), "\n".join(lines)

    def _line(self) -> str:
        while b"\r\n" not in self._buffer:
            try:
                data = self._socket.recv(65536)
            except OSError as why:
                raise StackctlError(f"no reply: {why}") from why
            if not data:
                raise StackctlError("the server closed the connection without a reply")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode("utf-8", "replace")

    def ask(self, line: str) -> tuple[int, str]:
        """Says one line; the reply to it."""
        self.say(line.encode() + b"\r\n")
        return self.reply()

    def expect(self, line: str, *codes: int) -> str:
        """Says one line; its reply must have one of these codes."""
        code, text = self.ask(line)
        expect(code in codes, f"{line.split(' ')[0]}: the reply is {code} {text}, expected {' or '.join(map(str, codes))}")
        return text

    def login(self, address: str, password: str) -> None:
        """AUTH PLAIN (RFC 4616)."""
        self.expect(f"AUTH PLAIN {plain(address, password)}", 235)


def plain(address: str, password: str) -> str:
    """The initial response of SASL PLAIN."""
    import base64

    return base64.b64encode(f"\0{address}\0{password}".encode()).decode()
