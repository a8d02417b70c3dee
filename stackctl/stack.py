"""A stack's life: up, changed while it runs, paused, down. It prints nothing: progress goes to the caller's `report`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stackctl import addresses, ca, certificate, command, compose, engine, images, load, peers, render, standing, state
from stackctl.clients.where import IMPLICIT, Where, open_listeners
from stackctl.errors import EngineError, StackctlError, UsageError
from stackctl.model import Quota, Stack, User
from stackctl.render import File, Files, Secrets, Service

Report = Callable[[str], None]
PROBE = "stackctl-probe"  # the local part, in the disposable domain, of the mailbox that takes the first message
READY_WITHIN = 60.0  # seconds; a warm start takes about one
LATE = 5.0  # seconds after which a server that does not answer is asked what it thinks of its files
VERBS = "/usr/local/lib/stackctl/verbs"
_TAKEN = re.compile(r"port is already allocated|address already in use|ports are not available", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """Something that happened on the way up, with the seconds it took."""

    what: str
    detail: str
    seconds: float


@dataclass
class Up:
    """What `up` did. `changed` is False where the stack stood already."""

    state: state.State
    changed: bool = True
    steps: list[Step] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def step(self, what: str, report: Report, detail: str = "") -> Iterator[None]:
        """Reports a step, and notes the time that it took."""
        report(f"{what} …")
        start = time.monotonic()
        yield
        self.steps.append(Step(what, detail, time.monotonic() - start))


@dataclass(frozen=True)
class Plan:
    """A stack as it is to run: the effective model with users added and deleted live, its services and their files."""

    stack: Stack
    services: tuple[Service, ...]
    files: Mapping[str, Files]


def up(path: Path | None, name: str | None = None, fresh: bool = False, report: Report = lambda _: None) -> Up:
    """Brings a stack up, or makes a running one what its file says, with the least disruption; waits until mail flows.

    `fresh` removes what was there first: mail, passwords and users added live. Raises BadStack, EngineError, TimedOut.
    Where it fails on the way to a first start, nothing stays behind but the servers' logs, which the error names.
    """
    where, content = standing.source(path)
    loaded = load.load(path)
    stack = loaded.stack if name is None else loaded.stack.model_copy(update={"name": name})
    with state.lock(stack.name), ThreadPoolExecutor(3) as pool:
        if fresh:
            engine.remove(stack.name, volumes=True)
            state.forget(stack.name)
        known = state.load(stack.name)
        done = Up(known)
        # What the engine has is asked for while this process renders, on another processor; the network of a first start is made meanwhile.
        looked, built = pool.submit(engine.look, stack.name), pool.submit(images.present)
        under_way: list[Future[Any]] = [pool.submit(_network, stack, looked)]
        try:
            _up(stack, known, looked, built, pool, under_way, done, report)
        except BaseException as why:
            while any(not one.done() for one in under_way):  # an interrupt reaches this thread alone
                command.end_all()
                wait(under_way, timeout=0.05)
            if looked.exception():  # nothing was made yet
                raise
            here, volumes_before = looked.result()
            if not here:
                evidence = _abandon(stack.name, volumes_before)
                if isinstance(why, StackctlError):
                    why.hint = f"what the servers said is in {evidence}; `stackctl check` lets them look at their files" if evidence else why.hint
            raise
        known.source, known.fingerprint = where, standing.fingerprint(content, name)
        known.watched = standing.watch(loaded.files)
        state.save(known)
        return done


def _up(
    stack: Stack,
    known: state.State,
    looked: Future[tuple[tuple[engine.Container, ...], tuple[str, ...]]],
    built: Future[set[str]],
    pool: ThreadPoolExecutor,
    under_way: list[Future[Any]],
    done: Up,
    report: Report,
) -> None:
    """What `up` does between its questions and its clearing up; what runs in other threads is added to `under_way`."""
    with done.step("configuration", report):
        plan = _plan(stack, known)
    with done.step("images", report):
        tags = images.build([service.backend for service in plan.services], stack.debian, lambda progress: report(str(progress)), here=built.result)
    told = {part["backend"]: part["version"] for part in _parts(known.endpoints).values()} if known.images == tags else {}
    versions = {tags[name]: version for name, version in told.items()} or images.versions(dict.fromkeys(tags.values()))
    known.images = tags
    here, volumes_before = looked.result()
    existing = {one.service: one for one in here}
    known.ports = _ports(plan, known, set(existing))
    before = _push(plan, known, volumes_before)
    known.endpoints = _endpoints(plan, known, tags, versions)
    wait(under_way)
    started = {service.name: threading.Event() for service in plan.services}
    starting = pool.submit(_containers, plan, known, tags, existing, started, done, report)
    under_way.append(starting)
    if existing:  # first they take what has changed, then they are asked
        starting.result()
        _renew(plan, known, before, existing, done, report)
    _prove(plan, known, starting, started, done, report)
    for service, part in _parts(known.endpoints).items():
        part["container"] = known.containers[service]
    for peer in peers.meet(plan.stack, known.containers["mta"], plan.services[0].hostname):
        done.steps.append(Step("next hop", f"the stack {peer} is not up: mail for it waits", 0.0))


def _parts(endpoints: Mapping[str, Any]) -> dict[str, Any]:
    return {"mta": endpoints["mta"], **endpoints["stores"]} if endpoints else {}


def _network(stack: Stack, looked: Future[tuple[tuple[engine.Container, ...], tuple[str, ...]]]) -> None:
    """Makes the network where no container is there: 60 ms that Compose would take."""
    if not looked.result()[0]:
        spec = compose.network(stack)
        engine.make_network(stack.name, compose.NETWORK, spec["labels"], spec["driver_opts"])


def _plan(stack: Stack, known: state.State) -> Plan:
    stack = peers.resolved(effective(stack, known))
    addresses.refuse_ring(stack)
    services = render.services(stack)
    credentials = {address: known.credential(address) for address in render.mailbox_addresses(stack)}
    for user in stack.users:
        if user.password and user.address not in known.changed:
            credentials[user.address] = known.credential(user.address, user.password)
    known.disposable = known.disposable or state.new_credential()
    authority, leaf = _certificate(stack, known)
    secrets = Secrets({address: pair.hash for address, pair in credentials.items()}, known.disposable.hash, leaf.certificate, leaf.key, authority.pair.certificate)
    return Plan(stack, services, {service.name: render.render(stack, service, secrets, _compiled()) for service in services})


def _compiled() -> Path:
    """Where compiled templates are kept, for every stack."""
    folder = state.root() / ".templates"
    with contextlib.suppress(OSError):  # whoever has to write there says so
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def effective(stack: Stack, known: state.State) -> Stack:
    """A stack with the users, aliases and domains that were added and deleted while it ran."""
    domains = [domain for domain in dict.fromkeys([*stack.domains, *known.domains]) if domain not in known.domains_deleted and domain != stack.domain]
    gone = {*known.aliases, *known.aliases_deleted}
    users = [
        user.model_copy(update={"aliases": tuple(alias for alias in user.aliases if alias not in gone)}) if gone.intersection(user.aliases) else user
        for user in stack.users
        if user.address not in known.deleted
    ]
    boxes = {user.address for user in users} | {stack.catch_all_address}
    users += [User(address=address, quota=Quota(storage=quota) if quota else None) for address, quota in known.added.items() if address not in boxes]
    boxes.update(known.added)
    live = {name: tuple(targets) for name, targets in known.aliases.items() if name not in boxes}
    catch_alls = {domain: who for domain, who in stack.domain_catch_all.items() if domain not in known.domains_deleted}
    return stack.model_copy(
        update={
            "users": tuple(users),
            "domains": tuple(domains),
            "domain_catch_all": catch_alls | {domain: who for domain, who in known.domains.items() if who},
            "aliases": {a: t for a, t in stack.aliases.items() if a not in gone} | {a: t for a, t in live.items() if "@" in a},
            "system_aliases": {a: t for a, t in stack.system_aliases.items() if a not in gone} | {a: t for a, t in live.items() if "@" not in a},
        }
    )


def _certificate(stack: Stack, known: state.State) -> tuple[ca.Authority, ca.Pair]:
    """The CA, and the stack's certificate: the one it has, or a new one where that is no longer good."""
    now = datetime.now(UTC)
    names = render.certificate_names(stack)
    authority = ca.load_or_make_ca(ca.caroot(os.environ), [stack.domain, *stack.tls.names], now)
    folder = state.folder(stack.name)
    with contextlib.suppress(FileNotFoundError):
        leaf = ca.Pair((folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes())
        if ca.needs_renewal(leaf.certificate, authority.pair.certificate, names, now) is None:
            known.certificate = list(certificate.validity(leaf.certificate))
            return authority, leaf
    leaf = ca.make_leaf(authority.pair, names, now)
    state.write(folder / "cert.pem", leaf.certificate)
    state.write(folder / "key.pem", leaf.key)
    known.certificate = list(certificate.validity(leaf.certificate))
    return authority, leaf


def _ports(plan: Plan, known: state.State, existing: set[str]) -> dict[str, int]:
    """A port for each open listener: the fixed one, the one it had, or a free one. Raises EngineError for a fixed port that is taken."""
    address, fixed = plan.stack.ports.address, plan.stack.ports.fixed
    found: dict[str, int] = {}
    taken = []
    for service in plan.services:
        for listener in compose.listeners(plan.stack, service):
            key = f"{service.name}.{listener}"
            before = known.ports.get(key)
            wanted = fixed.get(key, before)
            ours = service.name in existing and wanted == before
            if wanted is not None and (ours or _free(address, wanted)):
                found[key] = wanted
            elif key in fixed:
                taken.append(f"port {wanted} of {address}, meant for {key}, is taken")
            else:
                found[key] = _free_port(address, {*found.values(), *fixed.values()})
    if taken:
        raise EngineError("\n".join(taken), "`ss -ltnp` shows by whom; `ports: {fixed: …}` in stack.yaml names another, without it a free one is taken")
    return found


def _free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((address, port))
        except OSError:
            return False
        return True


def _free_port(address: str, avoid: set[int]) -> int:
    """A port that nobody has now, above the range from which outgoing connections are given theirs where that leaves room."""
    while True:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe_socket:
            probe_socket.bind((address, 0))
            port: int = probe_socket.getsockname()[1]
        if port not in avoid:
            return port


def _containers(
    plan: Plan, known: state.State, tags: Mapping[str, str], existing: Mapping[str, engine.Container], started: Mapping[str, threading.Event], done: Up, report: Report
) -> None:
    """Has Compose start what is not running, and notes the containers' ids; `started` tells of each service as soon as it runs."""

    def heard(line: str) -> None:  # "Container stackctl-demo-mta-1  Started"
        match line.split():
            case ["Container", name, "Started" | "Running", *_]:
                service = name.removeprefix(f"{compose.project_name(stack.name)}-").rpartition("-")[0]
                started[service].set() if service in started else None

    stack = plan.stack
    project = compose.project(stack, plan.services, tags, plan.files, known.ports)
    text = compose.text(project)
    path = state.folder(stack.name) / "compose.yaml"
    digest = hashlib.sha256(text.encode()).hexdigest()
    if paused := [one for one in existing.values() if one.state == "paused"]:
        engine.each("unpause", paused)
    standing_already = (
        digest == known.compose_digest
        and {service.name for service in plan.services} == set(existing)
        and all(one.state in ("running", "paused") for one in existing.values())
    )
    if not standing_already:
        state.write(path, text.encode())
        with done.step("containers", report, f"{len(plan.services)} started by Docker Compose"):
            result = engine.compose(["up", "-d", "--remove-orphans", "--no-build", "-t", "5"], stack.name, path, check=False, on_line=heard)
            if result.status != 0:
                raise _compose_error(result.last_words, known.ports)
        known.compose_digest = digest
    known.containers = {one.service: one.id for one in engine.look(stack.name)[0]}


def _renew(plan: Plan, known: state.State, before: Mapping[str, Mapping[str, str]], existing: Mapping[str, engine.Container], done: Up, report: Report) -> None:
    """Has the servers that went on running take the files that are new to them; `before` is what they had."""
    for service in plan.services:
        if service.name in existing and existing[service.name].id == known.containers[service.name]:
            changed = {path for path, file in plan.files[service.name].items() if before.get(service.name, {}).get(path) != file.digest}
            if changed:
                with done.step(f"{service.name} takes new files", report, ", ".join(sorted(changed))):
                    _apply(service, known, before, {plan.files[service.name][path].on_change for path in changed})


def apply_accounts(stack: Stack, known: state.State) -> None:
    """Hands changed accounts of a running stack to its servers, without a restart; `stack` is what its file says."""
    plan = _plan(stack, known)
    known.endpoints["accounts"] = [{"address": user.address, "password": None} for user in plan.stack.users]
    before = _push(plan, known, engine.existing_volumes(stack.name))
    jobs = []
    for service in plan.services:
        kinds = {file.on_change for path, file in plan.files[service.name].items() if before.get(service.name, {}).get(path) != file.digest}
        if kinds:
            jobs.append((service, kinds))
    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        list(pool.map(lambda job: _apply(job[0], known, before, job[1]), jobs))


def _compose_error(words: str, ports: Mapping[str, int]) -> EngineError:
    if _TAKEN.search(words):
        named = next((f"{key} ({port})" for key, port in ports.items() if re.search(rf":{port}\b", words)), "a port")
        return EngineError(f"{named} was taken by another program just now:\n{words}", "run `stackctl up` again: a free port is chosen")
    if "no space left" in words:
        return EngineError(f"the engine's disk is full:\n{words}", "`docker system df` shows what takes it, `stackctl prune` removes what stackctl left")
    return EngineError(f"docker compose up failed:\n{words}", "`stackctl doctor` checks the engine")


def _push(plan: Plan, known: state.State, volumes: Sequence[str]) -> dict[str, dict[str, str]]:
    """Makes missing volumes and puts into the configuration volumes what is not in them yet; the digests of what was in them."""
    stack, before = plan.stack, {service: dict(files) for service, files in known.pushed.items()}
    wanted = compose.volumes(stack, plan.services)
    missing = [volume for volume in wanted if compose.volume_name(stack.name, volume) not in volumes]
    if missing:
        engine.make_volumes(stack.name, missing)
    changes: dict[str, Files] = {}
    for service in plan.services:
        held = {} if compose.config_volume(service.name) in missing else known.pushed.get(service.name, {})
        new = {path: file for path, file in plan.files[service.name].items() if held.get(path) != file.digest}
        # A volume forgets nothing: what is no longer there becomes an empty file, which stands for none.
        new |= {path: File(b"", 0o644, (0, 0), "live") for path in held if path not in plan.files[service.name]}
        if new:
            changes[service.name] = new
    if changes:
        engine.fill(stack.name, known.images[plan.services[0].backend.name], changes)
    known.pushed = {service.name: {path: file.digest for path, file in plan.files[service.name].items()} for service in plan.services}
    state.save(known)
    return before


def _apply(service: Service, known: state.State, before: Mapping[str, Mapping[str, str]], kinds: set[render.OnChange]) -> None:
    """Has a running server take new files. `before` is what it had: where it fails, the next command tries again."""
    verbs = [verb for kind, verb in (("accounts", "accounts-changed"), ("reload", "reload")) if kind in kinds]
    for verb in verbs:
        status, output = engine.execute(known.containers[service.name], [f"{VERBS}/{verb}"])
        if status != 0:
            now = known.pushed[service.name]  # the refused files are in the volume all the same: whatever comes next replaces them
            known.pushed[service.name] = {path: digest for path, digest in before.get(service.name, {}).items() if now.get(path) == digest}
            known.fingerprint = ""  # it does not stand as any file says
            state.save(known)
            raise EngineError(f"{service.name}: the verb {verb} failed ({status}): {output.strip()}", f"`stackctl logs {service.name}` shows more")


def _endpoints(plan: Plan, known: state.State, tags: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, Any]:
    """The contract with outside tools: where everything is. Passwords are filled in when it is asked for them."""
    stack = plan.stack

    def of(service: Service) -> dict[str, Any]:
        open_now = compose.listeners(stack, service)
        names = [*service.backend.listeners, *(["sieve"] if service.role == "store" and "sieve" not in service.backend.listeners else [])]
        where = {name: [stack.ports.address, known.ports[f"{service.name}.{name}"]] if name in open_now else None for name in names}
        return {"backend": service.backend.name, "version": versions[tags[service.backend.name]], "container": known.containers.get(service.name, ""), **where}

    assert known.disposable
    root = ca.caroot(os.environ)
    authority = ca.load_or_make_ca(root, [stack.domain, *stack.tls.names], datetime.now(UTC))
    return {
        "schema": 1,
        "name": stack.name,
        "domain": stack.domain,
        "ca": str(authority.certificate_path),
        "tls_name": plan.services[0].hostname,
        "mta": of(plan.services[0]),
        "stores": {service.name: {**of(service), **_kind(service)} for service in plan.services[1:]},
        "accounts": [{"address": user.address, "password": None} for user in stack.users],
        "catch_all": {"address": stack.catch_all_address, "password": None},
        "disposable": {"domain": stack.disposable, "password": None},
    }


def _kind(service: Service) -> dict[str, Any]:
    return {"delivery": service.delivery, "mailbox": service.mailbox, "provides": list(service.backend.provides)}


def where(endpoints: Mapping[str, Any], service: str, listener: str) -> Where:
    """Where a listener is, for a client. Raises UsageError when the stack has none of that name."""
    part = endpoints["mta"] if service == "mta" else endpoints["stores"].get(service)
    if part is None:
        raise UsageError(f"the stack {endpoints['name']} has no store {service}", f"it has {', '.join(endpoints['stores'])}")
    if not part.get(listener):
        raise UsageError(f"{service} has no open listener {listener}", f"it has {', '.join(open_listeners(part))}")
    host, port = part[listener]
    return Where(host, port, "implicit" if listener in IMPLICIT else "starttls", endpoints["tls_name"], Path(endpoints["ca"]))


def _load_the_rest() -> None:
    """Loads the libraries that are needed once the servers run: 0.1 s, in which this process has nothing else to do."""
    from stackctl.clients import imap, message, pop3, smtp  # noqa: F401


def _prove(plan: Plan, known: state.State, starting: Future[None], started: Mapping[str, threading.Event], done: Up, report: Report) -> None:
    """Waits until every open listener greets and its certificate verifies; the first message goes as soon as those that it needs do.

    A server is asked as soon as it runs, while Compose still starts the others. Not before: a connection to an address that
    is not there yet makes the kernel wait a second until it asks for it again (ARP).
    """

    def all_started(_: object) -> None:
        for event in started.values():
            event.set()

    starting.add_done_callback(all_started)
    from stackctl.clients.probe import probe

    start = time.monotonic()
    _load_the_rest()
    given_up, looking = threading.Event(), threading.Lock()
    judged: dict[str, str] = {}

    def gone(service: Service) -> str | None:
        """Why a server will never answer: it has ended, or it is late and its own checker says why."""
        if given_up.is_set() or (starting.done() and starting.exception()):
            return "given up"
        if not starting.done():
            return None
        words = engine.last_words(known.containers[service.name])
        if words is None and time.monotonic() - start < LATE:
            return None
        with looking:
            if service.name not in judged:
                content, said = checked(plan.stack, service, plan.files[service.name], known.images)
                judged[service.name] = "" if content else said
        return "; ".join(filter(None, [words, judged[service.name]])) or None

    def one(service: Service, listener: str, first: Future[None] | None = None) -> None:
        if first:
            first.result()
        started[service.name].wait()
        place, protocol = where(known.endpoints, service.name, listener), service.backend.listeners[listener].protocol
        probe(place, protocol, start + READY_WITHIN, lambda: gone(service), f"{service.name} {listener}")

    jobs = [(service, listener) for service in plan.services for listener in compose.listeners(plan.stack, service)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        report("servers answer …")
        try:
            # One listener of each server is asked until it answers, then the rest: many tries at once would take the time from the servers.
            way = _way_in(plan)
            needed = {service.name: pool.submit(one, service, way if service.role == "mta" else "imaps") for service in plan.services}
            probes = [pool.submit(one, service, listener, needed[service.name]) for service, listener in jobs if listener not in (way, "imaps")]
            for answered in needed.values():
                answered.result()
            done.steps.append(Step("servers answer", "banner and verified TLS, asked since Compose began", time.monotonic() - start))
            _first_message(plan, known, way, done, report)
            with done.step("every port answers", report, "the same, on those that the message did not need"):
                for answered in probes:
                    answered.result()
            starting.result()
        except BaseException:
            given_up.set()
            if starting.done() and (why := starting.exception()):
                raise why from None
            raise


def _way_in(plan: Plan) -> str:
    """By which listener of the MTA the first message goes."""
    return "submission" if "submission" in compose.listeners(plan.stack, plan.services[0]) else "submissions"


def _first_message(plan: Plan, known: state.State, way: str, done: Up, report: Report) -> None:
    """Sends one message through a submission port and reads it from every store, by IMAP and by POP3; then deletes it.

    Its mailbox is one of the disposable domain, so that nobody's INBOX holds what he did not expect.
    """
    from stackctl.clients.imap import Imap
    from stackctl.clients.message import compose as compose_message
    from stackctl.clients.pop3 import Pop3
    from stackctl.clients.smtp import Smtp

    assert known.disposable
    address = f"{PROBE}@{plan.stack.disposable}"
    password = known.disposable.password
    subject = f"probe {os.urandom(8).hex()}"
    message = compose_message(address, [address], [], subject, "Mail flows.\n", ())
    with done.step("message accepted", report, f"{way}, TLS verified, AUTH"), Smtp(where(known.endpoints, "mta", way)) as smtp:
        smtp.login(address, password)
        smtp.send(address, [address], message)

    opened: list[Imap] = []

    def read(store: str) -> Up:
        seen = Up(known)
        with seen.step(f"read from {store}", report, "IMAPS"), Imap(where(known.endpoints, store, "imaps")) as imap:
            opened.append(imap)
            imap.login(address, password)
            imap.wait(subject=re.escape(subject), timeout=30, prompt_idle=False)
        with seen.step(f"read from {store}", report, "POP3S"), Pop3(where(known.endpoints, store, "pop3s")) as pop3:
            pop3.login(address, password)
            numbers = range(1, pop3.stat()[0] + 1)
            if not any(subject.encode() in pop3.retr(number) for number in numbers):
                raise StackctlError(f"{store}: the first message is there by IMAP and not by POP3", f"`stackctl logs {store}` shows more")
            for number in numbers:
                pop3.dele(number)
        return seen

    with ThreadPoolExecutor(len(known.endpoints["stores"])) as pool:
        reading = [pool.submit(read, store) for store in known.endpoints["stores"]]
        try:
            for one in reading:
                done.steps += one.result().steps
        except BaseException:
            for imap in opened:  # or the others would wait on for their message
                with contextlib.suppress(OSError, AttributeError):
                    imap.library.shutdown()
            raise


def _abandon(name: str, volumes_before: Sequence[str]) -> Path | None:
    """Takes the evidence, then removes what a failed first start made; the folder of the evidence, if there is any."""
    evidence = None
    with contextlib.suppress(StackctlError):  # a full disk, say: what was made goes all the same
        for one in engine.containers(name):
            state.write(state.folder(name) / "evidence" / f"{one.service}.log", engine.logs(one.id).encode())
            evidence = state.folder(name) / "evidence"
    with contextlib.suppress(StackctlError):
        engine.remove(name, volumes=not volumes_before)
    with contextlib.suppress(StackctlError):
        known = state.load(name)
        known.containers, known.compose_digest, known.fingerprint = {}, "", ""
        known.pushed = known.pushed if volumes_before else {}
        state.save(known)
    return evidence


def prepare(path: Path | None, name: str | None = None) -> tuple[Plan, state.State, dict[str, str]]:
    """A stack with its real files, ports and images, and nothing started: what `export` needs. Its passwords are kept for `up`."""
    loaded = load.load(path)
    stack = loaded.stack if name is None else loaded.stack.model_copy(update={"name": name})
    with state.lock(stack.name):
        known = state.load(stack.name)
        tags = images.build([service.backend for service in render.services(stack)], stack.debian)
        plan = _plan(stack, known)
        known.ports = _ports(plan, known, set(known.containers))
        state.save(known)
    return plan, known, tags


def checked(stack: Stack, service: Service, files: Files, tags: Mapping[str, str]) -> tuple[bool, str]:
    """Whether a server's own checker is content with its files, and what it said."""
    status, output = engine.try_out(tags[service.backend.name], files, [f"{VERBS}/check"], stack.name)
    return status == 0, output.strip()
