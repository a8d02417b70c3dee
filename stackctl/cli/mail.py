"""Commands that send and read mail: send, inbox, wait, talk."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
