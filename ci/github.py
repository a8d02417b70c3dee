"""What action.yml and ci/report/action.yml run: `images`, `up` and `report`, with the program `stackctl` that they have installed.

A password reaches the job's variables only after the runner was told to mask it, and never an output or the summary.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECRET = "PASSWORD"  # in the name of every variable that holds one


def stackctl(*arguments: str) -> str:
    """The output of a command; what it says on standard error goes to the job's log. Ends the step where it fails, with its exit code."""
    done = subprocess.run(["stackctl", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def file() -> list[str]:
    """The option that names stack.yaml, where the job does."""
    return ["--file", os.environ["STACKCTL_FILE"]] if os.environ.get("STACKCTL_FILE") else []


def tell(where: str, values: Mapping[str, object]) -> None:
    """Adds values to one of the runner's files: $GITHUB_OUTPUT, $GITHUB_ENV."""
    with open(os.environ[where], "a", encoding="utf-8") as out:
        out.writelines(f"{name}={value}\n" for name, value in values.items())


def tags() -> list[str]:
    """The images that the stack needs."""
    return sorted(json.loads(stackctl("build", "--dry-run", "--json", *file())).values())


def archive() -> Path:
    """Where images are kept between jobs."""
    return Path(os.environ["RUNNER_TEMP"]) / "stackctl-images" / "images.tar"


def images() -> None:
    """Names the images, which is what a cache is asked for."""
    key = hashlib.sha256("\n".join(tags()).encode()).hexdigest()[:16]
    tell("GITHUB_OUTPUT", {"path": archive().parent, "key": f"stackctl-images-{key}"})


def up() -> None:
    """Starts the stack with the images of the cache, and tells the job where everything is."""
    kept = archive()
    if kept.exists():
        subprocess.run(["docker", "load", "--quiet", "--input", str(kept)], check=True)
    said = stackctl("up", *file())
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["docker", "save", "--output", str(kept), *tags()], check=True)
    variables: dict[str, str] = json.loads(stackctl("env", "--format", "json", "--secrets"))
    for name, value in variables.items():
        if SECRET in name:
            print(f"::add-mask::{value}", flush=True)
    tell("GITHUB_ENV", variables)
    places = Path(os.environ["RUNNER_TEMP"]) / "stackctl-endpoints.json"
    with open(os.open(places, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(stackctl("endpoints", "--json", "--secrets"))
    found: dict[str, Any] = json.loads(places.read_text(encoding="utf-8"))
    store = next(iter(found["stores"].values()))
    listeners = {"smtp": found["mta"], "submission": found["mta"], "submissions": found["mta"], "imaps": store, "pop3s": store}
    ports = {name: part[name][1] for name, part in listeners.items() if part.get(name)}
    tell("GITHUB_OUTPUT", {**ports, "ca": found["ca"], "endpoints": places})
    with open(os.environ["GITHUB_STEP_SUMMARY"], "a", encoding="utf-8") as out:
        out.write(f"### Mail stack {found['name']}\n\n```text\n{said}```\n")


def report() -> None:
    """Collects what the servers logged and what waits in the queue; a stack that is not up leaves the files empty."""
    folder = Path(os.environ["RUNNER_TEMP"]) / "stackctl-report"
    folder.mkdir(exist_ok=True)
    commands = {"logs.txt": ["logs"], "problems.txt": ["logs", "--problems"], "queue.json": ["queue", "list", "--json"], "status.txt": ["status"]}
    for name, arguments in commands.items():
        done = subprocess.run(["stackctl", *arguments], stdout=subprocess.PIPE, check=False)
        (folder / name).write_bytes(done.stdout)
    tell("GITHUB_OUTPUT", {"path": folder})


if __name__ == "__main__":
    {"images": images, "up": up, "report": report}[sys.argv[1]]()
