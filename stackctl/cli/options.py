"""Options that many commands share. They hold no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[
    str | None,
    typer.Option("--name", "-n", metavar="NAME", envvar="STACKCTL_NAME", show_envvar=False, help="Which stack; $STACKCTL_NAME or the one of ./stack.yaml unless given."),
]
File = Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="The stack file; ./stack.yaml where there is one, else the demo stack.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
