"""From the model to a Compose project: the file that `docker compose` runs. Pure: it starts nothing.

The services extend the fragments in compose/, one per role; what is particular to a server comes from
its backend.yaml.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from stackctl.backends import directory, resource
from stackctl.labels import LABEL, NETWORK, PEER, SERVICE, config_volume, project_name, volume_name
from stackctl.model import Stack
from stackctl.render import CONFIG, DIRECTORY, Files, Service, routes, shown

STATIC = "org.stackctl.static"
Ports = Mapping[str, int]  # "dovecot.imaps" -> the published port


def volumes(stack: Stack, services: tuple[Service, ...]) -> tuple[str, ...]:
    """Every volume of a stack, by its name in the project."""
    found = [config_volume(service.name) for service in services]
    return tuple(found + [f"{volume}-{service.name}" for service in services for volume in service.container.volumes])


def listeners(stack: Stack, service: Service) -> tuple[str, ...]:
    """The listeners of a service that are open: those that stack.yaml names, and no plain-text ones where it says so. Port 25 is always open."""
    return tuple(
        name
        for name, listener in service.backend.listeners.items()
        if service.opens(name)
        and (name != "telnet" or (stack.host and stack.host.telnet))
        and (stack.tls.plaintext_listeners or not listener.plaintext)
    )


def project(stack: Stack, services: tuple[Service, ...], images: Mapping[str, str], files: Mapping[str, Files], ports: Ports) -> dict[str, Any]:
    """The Compose project of a stack.

    `images` names the image of each backend, `files` the rendered files by service, `ports` the published ports.
    """
    made = {service.name: _service(stack, service, images, files[service.name], ports) for service in services}
    unhurried = [service.name for service in services if service.backend.unhurried]
    for name in unhurried:  # it takes nothing from those that mail waits for
        made[name]["depends_on"] = [other for other in made if other not in unhurried]
    return {
        "name": project_name(stack.name),
        "services": made,
        "networks": {NETWORK: network(stack), **{link(peer): _link(stack, peer) for peer in stack.peers}},
        "volumes": {volume: {"name": volume_name(stack.name, volume), "labels": {LABEL: stack.name}} for volume in volumes(stack, services)},
    }


def text(project: Mapping[str, Any]) -> str:
    """A project as YAML."""
    return yaml.dump(dict(project), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, width=150)


def network(stack: Stack) -> dict[str, Any]:
    """The network of a stack: its labels and the options of its driver."""
    # An internal network publishes no ports. A bridge without masquerading does, and nothing gets out of it.
    way_out = "true" if stack.reaches_outside else "false"
    return {"labels": {LABEL: stack.name}, "driver_opts": {"com.docker.network.bridge.enable_ip_masquerade": way_out}}


def link(peer: str) -> str:
    """The network that joins a stack's MTA to that of another stack, by its name in the project."""
    return f"to-{peer}"


def _link(stack: Stack, peer: str) -> dict[str, Any]:
    # Internal: it never becomes the way of published ports, and leads nowhere else.
    return {"internal": True, "labels": {LABEL: stack.name, PEER: peer}}


def _service(stack: Stack, service: Service, images: Mapping[str, str], files: Files, ports: Ports) -> dict[str, Any]:
    container = service.container
    mounts = [f"{config_volume(service.name)}:{CONFIG}:ro"]
    mounts += [f"{volume}-{service.name}:{path}" for volume, path in container.volumes.items()]
    if service.role == "mta":
        mounts += [f"{route.volume}-{route.store}:{route.path}" for route in routes(stack) if route.volume]
    if service.backend.works_in and (store := shown(stack)):
        mounts.append(f"{service.backend.works_in}-{store.name}:{store.container.volumes[service.backend.works_in]}")
    keeper = directory(stack.accounts.backend)
    if keeper and service.role in ("mta", "store"):
        mounts.append(f"{keeper.shared}-{DIRECTORY}:{keeper.container.volumes[keeper.shared]}:ro")
    static = hashlib.sha256(repr([(path, file.digest) for path, file in sorted(files.items()) if file.on_change == "restart"]).encode())
    found: dict[str, Any] = {
        "extends": {"file": str(resource("compose") / f"{service.role}.yaml"), "service": service.role},
        "image": images[service.backend.name],
        "pull_policy": "never",
        "hostname": service.hostname,
        "labels": {LABEL: stack.name, SERVICE: service.name, STATIC: static.hexdigest()[:16]},
        "networks": [NETWORK, *(link(peer) for peer in stack.peers if service.role == "mta")],
        "pids_limit": stack.limits.pids,
        "volumes": mounts,
        "tmpfs": [f"{path}:{options}" for path, options in container.tmpfs.items()],
        "ports": [f"{stack.ports.address}:{ports[f'{service.name}.{name}']}:{service.backend.listeners[name].port}" for name in listeners(stack, service)],
        "stop_signal": container.stop_signal,
    }
    if not service.backend.listeners:  # it is reached by a volume alone
        del found["networks"], found["ports"]
        found["network_mode"] = "none"
    if container.capabilities:
        found["cap_add"] = list(container.capabilities)
    if container.user:
        found["user"] = container.user
    if stack.limits.memory:
        found["mem_limit"] = stack.limits.memory
    return found
