"""Mail that fails on purpose while a stack runs: refused, delayed, kept or sent back by the real MTA. It speaks to no server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict

from stackctl import ca, live, running, state
from stackctl.backends import find
from stackctl.errors import UsageError
from stackctl.model import Fault, address, domain
from stackctl.problems import valid

STAGES = ("rcpt", "data", "end", "delivery")
# RFC 3463: the enhanced status that usually goes with a reply.
_STATUSES = {421: "4.3.2", 450: "4.2.1", 451: "4.7.1", 452: "4.2.2", 454: "4.7.0", 550: "5.1.1", 552: "5.2.2", 553: "5.1.3", 554: "5.7.1"}
_LONGEST = 60  # seconds of a delay: clients give up after five minutes
_TEXT = 200  # octets of a reply's text, in a line of 512


def listed(known: state.State) -> tuple[Fault, ...]:
    """What fails on purpose in a stack, in the order in which it was set."""
    return tuple(Fault(**one) for one in known.faults)


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

    `reply` is the SMTP code (4xx or 5xx) at the stage `at`; `times` lets it fail for so many attempts of each recipient; `delay` waits so many
    seconds instead. At delivery a 4xx keeps the message in the queue and a 5xx sends it back, of one `store` or of all.
    Raises UsageError for what cannot be, and then changes nothing.
    """
    _checked(reply, at, text, times, delay, store)
    with live.changing(known) as change:
        here = change.stack
        mta = find("mta", here.mta.backend, here.mta.version)
        if "faults" not in mta.provides:
            raise UsageError(f"the MTA {here.mta.backend} has no means to fail on purpose", "`mta: {backend: …}` in stack.yaml names another")
        who = f"@{valid(domain, who[1:])}" if who.startswith("@") else valid(address, who)
        running.stores(known, store)
        status = _STATUSES.get(reply or 0, f"{str(reply)[0]}.0.0")
        made = Fault(os.urandom(4).hex(), who, at, reply, status, text or "a fault on purpose", times, delay, store)
        kept = [one for one in known.faults if (one["address"], one["at"], one["store"]) != (who, at, store)]
        known.faults = [asdict(made), *kept]  # the newest counts first
    return made


def put_certificate(known: state.State, fault: str) -> None:
    """Has every server show a certificate that no client may accept (ca.FAULTS), from the next connection on. `up` ends that, for it proves the contrary.

    Raises UsageError for a fault that is none.
    """
    if fault not in ca.FAULTS:
        raise UsageError(f"'{fault}' is no fault of a certificate", f"faults are {', '.join(ca.FAULTS)}")
    with live.changing(known):
        known.certificate_fault = fault


def clear(known: state.State, who: str | None = None) -> tuple[Fault, ...]:
    """Takes the faults of an address away, or all, that of the certificates too; what was taken of mail's.

    Raises UsageError for an address that has none.
    """
    with live.changing(known):
        if who is None:
            known.certificate_fault = ""
        gone = tuple(one for one in listed(known) if who is None or one.address == who.lower())
        if who is not None and not gone:
            raise UsageError(f"nothing fails for {who}", _names(known.faults) or "`stackctl fault list` shows what does")
        known.faults = [one for one in known.faults if Fault(**one) not in gone]
    return gone


def _names(faults: Iterable[dict[str, object]]) -> str:
    return ", ".join(str(one["address"]) for one in faults)


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
