"""Commands that send and read mail: send, inbox, wait, talk."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.clients.where import Where
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.clients.imap import Imap
    from stackctl.clients.message import Summary
    from stackctl.state import State

WAYS = {"smtp": "smtp", "submission": "submission", "submissions": "submissions"}
StoreOption = Annotated[str | None, typer.Option("--store", "-s", metavar="STORE", help="Which store to read from; the first one unless given.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (send, inbox, wait, talk):
        app.command()(command)


def send(
    to: Annotated[list[str] | None, typer.Option("--to", "-t", metavar="ADDRESS", help="A recipient; may be given again.")] = None,
    subject: Annotated[str, typer.Option("--subject", "-S", help="The subject.")] = "",
    body: Annotated[str | None, typer.Option("--body", "-b", help="The text; read from standard input unless given.")] = None,
    cc: Annotated[list[str] | None, typer.Option("--cc", metavar="ADDRESS", help="A recipient of a copy.")] = None,
    bcc: Annotated[list[str] | None, typer.Option("--bcc", metavar="ADDRESS", help="A recipient that no header names.")] = None,
    sender: Annotated[str | None, typer.Option("--from", metavar="ADDRESS", help="Who sends: a user of the stack, the first one unless given.")] = None,
    attach: Annotated[list[Path] | None, typer.Option("--attach", "-a", metavar="FILE", help="A file to attach; may be given again.")] = None,
    eml: Annotated[Path | None, typer.Option("--eml", metavar="FILE", help="Send this message as it is (line ends become CRLF).")] = None,
    via: Annotated[str, typer.Option("--via", metavar="smtp|submission|submissions", help="The way in: smtp is port 25, without a login.")] = "submission",
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Send a message through the stack.

    Example: stackctl send --to alice@example.test --subject hello --body "It works."
    """
    from stackctl import running
    from stackctl.clients.message import compose
    from stackctl.clients.smtp import Smtp

    if via not in WAYS:
        raise UsageError(f"--via {via} is not known", f"it is one of {', '.join(WAYS)}")
    known = running.named(name, file)
    author = sender or known.endpoints["accounts"][0]["address"]
    recipients = list(dict.fromkeys([*(to or []), *(cc or []), *(bcc or [])]))
    if not recipients:
        raise UsageError("nobody to send to", "name somebody with --to")
    if eml:
        try:
            message = eml.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        except OSError as why:
            raise UsageError(f"{eml}: {why.strerror}", "name a readable file") from why
    else:
        text = body if body is not None else ("" if sys.stdin.isatty() else sys.stdin.read())
        message = compose(author, to or [], cc or [], subject, text, attach or [])
    start = time.monotonic()
    with Smtp(Where.of(known.endpoints, "mta", WAYS[via])) as smtp:
        if via != "smtp":
            smtp.login(author, running.password_of(known, author))
        utf8 = "smtputf8" in smtp.extensions and not (message.partition(b"\r\n\r\n")[0] + "".join(recipients).encode()).isascii()
        refused = smtp.send(author, recipients, message, smtputf8=utf8)
    took = time.monotonic() - start
    if json:
        accepted = [one for one in recipients if one not in refused]
        show.as_json({"accepted": accepted, "refused": {one: f"{code} {text}" for one, (code, text) in refused.items()}, "seconds": round(took, 4)})
    else:
        show.line(f"accepted for {', '.join(one for one in recipients if one not in refused)} by {via} in {took * 1000:.0f} ms.")
        for one, (code, text) in refused.items():
            show.line(f"refused for {one}: {code} {text}")
    if refused:
        raise typer.Exit(1)


def _open(known: State, address: str, store: str | None) -> Imap:
    from stackctl import running
    from stackctl.clients.imap import Imap

    chosen = store or next(iter(known.endpoints["stores"]))
    session = Imap(Where.of(known.endpoints, chosen, "imaps"))
    session.login(address.lower(), running.password_of(known, address))
    return session


def _row(one: Summary) -> dict[str, Any]:
    return {"uid": one.uid, "from": one.sender, "subject": one.subject, "date": one.date, "size": one.size, "message_id": one.message_id}


def inbox(
    address: Annotated[str, typer.Argument(help="Whose mailbox: a user, or any address of the disposable domain.")],
    store: StoreOption = None,
    number: Annotated[int | None, typer.Option("--show", metavar="N", help="Show message N of the list (1 is the oldest, -1 the newest).")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="With --show: the octets as they are stored.")] = False,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """List a mailbox, or show one message of it. Nothing is marked as read.

    Example: stackctl inbox alice@example.test --show -1
    """
    from email import message_from_bytes, policy

    from stackctl import running

    with _open(running.named(name, file), address, store) as imap:
        imap.select("INBOX", readonly=True)
        rows = imap.summaries(imap.uids())
        if number is None:
            if json:
                show.as_json([_row(one) for one in rows])
            elif rows:
                show.table(("N", "FROM", "SUBJECT", "DATE", "OCTETS"), [(str(i), r.sender, r.subject, r.date, str(r.size)) for i, r in enumerate(rows, 1)])
            else:
                show.line(f"the INBOX of {address} is empty.")
            return
        if number == 0 or abs(number) > len(rows):
            raise UsageError(f"there is no message {number}", f"the INBOX holds {len(rows)}; 1 is the oldest, -1 the newest")
        one = rows[number - 1 if number > 0 else number]
        octets = imap.fetch(one.uid)
    if json:
        show.as_json({**_row(one), "raw": octets.decode("utf-8", "replace")})
    elif raw:
        sys.stdout.buffer.write(octets)
    else:
        message = message_from_bytes(octets, policy=policy.default)
        for key in ("From", "To", "Cc", "Subject", "Date"):
            if message[key]:
                show.line(f"{key}: {message[key]}")
        part = message.get_body(("plain", "html"))
        show.line()
        show.line(part.get_content().replace("\r\n", "\n") if part else "(no text)")
        for attachment in message.iter_attachments():
            show.line(f"[{attachment.get_filename() or attachment.get_content_type()}, {len(attachment.get_payload(decode=True) or b'')} octets]")


def wait(
    address: Annotated[str, typer.Argument(help="Whose mailbox: a user, or any address of the disposable domain.")],
    subject: Annotated[str | None, typer.Option("--subject", metavar="RE", help="A regular expression that the subject must match.")] = None,
    sender: Annotated[str | None, typer.Option("--from", metavar="ADDRESS", help="Who must have sent it.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many messages.")] = 1,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait; exit code 4 after that.")] = 30,
    store: StoreOption = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Wait until a message is there, old ones included; a new one is seen within milliseconds.

    Example: stackctl wait alice@example.test --subject "confirm.*" --timeout 10
    """
    import re

    from stackctl import running

    try:
        re.compile(subject or "")
    except re.error as why:
        raise UsageError(f"--subject {subject} is no regular expression: {why}", "put a backslash before characters that are meant as they are") from why
    known = running.named(name, file)
    chosen = store or next(iter(known.endpoints["stores"]))
    with _open(known, address, store) as imap:
        prompt = "idle-prompt" in known.endpoints["stores"][chosen]["provides"]
        found = imap.wait(subject=subject, sender=sender, count=count, timeout=timeout, prompt_idle=prompt)
    if json:
        show.as_json([_row(one) for one in found])
    else:
        show.table(("FROM", "SUBJECT", "DATE", "OCTETS"), [(r.sender, r.subject, r.date, str(r.size)) for r in found])


def talk(
    protocol: Annotated[str, typer.Argument(metavar="smtp|submission|imap|pop3", help="Whom to talk to.")],
    script: Annotated[Path | None, typer.Option("--script", metavar="FILE", help="What to say, a line each; standard input unless given.")] = None,
    tls: Annotated[bool, typer.Option("--tls/--no-tls", help="Be inside TLS before the first command (STARTTLS is done for you on port 25 and 587).")] = True,
    user: Annotated[str | None, typer.Option("--user", metavar="ADDRESS", help="Whose $USER, $PASSWORD and $PLAIN the script uses.")] = None,
    store: StoreOption = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Speak a protocol by hand and see both sides, C: and S:. Passwords are never shown.

    In the script $USER, $PASSWORD and $PLAIN (SASL PLAIN in base64) stand for a user's.

    Example: printf 'NOOP\\nQUIT\\n' | stackctl talk smtp
    """
    from dataclasses import replace

    from stackctl import running
    from stackctl.clients.talk import talk as conversation

    known = running.named(name, file)
    listeners = {"smtp": "smtp", "submission": "submission", "imap": "imaps" if tls else "imap", "pop3": "pop3s" if tls else "pop3"}
    if protocol not in listeners:
        raise UsageError(f"{protocol} is not spoken here", f"it is one of {', '.join(listeners)}")
    service = "mta" if protocol in ("smtp", "submission") else store or next(iter(known.endpoints["stores"]))
    where = Where.of(known.endpoints, service, listeners[protocol])
    if not tls:
        where = replace(where, tls="none")
    who = (user or known.endpoints["accounts"][0]["address"]).lower()
    try:
        lines = script.read_text(encoding="utf-8").splitlines() if script else (line.rstrip("\r\n") for line in sys.stdin)
    except OSError as why:
        raise UsageError(f"{script}: {why.strerror}", "name a readable file") from why
    said: list[str] = []
    good = conversation(where, "smtp" if service == "mta" else protocol, lines, said.append if json else show.line, (who, running.password_of(known, who)))
    if json:
        show.as_json({"ok": good, "dialogue": said})
    if not good:
        raise typer.Exit(1)
