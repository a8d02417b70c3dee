"""Commands for what fails on purpose in a running stack; every change counts for the next client. They decide nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name

if TYPE_CHECKING:
    from stackctl.model import Fault

FOR = typer.Argument(help="The recipient (at the stage mail the sender): an address, or @DOMAIN for every address there.", metavar="ADDRESS")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    fault = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Let mail fail on purpose, on the real servers.\n\nExample: stackctl fault list")
    fault.command("set")(put)
    fault.command("greeting")(put_greeting)
    fault.command("full")(put_full)
    fault.command("connection")(put_connection)
    fault.command("logins")(put_logins)
    fault.command("certificate")(put_certificate)
    fault.command("list")(listed)
    fault.command("clear")(clear)
    app.add_typer(fault, name="fault")


def put(
    address: Annotated[str, FOR],
    reply: Annotated[int | None, typer.Option("--reply", metavar="CODE", help="The SMTP reply: 4xx for now, 5xx for good; 421 ends the session too.")] = None,
    at: Annotated[str, typer.Option("--at", metavar="STAGE", help="mail, rcpt, data, end (of it), or delivery: accepted, then kept (4xx) or sent back (5xx).")] = "rcpt",
    times: Annotated[int | None, typer.Option("--times", metavar="N", help="Only the first N attempts of each address fail: 1 is greylisting.")] = None,
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

    _told(faults.put(running.named(name, file), address, reply=reply, at=at, text=text, times=times, delay=slow, store=store), json)


def put_greeting(
    reply: Annotated[int, typer.Option("--reply", metavar="CODE", help="The SMTP reply: 421, or 554 for good.")] = 421,
    times: Annotated[int | None, typer.Option("--times", metavar="N", help="Only the first N clients get it.")] = None,
    per_minute: Annotated[int | None, typer.Option("--per-minute", metavar="N", help="Only those beyond N in a minute get it: the MTA's own limit.")] = None,
    text: Annotated[str, typer.Option("--text", help="The words of the reply.")] = "",
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Let port 25 answer 421 in place of its greeting, or limit how many clients a minute it takes.

    Example: stackctl fault greeting --per-minute 3
    """
    from stackctl import faults, running

    _told(faults.put_greeting(running.named(name, file), reply=reply, text=text, times=times, per_minute=per_minute), json)


def put_full(
    address: Annotated[str, typer.Argument(help="The user's address.", metavar="ADDRESS")], file: File = None, name: Name = None, json: Json = False
) -> None:
    """Let a user's mailbox have no room, whatever is in it: mail and APPEND are refused as for one over its quota.

    Example: stackctl fault full alice@example.test
    """
    from stackctl import faults, running

    _told(faults.put_full(running.named(name, file), address), json)


def put_connection(
    listener: Annotated[str, typer.Argument(help="Whose connections: a service and its listener, such as dovecot.imaps, mta.smtp or dovecot.lmtp.", metavar="LISTENER")],
    latency: Annotated[float, typer.Option("--latency", metavar="SECONDS", help="All that the server says comes so much later.")] = 0.0,
    bandwidth: Annotated[str | None, typer.Option("--bandwidth", metavar="SIZE", help="Octets a second, each way: 2000, or 10K.")] = None,
    drop_after: Annotated[str | None, typer.Option("--drop-after", metavar="SIZE", help="It ends when so many octets have passed, both ways together.")] = None,
    no_starttls: Annotated[bool, typer.Option("--no-starttls", help="The server's offer of STARTTLS (STLS) is masked.")] = False,
    hang: Annotated[bool, typer.Option("--hang", help="It is accepted, and nothing ever comes.")] = False,
    refuse: Annotated[bool, typer.Option("--refuse", help="It ends before it begins.")] = False,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Let connections to one port be slow, break, hang or be refused, until `fault clear` or the next `up`.

    Example: stackctl fault connection dovecot.imaps --latency 3 --drop-after 10K
    """
    from stackctl import faults, lines, running

    known = running.named(name, file)
    line = lines.Line(listener, latency, _octets(bandwidth), _octets(drop_after), no_starttls, hang, refuse)
    with show.progress(quiet=json) as report:
        faults.put_connection(known, line, lambda progress: report(str(progress)))
    show.as_json(asdict(line)) if json else show.line(f"{line.name}: {line}.")


def put_logins(file: File = None, name: Name = None, json: Json = False) -> None:
    """Let no login be checked: every server answers that it cannot for now, until `fault clear` or the next `up`.

    Example: stackctl fault logins
    """
    from stackctl import faults, running

    faults.put_logins(running.named(name, file))
    show.as_json({"logins": "down"}) if json else show.line("Every login is answered: not for now.")


def put_certificate(
    fault: Annotated[str, typer.Argument(help="expired, not-yet-valid, wrong-host, unknown-ca, weak-key, or old-tls: TLS 1.0 and 1.1 alone.", metavar="FAULT")],
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
        show.line(f"Every server {'speaks TLS 1.0 and 1.1 alone' if fault == faults.OLD_TLS else f'shows a certificate with this fault: {fault}'}.")


def listed(file: File = None, name: Name = None, json: Json = False) -> None:
    """List what fails on purpose.

    Example: stackctl fault list --json
    """
    from stackctl import faults, running

    failing = faults.listed(running.named(name, file))
    if json:
        show.as_json(asdict(failing))
        return
    rows = [(row.address, row.at, _what(row) + _limits(row)) for row in failing.mail]
    rows += [(line.name, "connection", str(line)) for line in failing.connections]
    rows += [("every client", "TLS", f"certificate: {failing.certificate}")] * bool(failing.certificate)
    show.table(("FOR", "AT", "WHAT"), rows)


def clear(
    address: Annotated[str | None, typer.Argument(help="An address, @DOMAIN, a listener such as dovecot.imaps, greeting, or logins.", metavar="[WHAT]")] = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """End what fails on purpose: of one address or listener, or all of it.

    Example: stackctl fault clear
    """
    from stackctl import faults, running

    gone = faults.clear(running.named(name, file), address)
    if json:
        show.as_json(asdict(gone))
    else:
        show.line(f"{gone.number} cleared." if gone.number else "Nothing failed on purpose.")


def _told(made: Fault, json: bool) -> None:
    if json:
        show.as_json(asdict(made))
    else:
        show.line(f"{made.address}: {_what(made)} at {made.at}{_limits(made)}.")


def _octets(size: str | None) -> int | None:
    from stackctl.model import octets
    from stackctl.problems import valid

    return int(valid(lambda text: str(octets(text)), size)) if size is not None else None


def _what(fault: Fault) -> str:
    if fault.reply is None:
        return f"{fault.delay} s slower" if fault.delay else fault.text
    return f"{fault.reply} {fault.status} {fault.text}"


def _limits(fault: Fault) -> str:
    limits = {"the first %s attempts": fault.times, "those beyond %s in a minute": fault.per_minute, "of %s": fault.store}
    return "".join(f", {words % value}" for words, value in limits.items() if value)
