"""The servers of a stack without stackctl: the same images, a few files, one account, no alias, no hardening. It knows no server.

A folder per server says in container.yaml what to run; the other files are copied into the container at /bare.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from bench.stacks import Bench
from stackctl import ca, engine, images, inventory
from stackctl.backends import Backend, all_backends
from stackctl.errors import EngineError
from stackctl.labels import LABEL, volume_name
from stackctl.model import Debian

HERE = Path(__file__).resolve().parent
PASSWORD = "a-password-for-bare"  # in the files below, too


@dataclass(frozen=True)
class Pair:
    """An MTA and a store that run: where they listen, and the certificate authority of the store."""

    smtp: tuple[str, int]
    imaps: tuple[str, int]
    mta: str
    store: str
    authority: bytes

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.decode())


@contextlib.contextmanager
def pair(bench: Bench, store: Backend) -> Iterator[Pair]:
    """An MTA and this store, bare, on a network of their own; nothing is left of them afterwards."""
    mta = next(backend for backend in all_backends().values() if backend.role == "mta")
    with bench.removed(bench.name(f"bare-{store.name.replace('.', '-')}")) as name:
        now = datetime.now(UTC)
        authority = ca.make_ca(["example.test"], now)
        leaf = ca.make_leaf(authority, ["store.example.test"], now)
        tls = {"cert.pem": leaf.certificate, "key.pem": leaf.key, "bundle.pem": leaf.key + leaf.certificate}
        inventory.client().api.create_network(name, labels={LABEL: name})
        engine.make_volumes(name, ["mail", "spool"])
        store_files = {path.name: path.read_bytes() for path in sorted((HERE / store.name).iterdir())}
        mta_files = {path.name: path.read_bytes() for path in sorted((HERE / mta.name).iterdir())}
        mta_files["main.cf"] += store_files.pop("delivery.cf")
        runs = _run(name, "store", store, {**store_files, **tls}), _run(name, "mta", mta, mta_files)
        yield Pair(_listens(runs[1], 25, b"220"), _listens(runs[0], 993, b""), runs[1], runs[0], authority.certificate)


def _run(name: str, role: str, backend: Backend, files: Mapping[str, bytes]) -> str:
    """Starts one container; its id."""
    about: dict[str, Any] = yaml.safe_load(files["container.yaml"])
    image = images.build([backend], Debian())[backend.name]
    api = inventory.client().api
    ports = about.get("ports", [])
    host = api.create_host_config(
        binds=[f"{volume_name(name, volume)}:{path}" for volume, path in about["volumes"].items()],
        port_bindings={port: ("127.0.0.1",) for port in ports},
    )
    networks: Any = {"EndpointsConfig": {name: api.create_endpoint_config(aliases=[role])}}
    made = api.create_container(
        image,
        entrypoint=about["run"],
        user="0",
        hostname=f"{role}.example.test",
        labels={LABEL: name},
        ports=ports,
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


def _listens(container: str, port: int, greeting: bytes) -> tuple[str, int]:
    """Where a port of a container is published, as soon as the server behind it answers."""
    deadline = time.monotonic() + 20
    while True:
        if why := engine.last_words(container):
            raise EngineError(f"the bare container {why}\n{engine.logs(container)}")
        [where] = inventory.inspect(container)["NetworkSettings"]["Ports"][f"{port}/tcp"]
        place = where["HostIp"], int(where["HostPort"])
        with contextlib.suppress(OSError), socket.create_connection(place, 5) as sock:
            sock.settimeout(0.2 if not greeting else 5)
            try:
                data = sock.recv(100)
                if data and data.startswith(greeting):
                    return place
            except TimeoutError:
                if not greeting:  # it waits for the client's first octet, as TLS does
                    return place
        if time.monotonic() > deadline:
            raise EngineError(f"nothing answers on port {port} of the bare container\n{engine.logs(container)}")
        time.sleep(0.02)
