"""Mail that fails on purpose while a stack runs: refused, delayed, kept or sent back by the real MTA. It speaks to no server."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass

from stackctl import ca, images, lines, live, render, running, state
from stackctl.backends import find
from stackctl.errors import UsageError
from stackctl.model import STATUSES, Fault, Stack, address, domain
from stackctl.problems import valid

STAGES = ("mail", "rcpt", "data", "end", "delivery")
OLD_TLS = "old-tls"  # in the place of what is wrong with a certificate
GREETING, LOGINS = "greeting", "logins"  # in the place of an address: what meets every client
_LONGEST = 60  # seconds of a delay: clients give up after five minutes
_TEXT = 200  # octets of a reply's text, in a line of 512


@dataclass(frozen=True)
class Failing:
    """What fails on purpose: mail, the newest first; connections; and what is wrong with every certificate, None for nothing."""

    mail: tuple[Fault, ...]
    connections: tuple[lines.Line, ...]
    certificate: str | None

    @property
    def number(self) -> int:
        """How many faults these are."""
        return len(self.mail) + len(self.connections) + bool(self.certificate)


def listed(known: state.State) -> Failing:
    """What fails on purpose in a stack."""
    return Failing(tuple(Fault(**one) for one in known.faults), lines.listed(known), known.certificate_fault or None)


def put(
    known: state.State,
    who: str,
    *,
    reply: int | None = None,
    at: str = "rcpt",
    text: str = "",
    times: int | None = None,
    delay: int = 0,
    store: str | None = None,
) -> Fault:
    """Makes mail for an address, or for "@" and a domain, fail from the next client on; what was set before for it at that stage is replaced.

    `reply` is the SMTP code (4xx or 5xx) at the stage `at`; `times` lets it fail for so many attempts of each address; `delay` waits so many
    seconds instead. At the stage mail the address is the sender. At delivery a 4xx keeps the message in the queue and a 5xx sends it back, of one `store` or of all.
    Raises UsageError for what cannot be, and then changes nothing.
    """
    _checked(reply, at, text, times, delay, store)
    with live.changing(known) as change:
        _able(change.stack)
        who = f"@{valid(domain, who[1:])}" if who.startswith("@") else valid(address, who)
        running.stores(known, store)
        return _added(known, Fault(os.urandom(4).hex(), who, at, reply, _status(reply), text or "a fault on purpose", times, delay, store))


def put_greeting(known: state.State, *, reply: int = 421, text: str = "", times: int | None = None, per_minute: int | None = None) -> Fault:
    """Has the MTA's port for mail from other hosts answer `reply` in place of its greeting: to every client, or to the first so many (`times`).

    With `per_minute` it is the MTA's own limit: clients beyond so many in a minute get its 421. Raises UsageError for what cannot be.
    """
    _checked(reply, "mail", text, times, 0, None)
    if per_minute is not None and (per_minute < 1 or times or text or reply != 421):
        raise UsageError("a limit per minute is a number from 1, and its reply the MTA's own", "leave --reply, --text and --times out")
    with live.changing(known) as change:
        _able(change.stack)
        return _added(known, Fault(os.urandom(4).hex(), GREETING, "connect", reply, _status(reply), text or "a fault on purpose", times, per_minute=per_minute))


def put_full(known: state.State, who: str) -> Fault:
    """Leaves no room in a user's mailbox, in no store, whatever it holds and may hold. Raises UsageError for somebody without a mailbox of his own."""
    with live.changing(known) as change:
        who = valid(address, who)
        if who not in (user.address for user in change.stack.users):
            raise UsageError(f"{who} is no user of the stack {known.name}", f"users are {', '.join(user.address for user in change.stack.users)}")
        return _added(known, Fault(os.urandom(4).hex(), who, "full", None, "", "no room in the mailbox"))


def put_logins(known: state.State) -> None:
    """Has every server that checks passwords answer that it cannot for now. Logins that are there stay."""
    with live.changing(known):
        _added(known, Fault("", LOGINS, "login", None, "", "no login can be checked for now"))


def _able(here: Stack) -> None:
    """Raises UsageError where the MTA cannot fail on purpose."""
    if "faults" not in find("mta", here.mta.backend, here.mta.version).provides:
        raise UsageError(f"the MTA {here.mta.backend} has no means to fail on purpose", "`mta: {backend: …}` in stack.yaml names another")


def _status(reply: int | None) -> str:
    return STATUSES.get(reply or 0, f"{str(reply)[0]}.0.0")


def _added(known: state.State, made: Fault) -> Fault:
    """Puts a fault in front of the others, for the newest counts first, and in the place of one for the same."""
    kept = [one for one in known.faults if (one["address"], one["at"], one["store"]) != (made.address, made.at, made.store)]
    known.faults = [asdict(made), *kept]
    return made


def put_certificate(known: state.State, fault: str) -> None:
    """Has every server show a certificate that no client may accept (ca.FAULTS), or speak TLS 1.0 and 1.1 alone (OLD_TLS), from the next connection on.

    `up` ends that, for it proves the contrary. Raises UsageError for a fault that is none, and where a server has no means for it.
    """
    if fault not in (*ca.FAULTS, OLD_TLS):
        raise UsageError(f"'{fault}' is no fault of a certificate", f"faults are {', '.join((*ca.FAULTS, OLD_TLS))}")
    with live.changing(known) as change:
        unable = [one.name for one in render.services(change.stack) if one.role in ("mta", "store") and not one.backend.speaks_old_tls]
        if fault == OLD_TLS and unable:
            raise UsageError(f"{', '.join(unable)} of the stack {known.name} cannot speak old versions of TLS alone", "`expired`, say, works with every server")
        known.certificate_fault = fault
        shutil.rmtree(state.folder(known.name) / "faulty", ignore_errors=True)


def put_connection(known: state.State, line: lines.Line, report: images.Report = lambda _: None) -> None:
    """Has new connections to a listener go over a bad line. Raises as `lines.put` does."""
    lines.put(known, line, live.of_file(known).debian, report)


def clear(known: state.State, who: str | None = None) -> Failing:
    """Takes the faults of an address or of connections to a listener away, or all there are; what was taken.

    Raises UsageError for an address or a listener that has none.
    """
    before = listed(known)
    mail = tuple(one for one in before.mail if who is None or one.address == who.lower())
    gone = Failing(mail, lines.clear(known, who), before.certificate if who is None else None)
    if who is not None and not gone.number:
        others = [*(one.address for one in before.mail), *(one.name for one in before.connections)]
        raise UsageError(f"nothing fails for {who}", ", ".join(others) or "`stackctl fault list` shows what does")
    if mail or gone.certificate:
        with live.changing(known):
            known.certificate_fault = "" if gone.certificate else known.certificate_fault
            known.faults = [one for one in known.faults if Fault(**one) not in mail]
    return gone


def _checked(reply: int | None, at: str, text: str, times: int | None, delay: int, store: str | None) -> None:
    """Raises UsageError for values that do not go together."""
    if at not in STAGES:
        raise UsageError(f"'{at}' is no stage", f"stages are {', '.join(STAGES)}")
    if (reply is None) == (delay == 0):
        raise UsageError("a fault is a reply or a delay", "give one of --reply CODE and --slow SECONDS")
    if reply is not None and not 400 <= reply <= 599:
        raise UsageError(f"{reply} is no reply that refuses", "4xx is for now (450, 451, 452, 421), 5xx for good (550, 552, 554): RFC 5321 4.2.1")
    if not 0 <= delay <= _LONGEST:
        raise UsageError(f"a delay of {delay} s", f"at most {_LONGEST} s")
    if times is not None and times < 1:
        raise UsageError(f"{times} attempts", "a number from 1; without it, every attempt fails")
    if at == "delivery" and (times or delay):
        raise UsageError("what fails at delivery fails until it is cleared", "--times and --slow are for rcpt, data and end")
    if delay and times:
        raise UsageError("a delay has no number of attempts", "leave --times out")
    if store is not None and at != "delivery":
        raise UsageError("the MTA knows of stores at delivery only", "add `--at delivery`")
    if len(text.encode()) > _TEXT or not text.isascii() or not (text.isprintable() or not text):
        raise UsageError("the text of a reply is one line of ASCII", f"at most {_TEXT} characters")
