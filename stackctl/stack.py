"""A stack's life: up, changed while it runs, paused, down. It prints nothing: progress goes to the caller's `report`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stackctl import addresses, ca, certificate, compose, directory, engine, images, inventory, lines, load, peers, ports, render, running, standing, start, state, tokens
from stackctl.errors import EngineError, PortTaken
from stackctl.labels import NETWORK, VERBS, config_volume, volume_name
from stackctl.mechanisms import CERTIFICATE
from stackctl.model import Fault, Quota, Stack, User
from stackctl.render import File, Files, Secrets, Service
from stackctl.steps import Report, Step, Up

PORT_TRIES = 3  # free ports are chosen this often, where others take them before the engine does


@dataclass(frozen=True)
class Plan:
    """A stack as it is to run: the effective model with users added and deleted live, its services and their files."""

    stack: Stack
    services: tuple[Service, ...]
    files: Mapping[str, Files]
    accounts: Mapping[str, directory.Entry] = field(default_factory=dict)  # what belongs into the directory


def up(path: Path | None, name: str | None = None, fresh: bool = False, report: Report = lambda _: None, mta: str | None = None) -> Up:
    """Brings a stack up, or makes a running one what its file says, with the least disruption; waits until mail flows.

    `fresh` removes what was there first: mail, passwords and users added live. `mta`: with this MTA instead (load.with_mta).
    Raises BadStack, EngineError, TimedOut. Where it fails on the way to a first start, nothing stays behind but the servers' logs, which the error names.
    """
    where, content = standing.source(path)
    loaded = load.load(path) if mta is None else load.with_mta(load.load(path), mta)
    stack = loaded.stack if name is None else loaded.stack.model_copy(update={"name": name})
    with state.lock(stack.name), ThreadPoolExecutor(3) as pool:
        if fresh:
            engine.remove(stack.name, volumes=True)
            state.forget(stack.name)
        known = state.load(stack.name)
        done = Up(known, report)
        # What the engine has is asked for while this process renders, on another processor; the network of a first start is made meanwhile.
        looked, built = pool.submit(inventory.look, stack.name), pool.submit(images.present)
        under_way: list[Future[Any]] = [pool.submit(_network, stack, looked)]
        proven = False
        try:
            _up(stack, looked, built, pool, under_way, done)
            proven = True
            known.source, known.fingerprint = where, "" if mta else standing.fingerprint(content, name)
            known.watched = standing.watch(loaded.files)
            state.save(known)  # on a full disk, say, the start has failed
        except BaseException as why:
            start.end(under_way)
            if not looked.exception() and not looked.result().containers:
                start.abandon(stack.name, looked.result().volumes, None if proven else why)
            raise
        return done


def _up(
    stack: Stack, looked: Future[inventory.Found], built: Future[set[str]], pool: ThreadPoolExecutor, under_way: list[Future[Any]], done: Up
) -> None:
    """What `up` does between its questions and its clearing up; what runs in other threads is added to `under_way`."""
    known = done.state
    lines.end_all(known)  # what follows proves that all works
    known.unhinder()
    with done.step("configuration"):
        plan = _plan(stack, known)
    with done.step("images"):
        tags = images.build([service.backend for service in plan.services], stack.debian, lambda progress: done.report(str(progress)), here=built.result)
    versions = (_versions(known, tags) if known.images == tags else {}) or images.versions(dict.fromkeys(tags.values()))
    known.images = tags
    found = looked.result()
    existing = {one.service: one for one in found.containers}
    known.ports = _ports(plan, known, set(existing))
    before = _push(plan, known, found.volumes)
    known.endpoints = _endpoints(plan, known, tags, versions)
    known.protocols = {
        f"{service.name}.{name}": service.backend.listeners[name].protocol
        for service in plan.services
        for name in compose.listeners(plan.stack, service)
        if service.backend.listeners[name].awaited
    }
    wait(under_way)
    started = {service.name: threading.Event() for service in plan.services}
    starting = pool.submit(_containers, plan, tags, existing, started, done)
    under_way.append(starting)
    if existing:  # first they take what has changed, then they are asked
        starting.result()
        _renew(plan, before, existing, done)
    handing = pool.submit(_hand_in, plan, starting, done)
    under_way.append(handing)
    if any(service.role == "directory" for service in plan.services):  # a server that looked up in vain would wait some seconds until it does again
        handing.result()
    by_name = {service.name: service for service in plan.services}
    start.prove(done, starting, started, lambda name: _complaint(stack, by_name[name], plan.files[name], tags))
    done.steps += [Step("quota", said, 0.0) for service in plan.services if (said := render.passed_quotas(plan.stack, service))]
    for peer in peers.meet(plan.stack, known.containers["mta"], plan.services[0].hostname):
        done.steps.append(Step("next hop", f"the stack {peer} is not up: mail for it waits", 0.0))


def _hand_in(plan: Plan, starting: Future[None], done: Up) -> None:
    """Puts the users into the directory, where there is one."""
    starting.result()
    if directory.there_is(done.state):
        with done.step("accounts", f"{len(plan.accounts)} in the directory"):
            directory.hand_in(done.state, plan.accounts, everything=True)


def _network(stack: Stack, looked: Future[inventory.Found]) -> None:
    """Makes the network where no container is there: 60 ms that Compose would take."""
    if not looked.result().containers:
        spec = compose.network(stack)
        engine.make_network(stack.name, NETWORK, spec["labels"], spec["driver_opts"])


def _plan(stack: Stack, known: state.State) -> Plan:
    stack = peers.resolved(effective(stack, known))
    addresses.refuse_ring(stack)
    services = render.services(stack)
    credentials = {address: known.credential(address) for address in render.with_passwords(stack)}
    for user in stack.users:
        if user.password and user.address not in known.changed:
            credentials[user.address] = known.credential(user.address, user.password)
    for person in stack.host.users if stack.host else ():
        if person.password:
            credentials[stack.host_address(person)] = known.credential(stack.host_address(person), person.password)
    known.disposable = known.disposable or state.new_credential()
    authority, leaf, named = _certificates(stack, known)
    hashes = {address: pair.hash for address, pair in credentials.items()}
    kept = directory.entries(stack, hashes)
    if kept:
        known.directory = known.directory or state.new_password()
    if stack.webmail:
        known.webmail = known.webmail or state.new_password()
    known.token_key = (known.token_key or tokens.new_key()) if any("token" in service.verifiers for service in services) else ""
    kept_of = verifiers(stack, services, credentials, known.disposable)
    known.kerberos = (known.kerberos or state.new_password()) if any("ticket" in service.verifiers for service in services) else ""
    public = tokens.public(known.token_key) if known.token_key else ""
    made = (known.directory, known.webmail, named, kept_of, public, known.kerberos, _revocations(services, known, authority.pair), tuple(known.revoked))
    secrets = Secrets(hashes, known.disposable.hash, leaf.certificate, leaf.key, authority.pair.certificate, *made)
    return Plan(stack, services, {service.name: render.render(stack, service, secrets, _compiled()) for service in services}, kept or {})


def verifiers(
    stack: Stack, services: Sequence[Service], credentials: Mapping[str, state.Credential], disposable: state.Credential
) -> dict[str, dict[str, str]]:
    """What `Secrets.verifiers` holds: in each form that a service needs, of everybody whose account is in files."""
    forms = {form for service in services for form in service.verifiers}
    keepers = {address: credentials[address] for address in render.filed(stack)} | {f"@{stack.disposable}": disposable}
    return {form: {address: credential.verifier(form, address) for address, credential in keepers.items()} for form in forms}


def _compiled() -> Path:
    """Where compiled templates are kept, for every stack."""
    folder = state.cache() / "templates"
    with contextlib.suppress(OSError):  # whoever has to write there says so
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def effective(stack: Stack, known: state.State) -> Stack:
    """A stack with the users, aliases and domains that were added and deleted while it ran, and with what was made to fail."""
    domains = [domain for domain in dict.fromkeys([*stack.domains, *known.domains]) if domain not in known.domains_deleted and domain != stack.domain]
    gone = {*known.aliases, *known.aliases_deleted}
    users = [
        user.model_copy(update={"aliases": tuple(alias for alias in user.aliases if alias not in gone)}) if gone.intersection(user.aliases) else user
        for user in stack.users
        if user.address not in known.deleted
    ]
    boxes = {user.address for user in users} | {stack.catch_all_address}
    users += [User(address=address, quota=Quota(storage=quota) if quota else None) for address, quota in known.added.items() if address not in boxes]
    faults = tuple(Fault(**fault) for fault in known.faults)
    full = {fault.address for fault in faults if fault.at == "full"}
    users = [user.model_copy(update={"quota": Quota(storage=1)}) if user.address in full else user for user in users]  # an octet: no message is that small
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
    ).failing(faults, known.certificate_fault)


def _certificates(stack: Stack, known: state.State) -> tuple[ca.Authority, ca.Pair, dict[str, bytes]]:
    """The CA, the stack's certificate, and key and certificate of each host name that has its own: those that are there, or new ones where they are no longer good."""
    now = datetime.now(UTC)
    authority = ca.load_or_make_ca(ca.caroot(os.environ), stack.certified, now)
    folder = state.folder(stack.name)

    def leaf(folder: Path, names: Sequence[str]) -> ca.Pair:
        with contextlib.suppress(FileNotFoundError):
            found = ca.Pair((folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes())
            if ca.needs_renewal(found.certificate, authority.pair.certificate, names, now) is None:
                return found
        made = ca.make_leaf(authority.pair, names, now)
        state.write(folder / "cert.pem", made.certificate)
        state.write(folder / "key.pem", made.key)
        return made

    main = leaf(folder, render.certificate_names(stack))
    named = {name: leaf(folder / "sni" / name, [name]) for name in stack.tls.sni}
    for other in (folder / "sni").glob("*"):
        if other.name not in named:
            shutil.rmtree(other)
    times = [certificate.validity(one.certificate) for one in (main, *named.values())]
    known.certificate = [max(begin for begin, _ in times), min(end for _, end in times)]
    if known.certificate_fault in ca.FAULTS:
        main = _faulty(stack, known, authority, now)
        named = dict.fromkeys(named, main)
    return authority, main, {name: one.key + one.certificate for name, one in named.items()}


def _revocations(services: Sequence[Service], known: state.State, authority: ca.Pair) -> str:
    """The CA's list of certificates that were taken back: the one that is there, or a new one where it is another; "" where no client shows one."""
    if not any(CERTIFICATE in service.mechanisms for service in services):
        return ""
    path = state.folder(known.name) / "crl.pem"
    revoked = {int(serial, 16): datetime.fromisoformat(since) for serial, since in known.revoked.items()}
    with contextlib.suppress(FileNotFoundError):
        if ca.of_crl(found := path.read_bytes(), authority.certificate) == revoked.keys():
            return found.decode()
    if made := ca.make_crl(authority, revoked, datetime.now(UTC)):
        state.write(path, made)
    return made.decode()


def _faulty(stack: Stack, known: state.State, authority: ca.Authority, now: datetime) -> ca.Pair:
    """The certificate that no client may accept: made once, so that other changes of a running stack leave it alone."""
    folder = state.folder(stack.name) / "faulty"
    with contextlib.suppress(FileNotFoundError):
        return ca.Pair((folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes())
    made = ca.make_faulty(authority.pair, render.certificate_names(stack), known.certificate_fault, now)
    state.write(folder / "cert.pem", made.certificate)
    state.write(folder / "key.pem", made.key)
    return made


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
            if wanted is not None and (ours or ports.is_free(address, wanted)):
                found[key] = wanted
            elif key in fixed:
                taken.append(f"port {wanted} of {address}, meant for {key}, is taken")
            else:
                found[key] = ports.free(address, {*found.values(), *fixed.values()})
    if taken:
        raise EngineError("\n".join(taken), engine.WHOSE_PORT)
    return found


def _containers(plan: Plan, tags: Mapping[str, str], existing: Mapping[str, inventory.Container], started: Mapping[str, threading.Event], done: Up) -> None:
    """Has Compose start what is not running; `started` tells of each service as soon as it runs.

    A port that was free when it was chosen may be another program's when the engine asks for it; then another is taken.
    """
    stack, known = plan.stack, done.state
    text, digest = _project(plan, tags, known)
    if paused := [one for one in existing.values() if one.state == "paused"]:
        engine.each("unpause", paused)
    standing_already = (
        digest == known.compose_digest
        and {service.name for service in plan.services} == set(existing)
        and all(one.state in ("running", "paused") for one in existing.values())
    )
    if not standing_already:
        for tries_left in reversed(range(PORT_TRIES)):
            state.write(start.project(stack.name), text.encode())
            try:
                start.containers(done, started)
                break
            except PortTaken as why:
                if not tries_left or not why.listener or why.listener in stack.ports.fixed:
                    raise
            known.ports = _ports(plan, known, {one.service for one in inventory.containers(stack.name) if one.state == "running"})
            known.endpoints = _endpoints(plan, known, tags, _versions(known, tags))
            text, digest = _project(plan, tags, known)
        known.compose_digest = digest
    else:
        for event in started.values():
            event.set()


def _project(plan: Plan, tags: Mapping[str, str], known: state.State) -> tuple[str, str]:
    """The Compose project of a stack, and its digest. It tells of the fragments that it extends: what a changed one means is for Compose to say."""
    project = compose.project(plan.stack, plan.services, tags, plan.files, known.ports)
    extended = sorted({service["extends"]["file"] for service in project["services"].values()})
    text = compose.text({**project, "x-extended": {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in extended}})
    return text, hashlib.sha256(text.encode()).hexdigest()


def _renew(plan: Plan, before: Mapping[str, Mapping[str, str]], existing: Mapping[str, inventory.Container], done: Up) -> None:
    """Has the servers that went on running take the files that are new to them; `before` is what they had.

    One that refuses does not keep them from the others. Raises EngineError, for all that refused.
    """
    known, refused = done.state, []
    for service in plan.services:
        if service.name in existing and existing[service.name].id == known.containers[service.name] and (changed := _changed(plan, service, before)):
            try:
                with done.step(f"{service.name} takes new files", ", ".join(changed)):
                    _apply(plan, service, known, before)
            except EngineError as why:
                refused.append(why)
    if refused:
        raise EngineError("\n".join(map(str, refused)), refused[0].hint)


def apply_accounts(stack: Stack, known: state.State) -> None:
    """Hands changed accounts of a running stack to its servers, without a restart; `stack` is what its file says."""
    plan = _plan(stack, known)
    running.require(known, [service.name for service in plan.services if _verbs(plan, service, known.pushed)])  # one that cannot hear of it: nothing changes
    known.endpoints["accounts"] = [{"address": user.address, "password": None} for user in plan.stack.users]
    before = _push(plan, known, inventory.volumes(stack.name))
    with ThreadPoolExecutor(len(plan.services)) as pool:
        jobs = [pool.submit(_apply, plan, service, known, before) for service in plan.services]
        for job in jobs:
            job.result()
    if directory.there_is(known):
        directory.hand_in(known, plan.accounts)
    state.save(known)


def _push(plan: Plan, known: state.State, volumes: Sequence[str]) -> dict[str, dict[str, str]]:
    """Makes missing volumes and puts into the configuration volumes what is not in them yet; the digests of what was in them."""
    stack, before = plan.stack, {service: dict(files) for service, files in known.pushed.items()}
    wanted = compose.volumes(stack, plan.services)
    missing = [volume for volume in wanted if volume_name(stack.name, volume) not in volumes]
    if missing:
        engine.make_volumes(stack.name, missing)
    changes: dict[str, Files] = {}
    for service in plan.services:
        held = {} if config_volume(service.name) in missing else known.pushed.get(service.name, {})
        new = {path: file for path, file in plan.files[service.name].items() if held.get(path) != file.digest}
        # A volume forgets nothing: what is no longer there becomes an empty file, which stands for none.
        new |= {path: File(b"", 0o644, (0, 0), "live") for path in held if path not in plan.files[service.name]}
        if new:
            changes[service.name] = new
    if changes:
        engine.fill(stack.name, known.images[plan.services[0].backend.name], [service.name for service in plan.services], changes)
    now = {service.name: {path: file.digest for path, file in plan.files[service.name].items()} for service in plan.services}
    known.pushed = {service: {path: digest for path, digest in files.items() if before.get(service, {}).get(path) == digest} for service, files in now.items()}
    state.save(known)  # what is new counts once the servers have taken it: after an interrupt before that, the next command hands it over again
    known.pushed = now
    return before


def _changed(plan: Plan, service: Service, before: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The paths of a service's files that are not as they were."""
    return sorted(path for path, file in plan.files[service.name].items() if before.get(service.name, {}).get(path) != file.digest)


def _verbs(plan: Plan, service: Service, before: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """By which verbs, each with its arguments, a running server takes its new files."""
    paths = _changed(plan, service, before)
    accounts, others = ([path for path in paths if plan.files[service.name][path].on_change == kind] for kind in ("accounts", "reload"))
    return [*([["accounts-changed", *accounts]] if accounts else []), *([["reload"]] if others else [])]


def _apply(plan: Plan, service: Service, known: state.State, before: Mapping[str, Mapping[str, str]]) -> None:
    """Has a running server take its new files. `before` is what it had: where it fails, the next command tries again."""
    for verb, *named in _verbs(plan, service, before):
        status, output = engine.execute(known.containers[service.name], [f"{VERBS}/{verb}", *named])
        if status != 0:
            now = known.pushed[service.name]  # the refused files are in the volume all the same: whatever comes next replaces them
            known.pushed[service.name] = {path: digest for path, digest in before.get(service.name, {}).items() if now.get(path) == digest}
            known.fingerprint = ""  # it does not stand as any file says
            state.save(known)
            raise EngineError(f"{service.name}: the verb {verb} failed ({status}): {output.strip()}", f"`stackctl logs {service.name}` shows more")


def _versions(known: state.State, tags: Mapping[str, str]) -> dict[str, str]:
    """The versions of the servers in the images of a stack that has endpoints, by tag."""
    return {tags[part["backend"]]: part["version"] for part in state.parts(known.endpoints).values()}


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
    authority = ca.load_or_make_ca(root, stack.certified, datetime.now(UTC))
    return {
        "schema": 1,
        "name": stack.name,
        "domain": stack.domain,
        "ca": str(authority.certificate_path),
        "tls_name": plan.services[0].hostname,
        "mta": of(plan.services[0]),
        "stores": {service.name: {**of(service), **_kind(service)} for service in plan.services if service.role == "store"},
        **{service.name: {**of(service), **_logins(stack, service), **_url(stack, known, service)} for service in plan.services if service.role not in ("mta", "store")},
        "accounts": [{"address": user.address, "password": None} for user in stack.users],
        "catch_all": {"address": stack.catch_all_address, "password": None},
        "disposable": {"domain": stack.disposable, "password": None},
    }


def _logins(stack: Stack, service: Service) -> dict[str, Any]:
    people = stack.host.users if stack.host and service.role == "host" else ()
    return {"accounts": [{"name": one.name, "address": stack.host_address(one), "password": None} for one in people]} if people else {}


def _url(stack: Stack, known: state.State, service: Service) -> dict[str, Any]:
    address, port = stack.ports.address, known.ports.get(f"{service.name}.https")
    host = "localhost" if address in ("127.0.0.1", "::1", "0.0.0.0", "::") else f"[{address}]" if ":" in address else address
    return {"url": f"https://{host}:{port}/"} if port else {}


def _kind(service: Service) -> dict[str, Any]:
    return {"delivery": service.delivery, "mailbox": service.mailbox, "provides": list(service.provides)}


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


def _complaint(stack: Stack, service: Service, files: Files, tags: Mapping[str, str]) -> str:
    """What a server's own checker has against its files, "" where it is content."""
    content, said = checked(stack, service, files, tags)
    return "" if content else said


def checked(stack: Stack, service: Service, files: Files, tags: Mapping[str, str]) -> tuple[bool, str]:
    """Whether a server's own checker is content with its files, and what it said."""
    status, output = engine.try_out(tags[service.backend.name], files, [f"{VERBS}/check"], stack.name)
    return status == 0, output.strip()
