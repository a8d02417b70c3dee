"""Commands for a whole stack: up, status, endpoints, pause, down and their like."""

from __future__ import annotations

import re
import shlex
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import CheckFailed, UsageError
from stackctl.labels import LABEL

if TYPE_CHECKING:
    from stackctl.steps import Up

SERVICE = "SERVICE: mta or the name of a store."


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (up, down, status, endpoints, env, port, pause, resume):
        app.command()(command)
    # What stands behind the service is the command's, options too: `shell mta postconf -h mail_version`.
    app.command(context_settings={"allow_interspersed_args": False})(shell)
    app.command("ls")(list_stacks)
    app.command()(prune)


def up(
    file: File = None,
    name: Name = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove the stack's mail, passwords and live users first.")] = False,
    json: Json = False,
) -> None:
    """Start a stack, or make a running one what its file says; ends when mail flows.

    Example: stackctl up --file stack.yaml
    """
    from stackctl import standing

    start = time.monotonic()
    found = None if fresh else standing.unchanged(file, name)
    if found and standing.stands(found):
        if json:
            show.as_json({"name": found.name, "changed": False, "seconds": round(time.monotonic() - start, 3), "steps": []})
        else:
            show.line(f"{found.name} is up and unchanged. `stackctl endpoints` shows where everything is.")
        return
    from stackctl import again

    with show.progress(quiet=json) as report:
        done = again.up(found, report) if found else None
        if not done:
            from stackctl import stack

            done = stack.up(file, name, fresh, report)
    seconds = time.monotonic() - start
    if json:
        steps = [{"what": s.what, "detail": s.detail, "seconds": round(s.seconds, 3), "ended_after": round(s.ended - start, 3)} for s in done.steps]
        show.as_json({"name": done.state.name, "changed": True, "seconds": round(seconds, 3), "steps": steps})
        return
    _what_happened(done, seconds)
    show.line()
    show.settings(done.state.endpoints)
    show.line()
    show.line("Passwords: `stackctl endpoints --secrets`. Try `stackctl send --to alice@example.test --subject hello`, `stackctl inbox alice@example.test`.")


def _what_happened(done: Up, seconds: float) -> None:
    show.table(("STEP", "DETAIL", "MS"), [(step.what, step.detail, f"{step.seconds * 1000:.0f}") for step in done.steps])
    show.line(f"{done.state.name} is up after {seconds:.2f} s.")


def down(
    file: File = None,
    name: Name = None,
    volumes: Annotated[bool, typer.Option("--volumes", "-v", help="Remove mail, passwords and ports too.")] = False,
    json: Json = False,
) -> None:
    """Take a stack down: its containers and its network. Mail is kept, unless --volumes.

    Example: stackctl down --volumes
    """
    from stackctl import running, standing

    where, _ = standing.source(file)
    chosen = name or standing.known_by(where) or _name_in(file)
    with show.progress(quiet=json) as report:
        report(f"{chosen} goes down …")
        removed = running.down(chosen, volumes)
    if json:
        show.as_json({"name": chosen, "removed": list(removed)})
    else:
        show.line("\n".join(f"removed {what}" for what in removed) if removed else f"{chosen} was not up.")


def _name_in(file: Any) -> str:
    from stackctl import load

    return load.load(file).stack.name


def status(file: File = None, name: Name = None, json: Json = False) -> None:
    """Show each service of a stack; exit code 1 unless all of them run.

    Example: stackctl status --json
    """
    from stackctl import running

    rows = running.status(running.named(name, file))
    if json:
        show.as_json([row.__dict__ for row in rows])
    else:
        show.table(
            ("SERVICE", "BACKEND", "VERSION", "STATE", "SINCE", "PORTS"),
            [(r.service, r.backend, r.version, r.state, r.since, " ".join(f"{key}={place.rpartition(':')[2]}" for key, place in r.ports.items())) for r in rows],
        )
    if dead := [row.service for row in rows if row.state != "running"]:
        raise CheckFailed(f"not running: {', '.join(dead)}", "`stackctl up` starts what is not, `stackctl resume` wakes a paused stack, `stackctl logs` says why")


def endpoints(
    file: File = None,
    name: Name = None,
    secrets: Annotated[bool, typer.Option("--secrets", help="Fill in the passwords.")] = False,
    json: Json = False,
) -> None:
    """Show where every service listens, and the CA file; with --json in a shape that stays.

    Example: stackctl endpoints --json --secrets
    """
    from stackctl import running

    found = running.endpoints(running.named(name, file), secrets)
    if json:
        show.as_json(found)
    else:
        show.settings(found)


def env(
    file: File = None,
    name: Name = None,
    form: Annotated[str, typer.Option("--format", metavar="dotenv|shell|json", help="How to print the variables.")] = "dotenv",
    secrets: Annotated[bool, typer.Option("--secrets", help="The passwords too.")] = False,
    json: Json = False,
) -> None:
    """Print the endpoints as environment variables, for a program under test.

    Example: eval "$(stackctl env --format shell)"
    """
    from stackctl import running

    if form not in ("dotenv", "shell", "json"):
        raise UsageError(f"--format {form} is not known", "it is dotenv, shell or json")
    found = running.endpoints(running.named(name, file), secrets)
    variables = running.environment(found)
    if json or form == "json":
        show.as_json(variables)
    else:
        for key, value in variables.items():
            show.line(f"export {key}={shlex.quote(value)}" if form == "shell" else f"{key}={_dotenv(value)}")


def _dotenv(value: str) -> str:
    """A value as dotenv files have it: bare, or where it holds anything particular in single quotes with \\ before \\ and '."""
    if re.fullmatch(r"[\w@%+:,./=-]*", value):
        return value
    return "'" + re.sub(r"([\\'])", r"\\\1", value) + "'"


def port(
    service: Annotated[str, typer.Argument(help="A listener (imaps), of the first store that has it, or of a service (courier.imaps).")],
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Print the port of a listener.

    Example: stackctl port dovecot.imaps
    """
    from stackctl import running, state
    from stackctl.clients.where import open_listeners

    found = running.endpoints(running.named(name, file))
    parts = {key: open_listeners(part) for key, part in state.parts(found).items()}
    owner, _, listener = service.rpartition(".")
    if owner and owner not in parts:
        raise UsageError(f"the stack {found['name']} has no service {owner}", f"it has {', '.join(parts)}")
    places = [part[listener] for key, part in parts.items() if owner in ("", key) and listener in part]
    if not places:
        known = sorted({key for part in parts.values() for key in part})
        raise UsageError(f"no open listener is called {service}", f"there are {', '.join(known)}")
    if json:
        show.as_json({"host": places[0][0], "port": places[0][1]})
    else:
        show.line(str(places[0][1]))


def _container(name: str | None, file: Any, service: str) -> str:
    from stackctl import running

    known = running.named(name, file)
    if service not in known.containers:
        raise UsageError(f"the stack {known.name} has no service {service}", f"it has {', '.join(known.containers)}")
    return known.containers[service]


def shell(
    service: Annotated[str, typer.Argument(help=SERVICE)],
    words: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="What to run instead of a shell.")] = None,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Open a shell in a service, or run one command there.

    Example: stackctl shell mta postqueue -p
    """
    import sys

    from stackctl import command, engine

    container = _container(name, file, service)
    words = words[1:] if words and words[0] == "--" else words  # as people write it for ssh(1) and docker(1)
    if json:
        status, output = engine.execute(container, words or ["true"])
        show.as_json({"exit_code": status, "output": output})
        raise typer.Exit(1 if status else 0)
    terminal = ["-it"] if sys.stdin.isatty() and sys.stdout.isatty() else ["-i"]
    command.replace(["docker", "exec", *terminal, container, *(words or ["sh"])])


def pause(file: File = None, name: Name = None, json: Json = False) -> None:
    """Freeze a stack: it keeps its memory and connections and costs no processor time.

    Example: stackctl pause
    """
    from stackctl import running

    known = running.named(name, file)
    running.pause(known)
    _said(json, known.name, "paused")


def resume(file: File = None, name: Name = None, json: Json = False) -> None:
    """Let a paused stack go on.

    Example: stackctl resume
    """
    from stackctl import running

    known = running.named(name, file)
    running.resume(known)
    _said(json, known.name, "resumed")


def _said(json: bool, name: str, what: str) -> None:
    if json:
        show.as_json({"name": name, "state": what})
    else:
        show.line(f"{name} is {what}.")


def list_stacks(name: Name = None, json: Json = False) -> None:
    """List the stacks that stackctl has made, running or not.

    Example: stackctl ls
    """
    from stackctl import inventory, state

    here: dict[str, dict[str, str]] = {}
    for one in inventory.containers():
        here.setdefault(one.labels[LABEL], {})[one.service] = one.state
    rows: list[dict[str, Any]] = []
    for stack in sorted({*here, *state.names()}):
        if name in (None, stack):
            states = here.get(stack, {})
            rows.append({"name": stack, "state": "/".join(sorted(set(states.values()))) or "down", "services": sorted(states), "file": _file_of(stack)})
    if json:
        show.as_json(rows)
    else:
        show.table(("NAME", "STATE", "SERVICES", "FILE"), [(r["name"], r["state"], " ".join(r["services"]), r["file"]) for r in rows])


def _file_of(name: str) -> str:
    from stackctl import state

    try:
        return state.load(name).source
    except UsageError:
        return "(state damaged)"


def prune(
    name: Name = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove what stacks have left: containers, networks and volumes of every stack that does not run, and their memory.

    Example: stackctl prune --yes
    """
    from stackctl import inventory, running, state

    alive = {one.labels[LABEL] for one in inventory.containers() if one.state in ("running", "paused")}
    found = {stack: what for stack, what in inventory.labelled().items() if stack not in alive and name in (None, stack)}
    for stack in state.names():
        if stack not in alive and name in (None, stack):
            found.setdefault(stack, []).append("its memory (passwords, ports)")
    if found and not yes and not json:
        for stack, what in sorted(found.items()):
            show.line(f"{stack}: {', '.join(what)}")
        typer.confirm("Remove all this? Mail in these volumes is lost.", abort=True)
    elif found and not yes:
        raise UsageError("prune --json asks nothing", "say --yes as well")
    removed = [f"{stack}: {what}" for stack in sorted(found) for what in running.down(stack, volumes=True)]
    if json:
        show.as_json({"removed": removed})
    else:
        show.line("\n".join(f"removed {what}" for what in removed) or "nothing to remove.")
