"""What a person waits for: `up` beside a floor of containers that do nothing, and the other commands of a stack's life. It tunes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.figures import Figure, interleaved, median
from bench.mail import Reader
from bench.stacks import Bench, since
from stackctl import command, compose, engine, images, inventory, render
from stackctl.labels import LABEL
from stackctl.model import Stack

STOP = {"entrypoint": ["sleep", "infinity"], "pull_policy": "never"}


def up(bench: Bench, runs: int) -> Iterator[Figure]:
    """A warm `up` of the default stack until its first message was read over IMAPS, beside `docker compose up -d` of as many containers that sleep."""
    with bench.removed(bench.name("up")) as name, bench.removed(bench.name("floor")) as ports, bench.removed(bench.name("bare-floor")) as no_ports:
        bench.stackctl("up", "--name", name)  # images, CA and volumes are made here
        bench.stackctl("down", "--name", name)

        whole: list[float] = []
        floors = [_floor(bench, ports, True), _floor(bench, no_ports, False)]
        first, with_ports, without = map(median, interleaved(runs, lambda: _first_read(bench, whole, "--name", name), *floors))
    yield Figure("up", "up, until the first message was read", "ms", first, with_ports, "3 sleeping containers, same ports", most=1.5)
    yield Figure("up", "the same", "ms", first, without, "3 sleeping containers, no ports")
    yield Figure("up", "up, until every store was read and the command ended", "ms", median(whole), with_ports, "3 sleeping containers, same ports")


def webmail(bench: Bench, runs: int) -> Iterator[Figure]:
    """The same `up` with a webmail, beside one without."""
    with bench.removed(bench.name("plain")) as plain, bench.removed(bench.name("web")) as web:
        ways = []
        for name, text in ((plain, ""), (web, "webmail: {}\n")):
            file = bench.folder / f"{name}.yaml"
            file.write_text(text)
            chosen = ("--file", str(file), "--name", name)
            bench.stackctl("up", *chosen)
            bench.stackctl("down", *chosen)
            ways.append(chosen)
        without, with_it = map(median, interleaved(runs, *(partial(_first_read, bench, [], *chosen) for chosen in ways)))
    yield Figure("webmail", "up with a webmail, until the first message was read", "ms", with_it, without, "the same stack without it", most=1.05)


def _first_read(bench: Bench, whole: list[float], *chosen: str) -> float:
    """From the start of an `up` until its message was first read over IMAPS, in ms; the time until its end goes into `whole`. The stack goes down again."""
    start = time.perf_counter()
    said = json.loads(bench.stackctl("up", *chosen, "--json"))
    whole.append(since(start))
    bench.stackctl("down", *chosen)
    read = min(float(step["ended_after"]) for step in said["steps"] if step["detail"] == "IMAPS")
    return whole[-1] - 1000 * (float(said["seconds"]) - read)


def _floor(bench: Bench, name: str, published: bool) -> Callable[[], float]:
    """Starts the images of the default stack with nothing in them but a sleep, through Docker Compose, and removes them again; the time of the start in ms."""
    stack = Stack(name=name)
    tags = images.build([service.backend for service in render.services(stack)], stack.debian)
    services = {}
    for service in render.services(stack):
        ports = [f"127.0.0.1::{service.backend.listeners[listener].port}" for listener in compose.listeners(stack, service)]
        services[service.name] = {**STOP, "image": tags[service.backend.name], "labels": {LABEL: name}, "ports": ports if published else []}
    file = bench.folder / f"{name}.yaml"
    file.write_text(json.dumps({"name": name, "services": services, "networks": {"default": {"labels": {LABEL: name}}}}))

    def once() -> float:
        start = time.perf_counter()
        command.run(["docker", "compose", "-f", str(file), "up", "-d"])
        took = since(start)
        engine.remove(name, volumes=True)
        return took

    return once


def life(bench: Bench, runs: int) -> Iterator[Figure]:
    """The commands around a stack that stands."""
    [version] = interleaved(runs * 2, lambda: bench.timed("--version"))
    yield Figure("life", "stackctl --version", "ms", median(version), most=150)
    with bench.removed(bench.name("life")) as name:
        bench.stackctl("up", "--name", name)
        found = json.loads(bench.stackctl("endpoints", "--name", name, "--secrets", "--json"))
        [again] = interleaved(runs * 2, lambda: bench.timed("up", "--name", name))
        yield Figure("life", "up of an unchanged running stack", "ms", median(again), most=300)
        yield from _pause(bench, name, found, runs)
        yield from _user(bench, name, found, runs)
        downs = []
        for _ in range(runs):
            downs.append(bench.timed("down", "--name", name))
            bench.stackctl("up", "--name", name)
        yield Figure("life", "down", "ms", median(downs), most=2000)


def _pause(bench: Bench, name: str, found: dict[str, Any], runs: int) -> Iterator[Figure]:
    """Connections stay open over a pause; the first NOOP on each, from the moment that the engine is asked to go on."""
    readers = [Reader.of(found, store) for store in _stores(found)]
    answers, commands = [], []
    for _ in range(runs):
        bench.stackctl("pause", "--name", name)
        paused = [one for one in inventory.containers(name) if one.state == "paused"]
        start = time.perf_counter()
        engine.each("unpause", paused)
        for reader in readers:
            reader.noop()
        answers.append(since(start))
        bench.stackctl("pause", "--name", name)
        start = time.perf_counter()
        bench.stackctl("resume", "--name", name)
        for reader in readers:
            reader.noop()
        commands.append(since(start))
    for reader in readers:
        reader.close()
    yield Figure("life", "resume until open IMAP connections answer", "ms", median(answers), most=100)
    yield Figure("life", "stackctl resume as a command, until the same", "ms", median(commands))


def _user(bench: Bench, name: str, found: dict[str, Any], runs: int) -> Iterator[Figure]:
    """A new user, from the start of the command until the login in every store."""
    added = []
    for number in range(runs):
        who, password = f"new{number}@{found['domain']}", "a-password-for-new"
        start = time.perf_counter()
        bench.stackctl("user", "add", who, "--password-stdin", "--name", name, stdin=f"{password}\n".encode())
        for store in _stores(found):
            Reader.of(found, store, who, password).close()
        added.append(since(start))
    yield Figure("life", "user add, until logged in to every store", "ms", median(added))


def _stores(found: dict[str, Any]) -> list[str]:
    return list(found["stores"])
