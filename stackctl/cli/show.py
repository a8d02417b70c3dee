"""How results look on a terminal, and as JSON. It decides nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from stackctl.errors import StackctlError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


def as_json(value: object) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def line(text: str = "") -> None:
    """Prints a line to standard output."""
    print(text)


def note(text: str) -> None:
    """Prints a line to standard error, where it does not disturb a script that reads the output."""
    print(text, file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a plain table with aligned columns."""
    rows = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in [tuple(columns), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def pages(found: T, ways: Iterable[tuple[Path | None, Callable[[T], str]]]) -> None:
    """Writes something as each page that was asked for: a file, None for none, and what makes its text. Raises StackctlError."""
    for file, text in ways:
        if file:
            try:
                file.write_text(text(found), encoding="utf-8")
            except OSError as why:
                raise StackctlError(f"{file}: {why.strerror}", "choose a file in a folder that exists") from why


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A line that shows what is being done: moving on a terminal, one line per change in a log. Nothing where `quiet`."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield lambda text: status.update(text.replace("[", "\\["))
    else:
        yield lambda text: print(text, file=sys.stderr, flush=True)


def settings(endpoints: Mapping[str, Any]) -> None:
    """Prints what a mail client has to be told."""
    from stackctl import state
    from stackctl.clients.where import CLEAR, IMPLICIT, open_listeners

    rows = []
    for service, part in state.parts(endpoints).items():
        for listener, (host, port) in open_listeners(part).items():
            rows.append((service, listener, host, str(port), "TLS" if listener in IMPLICIT else "none" if listener in CLEAR else "STARTTLS"))
    table(("SERVICE", "PROTOCOL", "HOST", "PORT", "SECURITY"), rows)
    line()
    line(f"CA file    {endpoints['ca']}")
    for account in endpoints["accounts"]:
        line(f"user       {account['address']}" + (f"   password {account['password']}" if account["password"] else ""))
    for person in endpoints.get("host", {}).get("accounts", ()):
        line(f"login      {person['name']}" + (f"   password {person['password']}" if person["password"] else ""))
    disposable = endpoints["disposable"]
    line(f"disposable anything@{disposable['domain']}" + (f"   password {disposable['password']}" if disposable["password"] else ""))
