"""Commands for what fails on purpose in a running stack; every change counts for the next client. They decide nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name

if TYPE_CHECKING:
    from stackctl.model import Fault

FOR = typer.Argument(help="The recipient: an address, or @DOMAIN for every address there.", metavar="ADDRESS")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    fault = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Let mail fail on purpose, on the real servers.\n\nExample: stackctl fault list")
    fault.command("set")(put)
    fault.command("certificate")(put_certificate)
    fault.command("list")(listed)
    fault.command("clear")(clear)
    app.add_typer(fault, name="fault")


def put(
    address: Annotated[str, FOR],
    reply: Annotated[int | None, typer.Option("--reply", metavar="CODE", help="The SMTP reply: 4xx for now, 5xx for good; 421 ends the session too.")] = None,
    at: Annotated[str, typer.Option("--at", metavar="STAGE", help="rcpt, data, end (of the data), or delivery: accepted, then kept (4xx) or sent back (5xx).")] = "rcpt",
    times: Annotated[int | None, typer.Option("--times", metavar="N", help="Only the first N attempts of each recipient fail: 1 is greylisting.")] = None,
    slow: Annotated[int, typer.Option("--slow", metavar="SECONDS", help="Wait before the reply, and let it through.")] = 0,
    text: Annotated[str, typer.Option("--text", help="The words of the reply.")] = "",
    store: Annotated[str | None, typer.Option("--store", metavar="STORE", help="At delivery: of this store alone.")] = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Let mail for an address be refused, delayed, kept or sent back.

    Example: stackctl fault set alice@example.test --reply 452 --at end
    """
    from stackctl import faults, running

    made = faults.put(running.named(name, file), address, reply=reply, at=at, text=text, times=times, delay=slow, store=store)
    if json:
        show.as_json(asdict(made))
    else:
        show.line(f"{made.address}: {_what(made)} at {made.at}{_limits(made)}.")


def put_certificate(
    fault: Annotated[str, typer.Argument(help="expired, not-yet-valid, wrong-host or unknown-ca.", metavar="FAULT")],
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Let every server show a certificate that no client may accept, until `fault clear` or the next `up`.

    Example: stackctl fault certificate expired
    """
    from stackctl import faults, running

    faults.put_certificate(running.named(name, file), fault)
    if json:
        show.as_json({"certificate": fault})
    else:
        show.line(f"Every server shows a certificate with this fault: {fault}.")


def listed(file: File = None, name: Name = None, json: Json = False) -> None:
    """List what fails on purpose.

    Example: stackctl fault list --json
    """
    from stackctl import faults, running

    known = running.named(name, file)
    rows = faults.listed(known)
    if json:
        show.as_json({"mail": [asdict(row) for row in rows], "certificate": known.certificate_fault or None})
    else:
        whole = [("every client", "TLS", f"certificate: {known.certificate_fault}")] * bool(known.certificate_fault)
        show.table(("FOR", "AT", "WHAT"), [*((row.address, row.at, _what(row) + _limits(row)) for row in rows), *whole])


def clear(address: Annotated[str | None, FOR] = None, file: File = None, name: Name = None, json: Json = False) -> None:
    """Let mail for an address through again; for every address, where none is given.

    Example: stackctl fault clear
    """
    from stackctl import faults, running

    known = running.named(name, file)
    certificate = known.certificate_fault if address is None else ""
    gone = faults.clear(known, address)
    if json:
        show.as_json({"mail": [asdict(row) for row in gone], "certificate": certificate or None})
    else:
        number = len(gone) + bool(certificate)
        show.line(f"{number} cleared." if number else "Nothing failed on purpose.")


def _what(fault: Fault) -> str:
    return f"{fault.delay} s slower" if fault.delay else f"{fault.reply} {fault.status} {fault.text}"


def _limits(fault: Fault) -> str:
    return f", the first {fault.times} attempts" * bool(fault.times) + f", of {fault.store}" * bool(fault.store)
