"""What is looked at in stores: what they announce, their folders and files, how fast they are read, in mailboxes that grow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from stackctl import engine, inventory, preload, scenarios
from stackctl.clients.imap import Imap
from stackctl.clients.pop3 import Pop3
from stackctl.clients.smtp import Smtp
from stackctl.clients.transcript import Transcript
from stackctl.comparison import BEFORE, Fact, Measure
from stackctl.errors import StackctlError
from stackctl.observing.contest import OCTETS, WITHIN, Contest, Contestant, measure, message, took
from stackctl.scenario import FOREIGN_SENDER
from stackctl.steps import Report

READ = 100  # messages that one FETCH reads, in a mailbox of any size
_DEEP = 40  # folders in one another, beyond which nobody goes
_AT_ONCE = 10_000  # messages that are in memory, as they are put into a large mailbox
_TEXT = 20_000  # messages in a mailbox whose text is searched: every run reads all of it
_ENOUGH = 10.0  # seconds for the runs of one figure: in a large mailbox each takes long, and differs little


def jobs(one: Contestant) -> list[scenarios.Job]:
    """The cases that are about a store, by one way in and one way out."""
    return [job for job in scenarios.plan([one.service]) if job[1].store and job[1].way_in in (None, "smtp") and job[1].way_out in (None, "imaps")]


def capabilities(contest: Contest) -> Iterator[Fact]:
    """What each store announces, by word."""
    for what, announced in (
        (f"IMAP {BEFORE}", {name: _imap_words(one, "") for name, one in contest.contestants.items()}),
        ("IMAP", {name: _imap_words(one, one.address("capabilities")) for name, one in contest.contestants.items()}),
        ("POP3", {name: _pop3_words(one) for name, one in contest.contestants.items()}),
    ):
        yield from contest.words(what, announced)


def _imap_words(one: Contestant, who: str) -> tuple[set[str], str]:
    with one.imap(who) as session:
        found = session.capabilities
        said = [line for line in session.transcript.lines if re.match(r"S: (\* |.*\[)CAPABILITY ", line)]
        return found, said[-1]


def _pop3_words(one: Contestant) -> tuple[set[str], str]:
    with Pop3(one.where("pop3s")) as session:
        return session.capabilities, str(session.transcript)


def logins(contest: Contest) -> Iterator[Fact]:
    """The SASL mechanisms on each port, before TLS too where it begins without."""
    for listener, protocol in contest.listeners():
        for before in (True, False) if listener in ("imap", "pop3") else (False,):

            def offered(one: Contestant, listener: str = listener, protocol: str = protocol, before: bool = before) -> tuple[str, str]:
                where = replace(one.where(listener), tls="none") if before else one.where(listener)
                if protocol == "imap":
                    with Imap(where) as imap:
                        words = imap.capabilities
                        names = [word.partition("=")[2] for word in sorted(words) if word.startswith("AUTH=")]
                        return " ".join([*names, *(["LOGINDISABLED"] if "LOGINDISABLED" in words else [])]) or "none", str(imap.transcript)
                with Pop3(where) as pop3:
                    announced = pop3.announced()
                    names = sorted(announced.get("SASL", []))
                    return " ".join([*names, *(["USER"] if "USER" in announced else [])]) or "none", str(pop3.transcript)

            yield contest.each(offered, "Logins", f"{listener}{', before TLS' if before else ''}")


def folders(contest: Contest) -> Iterator[Fact]:
    """What a new mailbox looks like."""

    def namespace(one: Contestant) -> tuple[str, str]:
        with one.imap(one.address("folders")) as session:
            found = session.ask("NAMESPACE").get("NAMESPACE", [b""])
            return found[0].decode("utf-8", "replace"), str(session.transcript)

    def made(one: Contestant) -> tuple[str, str]:
        with one.imap(one.address("folders")) as session:
            return ", ".join(sorted(name for _, _, name in session.listed())), str(session.transcript)

    def deepest(one: Contestant) -> tuple[str, str]:
        with one.imap(one.address("depth")) as session:
            separator = next((mark for _, mark, _ in session.listed() if mark), "/")
            name, depth = session.prefix + "a", 1
            try:
                while depth < _DEEP:
                    session.create(name)
                    name, depth = f"{name}{separator}a", depth + 1
            except StackctlError as why:
                return f"{depth - 1}", why.message
            return f"at least {depth}", ""

    yield contest.each(namespace, "Folders", "NAMESPACE (RFC 2342)")
    yield contest.each(made, "Folders", "of a new mailbox")
    yield contest.each(deepest, "Folders", "how deep they can be")


def disk(contest: Contest) -> Iterator[Fact]:
    """The files that one message makes."""
    first = contest.contestants[contest.names[0]]
    who = first.address("disk")
    with Smtp(first.where("smtp", "mta")) as smtp:
        smtp.send(FOREIGN_SENDER, [who], message(who, "one message"))
    for one in contest.contestants.values():
        with one.imap(who) as session:
            session.select()
            session.wait(subject="one message", timeout=WITHIN)

    def files(one: Contestant) -> tuple[str, str]:
        places = [mount["Destination"] for mount in inventory.inspect(one.container)["Mounts"] if mount["RW"]]
        _, said = engine.execute(one.container, ["find", *places, "-path", "*disk*", "-type", "f"])
        found = sorted(line for line in said.splitlines() if line.startswith("/"))
        return f"{len(found)} files", "\n".join(found)

    yield contest.each(files, "On disk", "a mailbox with one message")


def delivery(contest: Contest) -> Iterator[Measure]:
    """From the MTA's 250 until a NOOP on an open connection tells of the message; and many at once, until each store has them all."""
    extent, first = contest.extent, contest.contestants[contest.names[0]]
    who = first.address("delivery")
    sessions = {name: one.imap(who) for name, one in contest.contestants.items()}
    came: dict[str, list[float]] = {name: [] for name in sessions}
    rates: dict[str, list[float]] = {name: [] for name in sessions}
    octets = message(who, "delivery")
    try:
        here = {name: session.select()["EXISTS"] for name, session in sessions.items()}
        with Smtp(first.where("smtp", "mta")) as smtp:
            for _ in range(extent.singles):
                smtp.send(FOREIGN_SENDER, [who], octets)
                for name, seconds in arrivals(sessions, here, 1).items():
                    came[name].append(1000 * seconds)
            for _ in range(3):
                for _ in range(extent.burst):
                    smtp.send(FOREIGN_SENDER, [who], octets)
                for name, seconds in arrivals(sessions, here, extent.burst).items():
                    rates[name].append(1000 * seconds)
    finally:
        for session in sessions.values():
            session.close()
    yield measure("Speed", "delivery: from 250 until a client sees it", "ms", "less", came)
    yield measure("Speed", f"{extent.burst} messages in a row: from the last 250 until a client sees them all", "ms", "less", rates)


def arrivals(sessions: Mapping[str, Imap], here: dict[str, int], more: int) -> dict[str, float]:
    """Seconds until each session has so many more messages than `here`, which grows; each is asked in turn."""
    start, found = time.perf_counter(), dict[str, float]()
    waiting = list(sessions)
    while waiting:
        for name in list(waiting):
            with sessions[name].transcript.muted():
                said = sessions[name].ask("NOOP").get("EXISTS")
            here_now = int(said[-1]) if said else 0
            if here_now >= here[name] + more:
                found[name] = time.perf_counter() - start
                here[name] = here_now
                waiting.remove(name)
        if time.perf_counter() - start > WITHIN:
            raise StackctlError(f"{', '.join(waiting)}: {more} messages did not arrive within {WITHIN:g} s", "`stackctl logs` shows more")
    return found


def whole(contest: Contest) -> Measure:
    """A whole session: TLS, login, INBOX opened, logout."""

    def session(one: Contestant) -> None:
        with one.imap(one.address("sessions")) as imap:
            imap.select()

    return measure("Speed", "a session: TLS, login, INBOX, logout", "ms", "less", contest.in_turn(contest.extent.runs * 3, lambda one: took(lambda: session(one))))


def reading(contest: Contest, report: Report) -> Iterator[Measure]:
    """FETCH, SEARCH and SORT in mailboxes that grow."""
    first = contest.contestants[contest.names[0]]
    for size in contest.extent.sizes:
        who = first.address(f"size-{size}")
        made = _messages(size)
        for done in range(0, size, _AT_ONCE):
            report(f"mailboxes of {size:,} messages: {done:,} are there …")
            preload.put(first.known, islice(made, _AT_ONCE), who)
        report(f"mailboxes of {size:,} messages are read …")
        sessions = {name: _session(one, who) for name, one in contest.contestants.items()}
        try:
            for session in sessions.values():
                session.select()
                session.uids("SUBJECT" if size > _TEXT else "BODY", "nowhere")  # all have read it once, and made the index that they want
            for what, work in _works(size, sessions):
                found = contest.in_turn(contest.extent.runs, partial(_worked, sessions, work), _ENOUGH)
                yield measure("Speed", what, "ms", "less", found, size)
        finally:
            for session in sessions.values():
                session.close()


def _session(one: Contestant, who: str) -> Imap:
    """With time for a first look at very many messages."""
    session = Imap(one.where("imaps"), timeout=5 * WITHIN, transcript=Transcript())
    session.login(who, one.password)
    return session


def _works(size: int, sessions: Mapping[str, Imap]) -> list[tuple[str, Callable[[Imap], object]]]:
    step = max(1, size // READ)
    chosen = ",".join(str(number) for number in range(1, size + 1, step))
    works: list[tuple[str, Callable[[Imap], object]]] = [
        (f"FETCH of {min(size, READ)} whole messages", lambda one: one.ask("FETCH", chosen, "(BODY.PEEK[])")),
        ("FETCH of flags and sizes of all", lambda one: one.ask("FETCH", "1:*", "(UID FLAGS RFC822.SIZE)")),
        ("SEARCH by subject", lambda one: one.uids("SUBJECT", "number 42")),
    ]
    if size <= _TEXT:
        works.append(("SEARCH in the text", lambda one: one.uids("BODY", "needle")))
    if all("SORT" in session.capabilities for session in sessions.values()):
        works.append(("SORT by subject", lambda one: one.ask("SORT", "(SUBJECT)", "UTF-8", "ALL")))
    return works


def _worked(sessions: Mapping[str, Imap], work: Callable[[Imap], object], one: Contestant) -> float:
    """Milliseconds of work in one of several sessions, of which no transcript is kept."""
    with sessions[one.name].transcript.muted():
        return took(lambda: work(sessions[one.name]))


def _messages(count: int) -> Iterator[preload.Kept]:
    for number in range(count):
        text = f"From: writer-{number % 97}@elsewhere.example\nSubject: number {number * 7919 % count}\nMessage-ID: <{number}@elsewhere.example>\n\n"
        body = ("x" * 70 + "\n") * (OCTETS // 71) + ("needle\n" if number % 50 == 0 else "")
        yield preload.Kept((text + body).encode(), ("\\Seen",) if number % 2 else (), 1_700_000_000.0 + number)
