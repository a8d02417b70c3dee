"""stack.yaml to a Stack: every problem in one run, each with its line and what to write instead. Never writes or starts anything.

Three steps: text to a tree of nodes that know their lines; tree to the model, with pydantic's findings
put in plain words; then what only the whole stack can tell (who is served where, which port is taken).
A part with a problem is taken out of the tree, so that the rest is still looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stackctl.enclosed import Enclosed
from stackctl.errors import UsageError
from stackctl.model import Stack
from stackctl.problems import Report
from stackctl.tree import MAX_OCTETS, Mapping, composed
from stackctl.validate import validate

DEFAULT = Path("stack.yaml")


@dataclass(frozen=True)
class Loaded:
    """A stack and where it comes from: `path` and `source` (its octets) are None and b"" for the built-in demo stack; `files` are what it names."""

    stack: Stack
    path: Path | None
    source: bytes
    files: tuple[Path, ...] = ()


def load(path: Path | None) -> Loaded:
    """The stack in `path`; without one, the one in ./stack.yaml, and without that the demo stack.

    Raises BadStack with every problem of the file, UsageError when it cannot be read.
    """
    if path is None and not DEFAULT.exists():
        return Loaded(Stack(), None, b"")
    path = path or DEFAULT
    try:
        with path.open("rb") as file:
            source = file.read(MAX_OCTETS + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", "`stackctl init` writes one") from None
    except (OSError, ValueError) as why:
        raise UsageError(f"{path}: cannot be read: {getattr(why, 'strerror', None) or why}", "name a readable file") from why
    report = Report(str(path))
    if len(source) > MAX_OCTETS:
        report.refuse(1, "larger than 1 MiB", "a stack.yaml is a few lines; is this the right file?")
    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as why:
        report.refuse(source.count(b"\n", 0, why.start) + 1, "not UTF-8", "save the file in the encoding UTF-8")
    stack, files = _parse(text, str(path), path.parent)
    return Loaded(stack, path, source, files)


def with_mta(loaded: Loaded, backend: str) -> Loaded:
    """The same stack with another MTA, under the name NAME-BACKEND so that both can run; its native settings and fixed ports stay behind.

    Raises BadStack where that MTA is unknown, or cannot do what the stack asks for.
    """
    where = f"{loaded.path or 'the demo stack'} with the MTA {backend}"
    other = composed(json.dumps({"name": f"{loaded.stack.name}-{backend}", "mta": {"backend": backend}}), Report(where)).entries

    def change(tree: Mapping) -> None:
        tree.entries |= other
        if isinstance(ports := tree.entries.get("ports", (0, None))[1], Mapping):
            ports.entries.pop("fixed", None)

    text = loaded.source.decode("utf-8") or "{}"
    stack, files = _parse(text, where, loaded.path.parent if loaded.path else Path(), change)
    return Loaded(stack, loaded.path, loaded.source, files)


def parse(text: str, where: str, folder: Path) -> Stack:
    """The stack that `text` describes. `where` is its name in messages, `folder` what the files are relative to that it names.

    Raises BadStack with every problem. What such a file holds is in the result as if it had been written in `text`.
    """
    return _parse(text, where, folder)[0]


def _parse(text: str, where: str, folder: Path, change: Callable[[Mapping], None] = lambda _: None) -> tuple[Stack, tuple[Path, ...]]:
    report = Report(where)
    tree = composed(text, report)
    change(tree)
    stack = validate(tree, report)
    checks = Enclosed(stack, tree, report)
    checks.stack = stack = stack.including(checks.includes(folder))
    checks.run()
    filters, users = checks.filters(folder, checks.passwords(folder))
    relayhost, routes = checks.next_hops(folder)
    host = checks.logins(folder)
    report.finish()
    return stack.model_copy(update={"users": users, "filters": filters, "relayhost": relayhost, "routes": routes, "host": host}), tuple(checks.files)
