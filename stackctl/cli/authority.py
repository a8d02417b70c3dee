"""Commands for the local CA and a stack's certificate."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

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
    app.command()(certs)


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


def certs(file: File = None, name: Name = None, json: Json = False) -> None:
    """Show a stack's certificate: its names, how long it is good, who signed it.

    Example: stackctl certs
    """
    from stackctl import certificate, running, state

    known = running.named(name, file)
    place = state.folder(known.name) / "cert.pem"
    found = certificate.describe(place.read_bytes())
    if json:
        show.as_json({"path": str(place), **found})
    else:
        show.line(f"file     {place}")
        for key, value in found.items():
            show.line(f"{key:<8} {', '.join(value) if isinstance(value, list) else value}")
