"""Stacks that the benchmark makes and removes: stackctl as a person runs it, with a state folder and a CA of its own. It measures nothing."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackctl import command, engine


@dataclass(frozen=True)
class Bench:
    """Where everything of one run is. Names begin with bench- and carry this process's number: two runs do not meet."""

    folder: Path

    def name(self, what: str) -> str:
        return f"bench-{os.getpid()}-{what}"

    def environment(self) -> dict[str, str]:
        # Compiled modules must be kept, or each start would compile them again.
        own = {"STACKCTL_STATE": str(self.folder / "state"), "CAROOT": str(self.folder / "ca"), "PYTHONDONTWRITEBYTECODE": ""}
        return {**own, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}

    def stackctl(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Runs the program to its end; what it printed. Raises EngineError when it fails."""
        return command.run([sys.executable, "-m", "stackctl", *arguments], env=self.environment(), stdin=stdin).text

    def timed(self, *arguments: str) -> float:
        """How long a command takes from its start to its end, in milliseconds: what a person waits."""
        start = time.perf_counter()
        self.stackctl(*arguments)
        return since(start)

    @contextlib.contextmanager
    def removed(self, name: str) -> Iterator[str]:
        """A name under which things can be made; afterwards nothing of it is left, also after Ctrl-C."""
        try:
            yield name
        finally:
            engine.remove(name, volumes=True)

    @contextlib.contextmanager
    def up(self, what: str, *stores: tuple[str, str | None], **keys: Any) -> Iterator[dict[str, Any]]:
        """A stack that is up, with these stores (family and version; none: the default stack) and these keys of stack.yaml; its endpoints."""
        with self.removed(self.name(what)) as name:
            file = self.folder / f"{what}.yaml"
            chosen = {"stores": [{"backend": family, **({"version": version} if version else {})} for family, version in stores]} if stores else {}
            file.write_text(json.dumps({**chosen, **keys}))
            self.stackctl("up", "--file", str(file), "--name", name)
            found: dict[str, Any] = json.loads(self.stackctl("endpoints", "--name", name, "--secrets", "--json"))
            yield found


def since(start: float) -> float:
    """Milliseconds since a moment of time.perf_counter."""
    return (time.perf_counter() - start) * 1000
