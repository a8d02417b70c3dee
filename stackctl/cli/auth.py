"""The commands for logins: auth test, auth token, auth otp, auth krb5-conf."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import UsageError
from stackctl.problems import shown

if TYPE_CHECKING:
    from stackctl.state import State

SERVICES = ("imap", "pop3", "smtp")
_YEAR = 366 * 24 * 3600


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    text = "Try logins.\n\nExample: stackctl auth test alice@example.test"
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=text)
    group.command("test")(test)
    group.command("token")(token)
    group.command("otp")(otp)
    group.command("krb5-conf")(krb5_conf)
    app.add_typer(group, name="auth")


def test(
    address: Annotated[str, typer.Argument(help="Who would log in.")],
    store: Annotated[str | None, typer.Option("--store", metavar="STORE", help="Ask this store alone.")] = None,
    service: Annotated[str, typer.Option("--service", help="For which protocol: imap, pop3, or smtp, for which the MTA is asked.")] = "imap",
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Ask for the password; else it is the one that the user has in the stack.")] = False,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Ask every store whether a password is right, and what it knows of its user. Exit code 1 where one refuses.

    Example: echo correct-horse | stackctl auth test alice@example.test --password-stdin
    """
    from stackctl import logins, running

    if service not in SERVICES:
        raise UsageError(f"no logins are called {shown(service)}", f"--service is one of {', '.join(SERVICES)}")
    if password_stdin and ask:
        raise UsageError("--ask and --password-stdin exclude each other", "leave one out")
    known = running.named(name, file)
    found = logins.test(known, address, _password(known, address, password_stdin, ask), service, store)
    if json:
        show.as_json([verdict.__dict__ for verdict in found])
    else:
        for verdict in found:
            show.line(f"==> {verdict.server}, {verdict.service}: {'accepted' if verdict.accepted else 'refused'} <==\n{verdict.output}")
    if not all(verdict.accepted for verdict in found):
        raise typer.Exit(1)


def token(
    address: Annotated[str, typer.Argument(help="Who logs in with it.")],
    valid: Annotated[int, typer.Option("--valid", metavar="SECONDS", min=-_YEAR, max=_YEAR, help="How long it is good; below 0, it has expired already.")] = 3600,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Print a token that is a login by OAUTHBEARER or XOAUTH2. Whoever has it can log in; nothing takes it back but the end of the account.

    Example: stackctl auth token alice@example.test --valid 600
    """
    from stackctl import running

    made = running.token(running.named(name, file), address, valid)
    if json:
        show.as_json(made)
    else:
        show.line(made["token"])


def otp(
    address: Annotated[str, typer.Argument(help="Who logs in with it.")],
    challenge: Annotated[str, typer.Argument(help="What the server asks, such as 'otp-sha1 999 ab12 ext'.")],
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Print the one-time password that answers a server's challenge: a login by OTP, once.

    Example: stackctl auth otp alice@example.test 'otp-sha1 999 ab12 ext'
    """
    from stackctl import running, verifier

    answer = verifier.one_time_password(challenge, running.password_of(running.named(name, file), address))
    if json:
        show.as_json({"address": address, "answer": answer})
    else:
        show.line(answer)


def krb5_conf(file: File = None, name: Name = None, json: Json = False) -> None:
    """Print a krb5.conf with which Kerberos programs get tickets of the stack, that are logins by GSSAPI.

    Example: stackctl auth krb5-conf >krb5.conf; KRB5_CONFIG=krb5.conf kinit alice
    """
    from stackctl import running

    made = running.krb5_conf(running.named(name, file))
    if json:
        show.as_json(made)
    else:
        show.line(made["krb5_conf"].rstrip())


def _password(known: State, address: str, from_stdin: bool, ask: bool) -> str:
    from stackctl import running

    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if ask:
        return str(typer.prompt("Password", hide_input=True))
    return running.password_of(known, address)
