"""One Compose file that runs a stack without stackctl. It starts nothing.

The files of the services are inside it, and a service that runs first puts them into the volumes; so it holds the private
key and the password hashes, and is written for its owner's eyes alone.
"""

from __future__ import annotations

import base64
import shlex
from pathlib import Path
from typing import Any

import yaml

from stackctl import compose, stack, state
from stackctl.backends import resource
from stackctl.labels import LABEL, config_volume
from stackctl.render import File, Files


def write(path: Path | None, name: str | None, output: Path) -> None:
    """Writes the file for a stack, mode 0600. Raises BadStack, and EngineError where an image has to be built and cannot be."""
    plan, known, tags = stack.prepare(path, name)
    project = compose.project(plan.stack, plan.services, tags, plan.files, known.ports)
    first: dict[str, Any] = {
        "image": tags[plan.services[0].backend.name],
        "pull_policy": "never",
        "network_mode": "none",
        "user": "0:0",
        "entrypoint": ["sh", "-euc", "\n".join(line for service in plan.services for line in _script(service.name, plan.files[service.name]))],
        "configs": [
            {"source": _key(service.name, path), "target": f"/in/{service.name}/{path}"} for service in plan.services for path in _given(plan.files[service.name])
        ],
        "volumes": [f"{config_volume(service.name)}:/out/{service.name}" for service in plan.services],
        "labels": {LABEL: plan.stack.name},
    }
    for service in project["services"].values():
        extended = service.pop("extends")
        fragment = yaml.safe_load((resource("compose") / Path(extended["file"]).name).read_text(encoding="utf-8"))["services"][extended["service"]]
        others = {name: {"condition": "service_started"} for name in service.get("depends_on", ())}
        service.update({**fragment, **service, "depends_on": {"files": {"condition": "service_completed_successfully"}, **others}})
    project["services"] = {"files": first, **project["services"]}
    # Compose would put variables in where it sees a dollar sign.
    project["configs"] = {
        _key(service.name, path): {"content": _text(file).replace("$", "$$")} for service in plan.services for path, file in _given(plan.files[service.name]).items()
    }
    head = f"# The stack {plan.stack.name} as one file: `docker compose -f {output.name} up`. It holds a private key: do not commit it.\n"
    state.write_private(output, (head + compose.text(project)).encode())


def _key(service: str, path: str) -> str:
    return f"{service}-{path}".replace("/", "-").replace(".", "-")


def _given(files: Files) -> Files:
    """The files that Compose is given: it knows none that is empty."""
    return {path: file for path, file in files.items() if file.content}


def _binary(file: File) -> bool:
    return b"\0" in file.content


def _text(file: File) -> str:
    """What Compose is given of a file: itself, or its base64 where it is no text."""
    return base64.b64encode(file.content).decode() if _binary(file) else file.content.decode()


def _script(service: str, files: Files) -> list[str]:
    """Puts one service's files where they belong, an hour old: a table that is younger than 2 s is read again and again."""
    lines = []
    for path, file in files.items():
        source, target = shlex.quote(f"/in/{service}/{path}"), shlex.quote(f"/out/{service}/{path}")
        lines.append(f"mkdir -p {shlex.quote(str(Path(f'/out/{service}/{path}').parent))}")
        given, source = (f"base64 -d {source} | ", "/dev/stdin") if _binary(file) else ("", source if file.content else "/dev/null")
        lines.append(f"{given}install -o {file.owner[0]} -g {file.owner[1]} -m {file.mode:04o} {source} {target}")
        lines.append(f"touch -d '1 hour ago' {target}")
    return lines
