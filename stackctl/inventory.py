"""What the engine has of our stacks: containers, networks, volumes, images. It changes nothing there; `ask` is lent to who does.

Each question is one request to the engine's socket: its own program takes 30 ms of a processor to start, the client library 100 ms to load.
Where the engine is not behind a socket of this machine, the library asks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stackctl.errors import EngineError
from stackctl.labels import IMAGE, LABEL, PEER, SERVICE

if TYPE_CHECKING:
    import docker

_DEFAULT = "unix:///var/run/docker.sock"
_ANSWER_WITHIN = 120.0  # seconds: an engine that removes much at once may keep silent for long
_JSON = "application/json"
_NEXT = "`stackctl doctor` says what is missing, `stackctl doctor --fix` sets it up"


class Refused(EngineError):
    """The engine answers, and does not do what it was asked for."""


@dataclass(frozen=True)
class Container:
    """A container of a stack. `state` is the engine's word: running, paused, exited, created, dead."""

    id: str
    service: str
    state: str
    status: str
    image: str
    labels: Mapping[str, str]

    @property
    def running(self) -> bool:
        """Whether its server can answer."""
        return self.state == "running"


@dataclass(frozen=True)
class Found:
    """What the engine has of a stack, as `containers` and `volumes` tell it."""

    containers: tuple[Container, ...]
    volumes: tuple[str, ...]


def context(env: Mapping[str, str]) -> str:
    """The context of the engine's own program: which engine it speaks to, where $DOCKER_HOST does not say; "" where it is not set."""
    if env.get("DOCKER_CONTEXT"):
        return env["DOCKER_CONTEXT"]
    try:
        return str(json.loads((_settings(env) / "config.json").read_text(encoding="utf-8")).get("currentContext", ""))
    except (OSError, ValueError):
        return ""


def _settings(env: Mapping[str, str]) -> Path:
    """The folder of the settings of the engine's own program."""
    return Path(env.get("DOCKER_CONFIG") or Path(env.get("HOME", "/")) / ".docker")


@cache
def _place() -> tuple[str, Path | None]:
    """The engine's address, and the folder of the keys with which a context speaks to it. Raises EngineError for a context that is not there."""
    if host := os.environ.get("DOCKER_HOST"):
        return host, None
    named = context(os.environ)
    if named in ("", "default"):
        return _DEFAULT, None
    folder, id_ = _settings(os.environ) / "contexts", hashlib.sha256(named.encode()).hexdigest()
    try:
        host = json.loads((folder / "meta" / id_ / "meta.json").read_text(encoding="utf-8"))["Endpoints"]["docker"]["Host"]
    except (OSError, ValueError, LookupError) as why:
        raise EngineError(f"there is no docker context {named}", "`docker context ls` lists them; $DOCKER_CONTEXT or `docker context use` chooses one") from why
    keys = folder / "tls" / id_ / "docker"
    return host, keys if keys.is_dir() else None


@cache
def client() -> docker.DockerClient:
    """The library's connection to the engine that $DOCKER_HOST or the current context names. Raises EngineError when none answers."""
    import docker
    from docker.tls import TLSConfig

    host, keys = _place()
    with translated():
        if keys:
            tls = TLSConfig(client_cert=(str(keys / "cert.pem"), str(keys / "key.pem")), ca_cert=str(keys / "ca.pem"), verify=True)
            found = docker.DockerClient(host, tls=tls, timeout=int(_ANSWER_WITHIN))
        else:
            found = docker.from_env(timeout=int(_ANSWER_WITHIN), environment={**os.environ, "DOCKER_HOST": host})
        found.ping()
        return found


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Engine faults as EngineError."""
    import docker.errors
    import requests

    try:
        yield
    except docker.errors.APIError as why:
        raise _refused(str(why.explanation or why)) from why
    except (docker.errors.DockerException, requests.exceptions.RequestException) as why:
        raise EngineError(f"no container engine answers: {why}", _NEXT) from why


def _refused(words: str) -> Refused:
    hint = "free some space on the engine's disk: `docker system df` shows what takes it" if "no space left" in words else ""
    return Refused(f"the engine refused: {words}", hint)


def ask(path: str, body: Mapping[str, Any] | None = None, **filters: str) -> Any:
    """The answer to one request of the Engine API: POST with a body, else GET; `filters` limits what is listed.

    It is not broken off: the engine goes on with what it was asked for when nobody listens any more.
    Raises EngineError when no engine answers, Refused when it does not do it.
    """
    if filters:
        path += f"{'&' if '?' in path else '?'}filters={quote(json.dumps({key: [value] for key, value in filters.items()}))}"
    return json.loads(request("GET", path) if body is None else request("POST", path, json.dumps(body).encode()))


def request(method: str, path: str, body: bytes = b"", kind: str = _JSON, within: float | None = _ANSWER_WITHIN) -> bytes:
    """What the engine answers to one request with a body of this kind, as it comes; `within`: None for what takes as long as it takes. Raises as `ask` does."""
    if (host := _place()[0]).startswith("unix://"):
        status, answer = _answer(host.removeprefix("unix://"), method, path, body, kind, within)
    else:
        with translated():
            api = client().api
            came = api.request(method, f"{api.base_url}{path}", data=body, headers={"Content-Type": kind}, timeout=within)
            status, answer = came.status_code, came.content
    if status not in (200, 201):
        try:
            words = json.loads(answer)["message"]
        except (ValueError, LookupError, TypeError):
            words = answer.decode("utf-8", "replace")
        raise _refused(words)
    return answer


def _answer(place: str, method: str, path: str, body: bytes, kind: str, within: float | None) -> tuple[int, bytes]:
    """Status and body of what the engine behind a socket answers: in the manner of HTTP/1.0, with which it ends the connection after it."""
    head = f"{method} {path} HTTP/1.0\r\nHost: engine\r\n"
    if body:
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    chunks = []
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(within)
            asked.connect(place)
            with contextlib.suppress(BrokenPipeError):  # it has read enough of an archive, or refuses it: its answer says which
                asked.sendall(f"{head}\r\n".encode() + body)
            while chunk := asked.recv(1 << 16):
                chunks.append(chunk)
    except OSError as why:
        if not (chunks and isinstance(why, ConnectionResetError)):  # so it ends a connection of which it has not read everything
            raise EngineError(f"no container engine answers at {place}: {why}", _NEXT) from why
    said, _, answer = b"".join(chunks).partition(b"\r\n\r\n")
    words = said.split(maxsplit=2)
    if len(words) < 2 or not words[1].isdigit():
        raise EngineError(f"what answers at {place} is no container engine", _NEXT)
    return int(words[1]), answer


def _ours(stack: str | None) -> str:
    return f"{LABEL}={stack}" if stack else LABEL


def containers(stack: str | None = None, kind: str = SERVICE) -> tuple[Container, ...]:
    """The containers of a stack, or of every stack, that have the label `kind`: its services; stopped ones too, helpers not."""
    rows = ask("/containers/json?all=1", label=_ours(stack))
    return tuple(
        Container(row["Id"], row["Labels"][kind], row["State"], row["Status"], row["Image"], row["Labels"])
        for row in rows
        if kind in row["Labels"]
    )


def volumes(stack: str | None = None) -> tuple[str, ...]:
    """The names of the volumes of a stack, or of every stack."""
    return tuple(row["Name"] for row in ask("/volumes", label=_ours(stack))["Volumes"] or ())


def look(stack: str) -> Found:
    """What there is of a stack. Raises EngineError when no engine answers."""
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(volumes, stack)
        return Found(containers(stack), held.result())


def images() -> dict[str, Mapping[str, str]]:
    """The tags of every image that stackctl has built, with its labels."""
    return {tag: row["Labels"] for row in ask("/images/json", label=IMAGE) for tag in row["RepoTags"] or ()}


def inspect(container: str) -> dict[str, Any]:
    """What the engine knows of a container. Raises EngineError when it is gone."""
    found: dict[str, Any] = ask(f"/containers/{quote(container, safe='')}/json")
    return found


def working_set(container: str) -> int:
    """What a running container's cgroup holds, in octets, without the file pages that the kernel could drop at once."""
    stats = ask(f"/containers/{quote(container, safe='')}/stats?stream=0&one-shot=1")["memory_stats"]
    counted = stats["stats"]
    # cgroup v1 counts the container's whole tree under total_…, v2 has only one name
    inactive: int = counted.get("total_inactive_file", counted.get("inactive_file", 0))
    usage: int = stats["usage"]
    return usage - inactive


def wanted_by(peer: str) -> tuple[str, ...]:
    """The stacks that made a network to reach this one."""
    return tuple(row["Labels"][LABEL] for row in ask("/networks", label=f"{PEER}={peer}"))


def labelled() -> dict[str, list[str]]:
    """Every stack that has something in the engine, with what it has."""
    found: dict[str, list[str]] = {}
    for row in ask("/containers/json?all=1", label=LABEL):
        found.setdefault(row["Labels"][LABEL], []).append(f"container {row['Names'][0].lstrip('/')}")
    for row in ask("/networks", label=LABEL):
        found.setdefault(row["Labels"][LABEL], []).append(f"network {row['Name']}")
    for row in ask("/volumes", label=LABEL)["Volumes"] or ():
        found.setdefault(row["Labels"][LABEL], []).append(f"volume {row['Name']}")
    return found
