"""What is looked at in MTAs, each in a stack of its own with the same stores: what they announce and say, and how fast mail goes through them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from stackctl import scenarios
from stackctl.clients.smtp import Smtp
from stackctl.comparison import BEFORE_TLS, Fact, Measure
from stackctl.errors import StackctlError
from stackctl.observing.contest import Contest, Contestant, measure, message, took
from stackctl.observing.stores import arrivals
from stackctl.scenario import FOREIGN_SENDER

_CLIENTS = 4  # that hand mail in at once
# What is said to port 25, and how each answers; RFC 5321 4.
SAID = (
    *("HELO client.invalid", "HELP", "NOOP", "VRFY postmaster", "EXPN postmaster", "RCPT TO:<x@elsewhere.example>", "DATA"),
    *("XNONSENSE", "MAIL FROM:<x@elsewhere.example> XNONSENSE=1"),
)


def store(one: Contestant) -> str:
    """The store behind an MTA in which arriving mail is looked for: the first."""
    return str(next(iter(one.endpoints["stores"])))


def jobs(one: Contestant, all_ways: bool) -> list[scenarios.Job]:
    """The cases that are about the MTA: by every way in (or by one), and of the stores and ways out one, for what a store does with its mail is another comparison."""
    found = scenarios.plan(list(one.endpoints["stores"]))
    if not all_ways:
        first = {scenario.name: case.way_in for scenario, case in reversed(found)}
        found = [(scenario, case) for scenario, case in found if case.way_in == first[scenario.name]]
    return [job for job in found if job[1].store in (None, store(one)) and job[1].way_out in (None, "imaps") and (job[1].way_in or not job[1].store)]


def capabilities(contest: Contest) -> Iterator[Fact]:
    """What EHLO is answered with on each port, before TLS too where it begins without."""
    for listener, _ in contest.listeners():
        for before in (False, True):
            if before and contest.contestants[contest.names[0]].where(listener).tls == "implicit":
                continue
            announced = {}
            for name, one in contest.contestants.items():
                where = replace(one.where(listener), tls="none") if before else one.where(listener)
                with Smtp(where) as session:
                    announced[name] = {word.upper() for word in session.extensions}, str(session.transcript)
            yield from contest.words(f"{listener} {BEFORE_TLS}" if before else listener, announced)


def logins(contest: Contest) -> Iterator[Fact]:
    """The SASL mechanisms on each port, before TLS too where it begins without."""
    for listener, _ in contest.listeners():
        for before in (True, False) if contest.contestants[contest.names[0]].where(listener).tls == "starttls" else (False,):

            def offered(one: Contestant, listener: str = listener, before: bool = before) -> tuple[str, str]:
                where = replace(one.where(listener), tls="none") if before else one.where(listener)
                with Smtp(where) as session:
                    return " ".join(sorted(session.extensions.get("auth", "").split())) or "none", str(session.transcript)

            yield contest.each(offered, "Logins", f"{listener}{', before TLS' if before else ''}")


def replies(contest: Contest) -> Iterator[Fact]:
    """How each answers the same lines, each in a session of its own."""

    def greeting(one: Contestant) -> tuple[str, str]:
        with Smtp(one.where("smtp")) as session:
            lines = session.transcript.lines
            return next((line.removeprefix("S: ") for line in lines if line.startswith("S: 220")), "none"), "\n".join(lines)

    yield contest.each(greeting, "Replies", "the greeting")
    for line in SAID:

        def said(one: Contestant, line: str = line) -> tuple[str, str]:
            with Smtp(one.where("smtp")) as session:
                try:
                    code, text = session.command(line)
                except StackctlError as why:
                    return "closes the connection", why.message
                return f"{code} {text}"[:120], str(session.transcript)

        yield contest.each(said, "Replies", line)


def delivery(contest: Contest) -> Iterator[Measure]:
    """From the 250 until a client of the first store sees the message; and many at once, handed in and delivered."""
    extent = contest.extent
    sessions = {name: one.imap(one.address("delivery"), store(one)) for name, one in contest.contestants.items()}
    came: dict[str, list[float]] = {name: [] for name in sessions}
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    through: dict[str, list[float]] = {name: [] for name in sessions}
    try:
        here = {name: session.select()["EXISTS"] for name, session in sessions.items()}
        with ThreadPoolExecutor(_CLIENTS) as pool:
            for name, one in contest.contestants.items():  # a first message makes what is made once
                _send(one, 1)
                arrivals({name: sessions[name]}, here, 1)
            for _ in range(extent.singles):
                for name, one in contest.contestants.items():
                    with Smtp(one.where("smtp")) as smtp:
                        smtp.send(FOREIGN_SENDER, [one.address("delivery")], message(one.address("delivery"), "delivery"))
                        came[name].append(1000 * arrivals({name: sessions[name]}, here, 1)[name])
            for _ in range(3):
                for name, one in contest.contestants.items():
                    start, each = time.perf_counter(), extent.burst // _CLIENTS
                    list(pool.map(_send, [one] * _CLIENTS, [each] * _CLIENTS))
                    accepted = time.perf_counter() - start
                    arrivals({name: sessions[name]}, here, each * _CLIENTS)
                    taken[name].append(each * _CLIENTS / accepted)
                    through[name].append(each * _CLIENTS / (time.perf_counter() - start))
    finally:
        for session in sessions.values():
            session.close()
    yield measure("Speed", "delivery: from 250 until a client sees it", "ms", "less", came)
    yield measure("Speed", f"taken from {_CLIENTS} clients at once, {extent.burst} messages", "messages/s", "more", taken)
    yield measure("Speed", f"delivered of {_CLIENTS} clients at once, {extent.burst} messages", "messages/s", "more", through)


def _send(one: Contestant, count: int) -> None:
    who = one.address("delivery")
    octets = message(who, "delivery")
    with Smtp(one.where("smtp")) as smtp:
        for _ in range(count):
            smtp.send(FOREIGN_SENDER, [who], octets)


def whole(contest: Contest) -> Iterator[Measure]:
    """A whole session without a message, on port 25 and with a login on 587."""

    def session(one: Contestant, listener: str) -> None:
        with Smtp(one.where(listener)) as smtp:
            if listener != "smtp":
                smtp.login(one.address("sessions"), one.password)

    for listener, what in (("smtp", "a session on port 25: EHLO, STARTTLS, EHLO, QUIT"), ("submission", "a session on port 587: STARTTLS, AUTH, QUIT")):
        if listener in dict(contest.listeners()):
            runs = contest.in_turn(contest.extent.runs * 3, lambda one, listener=listener: took(lambda: session(one, listener)))  # type: ignore[misc]
            yield measure("Speed", what, "ms", "less", runs)
