"""The command that shows a service in a browser: open. It starts no service."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import UsageError

WITHIN = 60.0  # seconds that --wait waits


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("open")(open_page)


def open_page(
    service: Annotated[str, typer.Argument(help="A service with a web page, such as webmail.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it answers, with a certificate that verifies; `up` does not.")] = False,
    print_only: Annotated[bool, typer.Option("--print", help="Print the address and start no browser.")] = False,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Print the address of a service's web page, and open it in a browser where there is one.

    Example: stackctl open webmail --wait
    """
    import webbrowser

    from stackctl import engine, running, state
    from stackctl.clients.probe import probe
    from stackctl.clients.where import Where

    known = running.named(name, file)
    pages = {key: part["url"] for key, part in state.parts(known.endpoints).items() if "url" in part}
    if service not in pages:
        hint = f"these have one: {', '.join(pages)}" if pages else "`webmail: {}` in stack.yaml adds one"
        raise UsageError(f"the stack {known.name} has no web page of {service}", hint)
    if wait:
        place, container = Where.of(known.endpoints, service, "https"), known.containers[service]
        with show.progress(quiet=json) as report:
            report(f"{service} answers …")
            probe(place, "http", time.monotonic() + WITHIN, lambda: engine.last_words(container), f"{service} https")
    if json:
        show.as_json({"url": pages[service]})
    else:
        show.line(pages[service])
    if not (print_only or json):
        webbrowser.open(pages[service])
