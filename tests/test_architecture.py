"""The rules that keep the code in one direction, read from its syntax trees: who imports whom, who starts processes, opens sockets, prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from stackctl.backends import all_backends

PACKAGE = Path(__file__).parents[1] / "stackctl"
# A module imports from layers above its own, or from its own where that makes no ring. A new module gets its place here.
LAYERS = (
    ("", "errors", "resource", "labels", "features"),
    ("model", "problems", "logformat"),
    ("tree", "backends", "addresses", "ca", "certificate", "command", "inventory", "apt", "clients", "corpus", "ports", "verifier", "tokens", "kerberos"),
    ("trust", "doctor", "schema", "validate", "known", "mechanisms", "crosschecks", "enclosed", "load", "render", "images"),
    ("foreign", "conversion", "sections", "rewriting", "migration"),
    ("compose",),
    ("engine",),
    ("state",),
    ("standing", "peers", "logbook", "steps", "directory"),
    ("running",),
    ("trace", "start", "filters", "logins", "traffic", "mta", "queue", "lines"),
    ("contents", "mailbox", "belongings", "preload"),
    ("moving",),
    ("stack", "again"),
    ("live", "export", "preview", "faults"),
    ("config", "reset"),
    ("testcontainers",),
    ("scenario",),
    ("suite",),
    ("scenarios",),
    ("report", "comparison", "matrix"),
    ("observing", "page"),
    ("comparing",),
    ("cli", "testing"),
    ("__main__",),
)
LINES = 600
# Who may open a socket besides clients/, and why.
SOCKETS = {
    "ports": "asks the kernel for free ports, by binding to them",
    "inventory": "asks the engine, by its socket on this machine",
    "ca": "reads this machine's name for the CA's subject; opens none",
}
# Server names in code: the defaults of the model are what the built-in stack is made of.
NAMED = {("model", "postfix"), ("model", "dovecot"), ("model", "courier"), ("model", "roundcube")}
SERVERS = {"postfix", "dovecot", "courier", "exim", "sendmail", "cyrus", "opensmtpd"}


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").relative_to(PACKAGE).parts).removesuffix("__init__").rstrip(".")


@cache
def trees() -> dict[str, ast.Module]:
    return {module(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py")) if "_data" not in path.parts}


MODULES = sorted(trees())


def imports(name: str) -> set[str]:
    """Modules of this package that a module imports, at its top or inside a function; those for types alone count too."""
    found = set()
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "stackctl":
            base = node.module.removeprefix("stackctl").lstrip(".")
            found |= {full if (full := f"{base}.{alias.name}".lstrip(".")) in trees() else base for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("stackctl").lstrip(".") for alias in node.names if alias.name.split(".")[0] == "stackctl"}
    return found - {name}


def others(name: str) -> set[str]:
    """Packages from elsewhere that a module imports."""
    found = set()
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def layer(name: str) -> int:
    part = name.split(".")[0]
    places = [number for number, names in enumerate(LAYERS) if part in names]
    assert places, f"{name} has no place in LAYERS"
    return places[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    wrong = [other for other in imports(name) if layer(other) > layer(name)]
    assert not wrong, f"{name} imports {wrong}, which stand to its right"


def test_no_ring_of_imports() -> None:
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a ring: {' -> '.join((*path, name))}"
        if name not in done:
            for other in imports(name):
                walk(other, (*path, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_only_command_starts_processes(name: str) -> None:
    assert "subprocess" not in others(name) or name == "command"
    started = {"system", "popen", "spawnl", "spawnv", "fork", "posix_spawn", *(f"exec{how}" for how in ("l", "le", "lp", "v", "ve", "vp", "vpe"))}
    calls = {node.func.attr for node in ast.walk(trees()[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    assert not calls & started or name == "command", f"{name} calls {calls & started}"


@pytest.mark.parametrize("name", MODULES)
def test_only_clients_open_sockets(name: str) -> None:
    network = {"socket", "ssl", "smtplib", "imaplib", "poplib", "http", "asyncio", "ftplib", "telnetlib", "urllib"} & others(name)
    if name.startswith("clients") or name in SOCKETS:
        return
    opened = [
        ast.unparse(node.func)
        for node in ast.walk(trees()[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in network - {"urllib"}
    ]
    assert not opened, f"{name} calls {opened}"


@pytest.mark.parametrize("name", MODULES)
def test_only_the_command_line_prints(name: str) -> None:
    if name.startswith("cli") or name == "__main__":
        return
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "typer.echo", "sys.stdout.write", "sys.stderr.write", "sys.exit"), f"{name}:{node.lineno} calls {called}"
    assert "typer" not in others(name) and "click" not in others(name)


@pytest.mark.parametrize("name", MODULES)
def test_no_catch_all_and_no_shell(name: str) -> None:
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            # Cleaning up and raising again loses nothing, and neither does handing the error to another thread.
            whole = caught in ("everything", "BaseException") and any(isinstance(inner, ast.Raise) or _hands_over(inner, node.name) for inner in ast.walk(node))
            assert caught not in ("Exception", "everything", "BaseException") or whole, f"{name}:{node.lineno} catches {caught}"
        if isinstance(node, ast.keyword) and node.arg == "shell":
            assert ast.unparse(node.value) == "False", f"{name}:{node.value.lineno} uses a shell"


def _hands_over(node: ast.AST, caught: str | None) -> bool:
    return isinstance(node, ast.Call) and any(isinstance(inner, ast.Name) and inner.id == caught for argument in node.args for inner in ast.walk(argument))


@pytest.mark.parametrize("name", MODULES)
def test_no_server_is_named(name: str) -> None:
    known = SERVERS | {backend.family for backend in all_backends().values()}
    pattern = re.compile("|".join(sorted(known)), re.IGNORECASE)
    found = {(name, word.lower()) for text in texts(trees()[name]) for word in pattern.findall(text)}
    assert not found - NAMED, f"ask what a backend provides, not who it is: {sorted(found - NAMED)}"


def texts(tree: ast.Module) -> Iterator[str]:
    """Every text in code, without docstrings, and without what is written for people as an example: help and descriptions."""
    shown = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg in ("help", "description") for inner in ast.walk(node.value)}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            shown.add(id(body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in shown:
            yield node.value


def test_every_text_but_docstrings_and_help_is_looked_at() -> None:
    """The negative twin: the tests above would see what they look for."""
    seen = list(texts(ast.parse('"""a"""\ndef f():\n    """b"""\n    g("c", help="d", x="e")\nh = f"f{1}"')))
    assert sorted(seen) == ["c", "e", "f"]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    said = ast.get_docstring(trees()[name])
    assert said and said.split("\n")[0].rstrip().endswith((".", "`", ":")), f"{name} does not say what it is"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_too_long(name: str) -> None:
    path = PACKAGE / (name.replace(".", "/") + ".py") if name else PACKAGE / "__init__.py"
    path = path if path.exists() else PACKAGE / name.replace(".", "/") / "__init__.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES
