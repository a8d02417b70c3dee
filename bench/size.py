"""What a stack takes: memory while it idles, and disk for its images. It starts the default stack and waits until it is quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from bench.figures import Figure, median
from bench.stacks import Bench
from stackctl import images, inventory
from stackctl.backends import all_backends
from stackctl.model import Debian

MIB = 1024 * 1024
QUIET = 5.0  # seconds after `up`
REST = 1.0  # seconds between two looks


def memory(bench: Bench, runs: int) -> Iterator[Figure]:
    """The working set of each container: what its cgroup holds without the file pages that the kernel could drop at once."""
    with bench.up("idle") as found:
        time.sleep(QUIET)
        parts = {"mta": found["mta"], **found["stores"]}
        seen: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(runs):
            for name, part in parts.items():
                seen[name].append(inventory.working_set(part["container"]) / MIB)
            time.sleep(REST)
    each = {name: median(values) for name, values in seen.items()}
    said = ", ".join(f"{name} {value:.1f}" for name, value in each.items())
    yield Figure("memory", f"idle working set of the default stack ({said})", "MiB", sum(each.values()), most=60)


def disk(bench: Bench, runs: int) -> Iterator[Figure]:
    """What each image adds to the base that images of its release share."""
    api: Any = inventory.client().api
    found = all_backends().values()
    tags = images.build(found, Debian())
    for backend in found:
        base = images.base_image(images.release_of(backend, Debian()), None).reference
        size = (api.inspect_image(tags[backend.name])["Size"] - api.inspect_image(base)["Size"]) / 1e6
        yield Figure("disk", f"image of {backend.name}, beyond the base", "MB", size, most=80)
