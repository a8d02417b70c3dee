"""The container engine, through its API. Knows containers and volumes, never what is in them.

Everything that is made here carries the stack's label, so that `down` and `prune` find exactly that.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from stackctl import command, inventory
from stackctl.errors import EngineError, PortTaken
from stackctl.inventory import Container, Refused, client, translated
from stackctl.labels import FILES, LABEL, PEER, config_volume, project_name, volume_name

if TYPE_CHECKING:

    from stackctl.render import Files

_HELPER = "/config"
WHOSE_PORT = "`ss -ltnp` shows by whom; `ports: {fixed: …}` in stack.yaml names another, without it a free one is taken"
# A table that is younger than 2 s makes Postfix read it again and again; an old one does not.
_PAST = 3600.0
_TRIES = 5  # of a pause
_SETTLED = 5.0  # seconds in which the engine ends what it was asked for
_PLUGINS = ("/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins")
_TAKEN = re.compile(r"port is already allocated|address already in use|ports are not available", re.IGNORECASE)
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Holds interrupts back for some hundredths of a second: the engine finishes what it was asked for even when nobody listens any more."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[object] = []
    before = {sign: handler for sign in _INTERRUPTS if (handler := signal.getsignal(sign)) is not signal.SIG_IGN}
    for sign in before:
        signal.signal(sign, lambda *which: held.append(which))
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler or signal.SIG_DFL)
    if held:
        raise KeyboardInterrupt


def make_volumes(stack: str, volumes: Sequence[str]) -> None:
    """Makes volumes by their names in the project, with the labels by which Compose takes them for its own."""
    with _undisturbed(), translated():
        for volume in volumes:
            labels = {LABEL: stack, "com.docker.compose.project": project_name(stack), "com.docker.compose.volume": volume}
            client().api.create_volume(volume_name(stack, volume), labels=labels)


def make_network(stack: str, network: str, labels: Mapping[str, str], options: Mapping[str, str]) -> None:
    """Makes a network by its name in the project, with the labels by which Compose takes it for its own; nothing where it is there already."""
    labels = {**labels, "com.docker.compose.project": project_name(stack), "com.docker.compose.network": network}
    with contextlib.suppress(EngineError):  # what is wrong, Compose will say
        inventory.ask("/networks/create", {"Name": volume_name(stack, network), "CheckDuplicate": True, "Labels": labels, "Options": dict(options)})


def join(stack: str, peer: str, container: str, aliases: Sequence[str]) -> None:
    """Puts a container of the stack `peer` into the network that `stack` made for the two, where it goes by `aliases`; nothing where it does so already."""
    import docker.errors

    with _undisturbed(), translated():
        for row in client().api.networks(filters={"label": [f"{LABEL}={stack}", f"{PEER}={peer}"]}):
            with contextlib.suppress(docker.errors.NotFound):  # it went down in the meantime
                here = client().api.inspect_container(container)["NetworkSettings"]["Networks"].get(row["Name"])
                if here and not set(aliases) <= set(here["Aliases"] or ()):
                    client().api.disconnect_container_from_network(container, row["Id"])
                    here = None
                if not here:
                    client().api.connect_container_to_network(container, row["Id"], aliases=list(aliases))


def fill(stack: str, image: str, services: Sequence[str], files: Mapping[str, Files]) -> None:
    """Puts files into the configuration volumes of services, as one archive through a container that has those of all `services`, and never starts.

    It stays until the stack goes: a container for each change would take longer than all else about it.
    """
    archive = _archive(files)

    def put(container: str) -> None:
        inventory.request("PUT", f"/containers/{container}/archive?path={_HELPER}", archive, "application/x-tar")

    with _undisturbed():
        labels = {LABEL: stack, FILES: " ".join(services)}
        for one in inventory.containers(stack, FILES):
            if (one.labels[FILES], one.image) == (labels[FILES], image):
                try:
                    return put(one.id)
                except inventory.Refused:  # say, it is being removed: by another, it seems
                    pass
            discard(one.id)
        binds = [f"{volume_name(stack, config_volume(service))}:{_HELPER}/{service}" for service in services]
        host = {"Binds": binds, "NetworkMode": "none"}
        made = inventory.ask(f"/containers/create?name={project_name(stack)}-files", {"Image": image, "Entrypoint": ["true"], "Labels": labels, "HostConfig": host})
        put(made["Id"])


def _archive(files: Mapping[str, Files]) -> bytes:
    out = io.BytesIO()
    # The pax format keeps fractions of a second: two versions within one second still differ.
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for service, tree in files.items():
            folders: set[str] = set()
            for path, file in tree.items():
                for parent in [str(p) for p in reversed(Path(path).parents) if str(p) != "."]:
                    if parent not in folders:
                        folders.add(parent)
                        entry = tarfile.TarInfo(f"{service}/{parent}")
                        entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, time.time() - _PAST
                        archive.addfile(entry)
                entry = tarfile.TarInfo(f"{service}/{path}")
                entry.size, entry.mode, (entry.uid, entry.gid) = len(file.content), file.mode, file.owner
                # Who takes new accounts may look at seconds and size alone: so that two versions within a second differ, each has seconds of its own.
                entry.mtime = time.time() - _PAST - (int(file.digest[:4], 16) % 3600 if file.on_change == "accounts" else 0)
                archive.addfile(entry, io.BytesIO(file.content))
    return out.getvalue()


def execute(container: str, argv: Sequence[str], user: str = "") -> tuple[int, str]:
    """Runs a program in a running container; (exit status, both outputs as text)."""
    made = inventory.ask(f"/containers/{container}/exec", {"Cmd": list(argv), "User": user, "AttachStdout": True, "AttachStderr": True})["Id"]
    output = _demultiplexed(inventory.request("POST", f"/exec/{made}/start", b"{}", within=None))
    return inventory.ask(f"/exec/{made}/json")["ExitCode"], output.decode("utf-8", "replace")


def _demultiplexed(stream: bytes) -> bytes:
    """What is in the frames of a stream of two outputs: eight octets, of which the last four are the length of what follows (Engine API, attach)."""
    parts, at = [], 0
    while at < len(stream):
        end = at + 8 + int.from_bytes(stream[at + 4 : at + 8], "big")
        parts.append(stream[at + 8 : end])
        at = end
    return b"".join(parts)


def try_out(image: str, files: Files, argv: Sequence[str], stack: str) -> tuple[int, str]:
    """Runs a program once in a new container that holds these files and no network; (exit status, output). It is removed again."""
    with translated():
        api = client().api
        made = api.create_container(
            image, entrypoint=list(argv), labels={LABEL: stack}, network_disabled=True, user="0", host_config=api.create_host_config(cap_drop=["NET_RAW"])
        )
        try:
            api.put_archive(made["Id"], "/etc", _archive({"stackctl": files}))
            api.start(made["Id"])
            status = api.wait(made["Id"], timeout=60)["StatusCode"]
            return status, api.logs(made["Id"]).decode("utf-8", "replace")
        finally:
            api.remove_container(made["Id"], force=True)


def beside(
    stack: str, container: str, image: str, argv: Sequence[str], labels: Mapping[str, str], capabilities: Iterable[str]
) -> str:
    """Starts a helper with these arguments in the network of a running container; its id."""
    with _undisturbed(), translated():
        api = client().api
        allowed = api.create_host_config(
            network_mode=f"container:{container}",
            cap_drop=["ALL"],
            cap_add=list(capabilities),
            security_opt=["no-new-privileges:true"],
            read_only=True,
            pids_limit=50,
        )
        made: str = api.create_container(image, command=list(argv), labels={LABEL: stack, **labels}, host_config=allowed)["Id"]
        try:
            api.start(made)
        except BaseException:
            api.remove_container(made, force=True)
            raise
        return made


def discard(container: str) -> None:
    """Removes a helper, whatever it is at."""
    with _undisturbed(), translated():
        client().api.remove_container(container, force=True)


def logs(container: str, tail: int | None = None) -> str:
    """What a container logged so far."""
    with translated():
        text: str = client().api.logs(container, tail="all" if tail is None else tail).decode("utf-8", "replace")
        return text


def last_words(container: str) -> str | None:
    """Why a container will not answer any more, or None while it runs."""
    state = inventory.inspect(container)["State"]
    if state["Running"]:
        return None
    lines = [line for line in logs(container, 20).splitlines() if line.strip()]
    return f"exited ({state['ExitCode']}): {lines[-1] if lines else 'without a word'}"


def each(action: str, chosen: Sequence[Container]) -> None:
    """Does pause, unpause, start, stop, kill or restart to containers, all at once."""
    with translated(), ThreadPoolExecutor(max(1, len(chosen))) as pool:
        list(pool.map(lambda one: _do(action, one.id), chosen))


def _do(action: str, container: str) -> None:
    import docker.errors

    for left in reversed(range(_TRIES)):
        try:
            getattr(client().api, action)(container)
            return
        except docker.errors.APIError as why:
            # On a busy machine the kernel may not have stopped every process when the runtime looks for the last time.
            if not left or "unable to freeze" not in str(why):
                raise


def compose(
    arguments: Sequence[str], stack: str, file: Path | None = None, check: bool = True, on_line: Callable[[str], None] | None = None
) -> command.Done:
    """Runs `docker compose` on a stack's project; `on_line` sees what it says as it comes. Raises EngineError with its last lines."""
    where = ["-f", str(file)] if file else []
    return command.run([*_compose_program(), "-p", project_name(stack), *where, *arguments], check=check, env={"COMPOSE_IGNORE_ORPHANS": "0"}, on_line=on_line)


def start(stack: str, file: Path, started: Mapping[str, threading.Event], ports: Mapping[str, int]) -> None:
    """Has Compose start what a project's file names and what is not running; `started` tells of each service as soon as it runs.

    Raises EngineError; PortTaken where another program has the port of a listener in `ports` by now.
    """

    def heard(line: str) -> None:  # "Container stackctl-demo-mta-1  Started"
        match line.split():
            case ["Container", name, "Started" | "Running", *_]:
                service = name.removeprefix(f"{project_name(stack)}-").rpartition("-")[0]
                started[service].set() if service in started else None

    done = compose(["up", "-d", "--remove-orphans", "--no-build", "-t", "5"], stack, file, check=False, on_line=heard)
    if done.status != 0:
        raise _compose_error(done.last_words, ports)


def _compose_error(words: str, ports: Mapping[str, int]) -> EngineError:
    if _TAKEN.search(words):
        listener = next((key for key, port in ports.items() if re.search(rf":{port}\b", words)), "")
        named = f"{listener} ({ports[listener]})" if listener else "a port"
        return PortTaken(f"{named} was taken by another program just now:\n{words}", WHOSE_PORT, listener)
    if "no space left" in words:
        return EngineError(f"the engine's disk is full:\n{words}", "`docker system df` shows what takes it, `stackctl prune` removes what stackctl left")
    return EngineError(f"docker compose up failed:\n{words}", "`stackctl doctor` checks the engine")


@cache
def _compose_program() -> tuple[str, ...]:
    """Compose itself where it is in one of the places for plugins of the client, which would only look for it: 40 ms; else by way of the client."""
    own = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "cli-plugins"
    for folder in (own, *map(Path, _PLUGINS)):  # in the client's own order
        if os.access(program := folder / "docker-compose", os.X_OK):
            return (str(program),)
    return ("docker", "compose")


def remove(stack: str, volumes: bool) -> tuple[str, ...]:
    """Removes what carries a stack's label: containers and network, with `volumes` the volumes too; says what it removed.

    A second Ctrl-C does not stop it half-way. What the engine refuses is tried again: it may still be at work on what it was asked for before.
    """
    removed: list[str] = []
    deadline = time.monotonic() + _SETTLED
    with _undisturbed():
        while True:
            try:
                _remove(stack, volumes, removed)
                return tuple(dict.fromkeys(removed))
            except Refused:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)


def _remove(stack: str, volumes: bool, removed: list[str]) -> None:
    with translated(), ThreadPoolExecutor(8) as pool:
        api = client().api
        rows = api.containers(all=True, filters={"label": f"{LABEL}={stack}"})
        list(pool.map(lambda row: api.remove_container(row["Id"], force=True), rows))
        removed += [f"container {row['Names'][0].lstrip('/')}" for row in rows]
        for row in api.networks(filters={"label": f"{LABEL}={stack}"}):
            if PEER in row["Labels"]:  # the other stack's server is in it, and stays
                for other in api.inspect_network(row["Id"])["Containers"] or {}:
                    api.disconnect_container_from_network(other, row["Id"], force=True)
            api.remove_network(row["Id"])
            removed.append(f"network {row['Name']}")
        found = inventory.volumes(stack) if volumes else ()
        list(pool.map(api.remove_volume, found))
        removed += [f"volume {volume}" for volume in found]


def fetch(container: str, folder: str) -> dict[str, bytes]:
    """The files in a folder of a container, by their path below it."""
    with translated():
        chunks, _ = client().api.get_archive(container, folder)
        data = b"".join(chunks)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            if entry.isfile() and (handle := archive.extractfile(entry)):
                found[entry.name.partition("/")[2]] = handle.read()
    return found
