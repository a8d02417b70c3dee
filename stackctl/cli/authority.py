"""Commands for the local CA and a stack's certificate."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import CheckFailed, UsageError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The local CA that signs every stack's certificate.\n\nExample: stackctl ca path")
    for command in (path, env, install, uninstall):
        group.command()(command)
    app.add_typer(group, name="ca")
    group = typer.Typer(rich_markup_mode=None, invoke_without_command=True, callback=certs)
    group.command()(client)
    group.command()(revoke)
    app.add_typer(group, name="certs")


def _authority(name: str | None) -> Path:
    """The CA of a stack where one is named, else the user's own; made where there is none yet."""
    from stackctl import ca, running

    if name:
        return Path(running.endpoints(running.named(name))["ca"])
    return ca.load_or_make_ca(ca.caroot(os.environ), [], datetime.now(UTC)).certificate_path


def path(name: Name = None, json: Json = False) -> None:
    """Print where the CA's certificate is.

    Example: curl --cacert "$(stackctl ca path)" …
    """
    found = str(_authority(name))
    if json:
        show.as_json({"path": found})
    else:
        show.line(found)


def env(name: Name = None, json: Json = False) -> None:
    """Print the variables by which programs trust the CA.

    Example: eval "$(stackctl ca env)"
    """
    from stackctl import ca

    variables = ca.environment(_authority(name), os.environ)
    if json:
        show.as_json(variables)
    else:
        for key, value in variables.items():
            show.line(f"export {key}={shlex.quote(value)}")


def install(name: Name = None, json: Json = False) -> None:
    """Make this machine and its browsers trust the CA; says what to run as root where it needs that.

    Example: stackctl ca install
    """
    _change("install", _authority(name), json)


def uninstall(name: Name = None, json: Json = False) -> None:
    """Take the CA out of every trust store again.

    Example: stackctl ca uninstall
    """
    from stackctl import ca

    place = _authority(name) if name else ca.caroot(os.environ) / ca.CERTIFICATE_FILE
    if not place.exists():
        raise UsageError(f"{place}: there is no CA", "nothing to take out; $CAROOT names the folder where yours is")
    _change("uninstall", place, json)


def _change(what: str, place: Path, json: bool) -> None:
    from stackctl import trust

    said: list[str] = []
    good = getattr(trust, what)(place, said.append if json else show.line)
    if json:
        show.as_json({"ok": good, "said": said})
    if not good:
        raise CheckFailed(f"ca {what}: not everywhere", "run what the lines above name")


def certs(context: typer.Context, file: File = None, name: Name = None, json: Json = False) -> None:
    """Show a stack's certificates: their names, how long they are good, who signed them; `certs client` makes one for a user, `certs revoke` takes it back.

    Example: stackctl certs
    """
    from stackctl import certificate, running, state

    if inner := context.invoked_subcommand:
        given = [f"--{key}" for key in ("file", "name", "json") if (source := context.get_parameter_source(key)) and source.name == "COMMANDLINE"]
        if given:
            raise UsageError(f"{given[0]} before '{inner}' would not count", f"write it behind: `stackctl certs {inner} … {given[0]}`")
        return
    folder = state.folder(running.named(name, file).name)
    shown = [{"path": str(place), **certificate.describe(place.read_bytes())} for place in (folder / "cert.pem", *sorted((folder / "sni").glob("*/cert.pem")))]
    if json:
        show.as_json({**shown[0], "sni": shown[1:]})
        return
    for number, found in enumerate(shown):
        show.line("\n" * bool(number) + f"file     {found.pop('path')}")
        for key, value in found.items():
            show.line(f"{key:<8} {', '.join(value) if isinstance(value, list) else value}")


def client(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The user, or an address of the disposable domain.")],
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Make a certificate with which a user logs in without a password, where the mechanism EXTERNAL is on; an earlier one stays good.

    Example: stackctl certs client alice@example.test
    """
    from stackctl import running

    found = running.client_certificate(running.named(name, file), address)
    if json:
        show.as_json(found)
    else:
        for key, value in found.items():
            show.line(f"{key:<12} {value}")


def revoke(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Whose certificates are taken back.")],
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Take back every certificate that a user has been given: it is no login any more. `certs client` makes a new one.

    Example: stackctl certs revoke alice@example.test
    """
    from stackctl import live, running

    serials = live.certificate_revoke(running.named(name, file), address)
    if json:
        show.as_json({"address": address, "revoked": serials})
    else:
        for serial in serials:
            show.line(f"revoked {serial}")
