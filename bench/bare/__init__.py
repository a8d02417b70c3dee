"""The servers of a stack without stackctl: the same images, a few files, one account, no alias, no hardening. It knows no server.

A folder per server says in container.yaml what to run; the other files are copied to /bare. $NAME in one of them stands for a place: see `Places`.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
import ssl
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from bench import native
from bench.stacks import Bench
from stackctl import ca, engine, images, inventory, ports, render
from stackctl.backends import Backend
from stackctl.errors import EngineError
from stackctl.labels import LABEL, volume_name
from stackctl.model import Debian, Stack

HERE = Path(__file__).resolve().parent
PASSWORD = "a-password-for-bare"  # in the files below, too


@dataclass(frozen=True)
class Places:
    """Where the servers listen, and where the MTA finds the store's LMTP."""

    ADDRESS: str = "0.0.0.0"
    SMTP: int = 25
    LMTP: int = 24
    IMAPS: int = 993
    STORE: str = "[store]:24"

    def into(self, content: bytes) -> bytes:
        return re.sub(rb"\$(ADDRESS|SMTP|LMTP|IMAPS|STORE)\b", lambda found: str(getattr(self, found[1].decode())).encode(), content)


class Server(Protocol):
    """A bare server, in a container or not."""

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Runs a program beside it; exit status and output."""

    def logs(self) -> str:
        """What it said so far."""

    def ended(self) -> str | None:
        """Why it will not answer, None while it runs."""

    def processor(self) -> float:
        """The processor time that it has used so far, in seconds."""


@dataclass(frozen=True)
class Container:
    """A server in a container."""

    id: str

    def run(self, argv: list[str]) -> tuple[int, str]:
        return engine.execute(self.id, argv)

    def logs(self) -> str:
        return engine.logs(self.id)

    def ended(self) -> str | None:
        return engine.last_words(self.id)

    def processor(self) -> float:
        used: float = inventory.client().api.stats(self.id, stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]["total_usage"]
        return used / 1e9


@dataclass(frozen=True)
class Pair:
    """An MTA and a store that run: where they listen, and the certificate authority of the store."""

    smtp: tuple[str, int]
    imaps: tuple[str, int]
    mta: Server
    store: Server
    authority: bytes
    ids: tuple[str, ...] = ()  # of their containers, the MTA's first

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.decode())


@dataclass(frozen=True)
class _Parts:
    """What the two servers are made of: their backends, their files, and the authority of the store's certificate."""

    mta: Backend
    store: Backend
    mta_files: dict[str, bytes]
    store_files: dict[str, bytes]
    authority: bytes


def default_mta() -> Backend:
    """The MTA of a stack that names none."""
    return render.services(Stack())[0].backend


def _parts(mta: Backend, store: Backend, places: Places) -> _Parts:
    now = datetime.now(UTC)
    authority = ca.make_ca(["example.test"], now)
    leaf = ca.make_leaf(authority, ["store.example.test"], now)
    store_files, mta_files = ({path.name: places.into(path.read_bytes()) for path in sorted((HERE / backend.name).iterdir())} for backend in (store, mta))
    delivery = store_files.pop("delivery.cf")  # how the default MTA brings it its mail; another has that in its own file
    if mta == default_mta():
        mta_files["main.cf"] += delivery
    store_files |= {"cert.pem": leaf.certificate, "key.pem": leaf.key, "bundle.pem": leaf.key + leaf.certificate}
    return _Parts(mta, store, mta_files, store_files, authority.certificate)


@contextlib.contextmanager
def pair(bench: Bench, store: Backend, mta: Backend | None = None) -> Iterator[Pair]:
    """This store and an MTA (the default one), bare, on a network of their own; nothing is left of them afterwards."""
    parts = _parts(mta or default_mta(), store, Places())
    with bench.removed(bench.name(f"bare-{parts.mta.name}-{store.name.replace('.', '-')}")) as name:
        inventory.client().api.create_network(name, labels={LABEL: name})
        engine.make_volumes(name, ["mail", "spool"])
        runs = [Container(_run(name, *what)) for what in (("store", store, parts.store_files), ("mta", parts.mta, parts.mta_files))]
        places = published(runs[1].id, 25), published(runs[0].id, 993)
        yield _answering(Pair(*places, runs[1], runs[0], parts.authority, (runs[1].id, runs[0].id)))


@contextlib.contextmanager
def outside(bench: Bench, store: Backend) -> Iterator[Pair]:
    """The same two outside containers, on this machine's loopback."""
    smtp, lmtp, imaps = (ports.free("127.0.0.1", set()) for _ in range(3))
    parts = _parts(default_mta(), store, Places("127.0.0.1", smtp, lmtp, imaps, f"[127.0.0.1]:{lmtp}"))
    tags = images.build([parts.mta, store], Debian())
    with tempfile.TemporaryDirectory(dir=bench.folder) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        runs = [
            stack.enter_context(native.started(bench, folder / role, tags[backend.name], yaml.safe_load(files["container.yaml"]), files, folder / "mail"))
            for role, backend, files in (("store", store, parts.store_files), ("mta", parts.mta, parts.mta_files))
        ]
        yield _answering(Pair(("127.0.0.1", smtp), ("127.0.0.1", imaps), runs[1], runs[0], parts.authority))


def _answering(pair: Pair) -> Pair:
    """The pair, as soon as it answers."""
    _listens(pair.mta, pair.smtp, b"220")
    _listens(pair.store, pair.imaps, b"")
    return pair


def _run(name: str, role: str, backend: Backend, files: Mapping[str, bytes]) -> str:
    """Starts one container; its id."""
    about: dict[str, Any] = yaml.safe_load(files["container.yaml"])
    image = images.build([backend], Debian())[backend.name]
    api = inventory.client().api
    open_ports = about.get("ports", [])
    host = api.create_host_config(
        binds=[f"{volume_name(name, volume)}:{path}" for volume, path in about["volumes"].items()],
        port_bindings={port: ("127.0.0.1",) for port in open_ports},
    )
    networks: Any = {"EndpointsConfig": {name: api.create_endpoint_config(aliases=[role])}}
    made = api.create_container(
        image,
        entrypoint=about["run"],
        user="0",
        hostname=f"{role}.example.test",
        labels={LABEL: name},
        ports=open_ports,
        host_config=host,
        networking_config=networks,
    )
    api.put_archive(made["Id"], "/", _archive(files))
    api.start(made["Id"])
    found: str = made["Id"]
    return found


def _archive(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"bare/{name}")
            # An hour old: a server that finds a table younger than two seconds reads it again and again.
            entry.size, entry.mode, entry.mtime = len(content), 0o755, time.time() - 3600
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def published(container: str, port: int) -> tuple[str, int]:
    """Where a port of a container is published."""
    [where] = inventory.inspect(container)["NetworkSettings"]["Ports"][f"{port}/tcp"]
    return where["HostIp"], int(where["HostPort"])


def _listens(server: Server, place: tuple[str, int], greeting: bytes) -> None:
    """Returns as soon as the server at a place answers. Raises EngineError."""
    deadline = time.monotonic() + 20
    while True:
        if why := server.ended():
            raise EngineError(f"the bare server {why}\n{server.logs()}")
        if greets(place, greeting):
            return
        if time.monotonic() > deadline:
            raise EngineError(f"nothing answers at {place[0]}:{place[1]}\n{server.logs()}")
        time.sleep(0.01)


def greets(place: tuple[str, int], greeting: bytes) -> bool:
    """Whether a server says what its greeting begins with; b"" for one that waits for the client's first octet, as TLS does."""
    with contextlib.suppress(OSError), socket.create_connection(place, 5) as sock:
        sock.settimeout(0.2 if not greeting else 5)
        try:
            data = sock.recv(100)
            return bool(data) and data.startswith(greeting)
        except TimeoutError:
            return not greeting
    return False
