"""A stack as its file would make it, for a person to look at: its files, what `up` would change, what the servers' checkers say. It starts no stack."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from stackctl import ca, engine, images, load, peers, render, state
from stackctl.render import Files, Secrets, Service
from stackctl.stack import Plan, checked, effective, verifiers
from stackctl.steps import Report

MASKED = "$2b$04$" + "." * 53  # stands for every password hash where files are shown


def preview(path: Path | None, name: str | None = None) -> Plan:
    """A stack's services and files as they would be, for a person to read: no password hash, no key, nothing written, no engine asked.

    The same file gives the same octets. Users added live are there too. Raises BadStack.
    """
    loaded = load.load(path)
    stack = loaded.stack if name is None else loaded.stack.model_copy(update={"name": name})
    stack = peers.resolved(effective(stack, state.load(stack.name)))
    secrets = Secrets(dict.fromkeys(render.with_passwords(stack), MASKED), MASKED, b"", b"", b"")  # what verifiers are in is not shown at all
    services = render.services(stack)
    return Plan(stack, services, {service.name: _readable(service, render.render(stack, service, secrets)) for service in services})


def _readable(service: Service, files: Files) -> Files:
    hidden = {item.path for item in service.backend.files if item.secret}
    return {path: file for path, file in files.items() if not path.startswith("tls/") and path not in hidden}


def differences(path: Path | None, name: str | None = None) -> dict[str, str]:
    """What `up` would change in the files of the running services: service/path to a unified diff."""
    import difflib

    plan = preview(path, name)
    known = state.load(plan.stack.name)
    found = {}
    for service in plan.services:
        running = engine.fetch(known.containers[service.name], render.CONFIG) if service.name in known.containers else {}
        for file, new in sorted(plan.files[service.name].items()):
            before, after = (_masked(text.decode()).splitlines(True) for text in (running.get(file, b""), new.content))
            lines = difflib.unified_diff(before, after, f"running/{file}", f"stack.yaml/{file}")
            if text := "".join(lines):
                found[f"{service.name}/{file}"] = text
    return found


def _masked(text: str) -> str:
    """A file's text without password hashes, and without names that come from these."""
    return render.CONTENT_NAME.sub("content", re.sub(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}", MASKED, text))


def check(path: Path | None, name: str | None = None, report: Report = lambda _: None) -> dict[str, tuple[bool, str]]:
    """Each engine's own checker on its files, in containers that run nothing else: service to (whether it is content, what it said).

    Raises BadStack, and EngineError when no engine answers or an image cannot be built.
    """
    tried, tags = trial(path, name, report)

    def one(service: Service) -> tuple[bool, str]:
        report(f"{service.name}: {service.backend.name} checks its files …")
        content, said = checked(tried.stack, service, tried.files[service.name], tags)
        return content, "\n".join(filter(None, [said, render.passed_quotas(tried.stack, service)]))

    with ThreadPoolExecutor(len(tried.services)) as pool:
        return dict(zip((service.name for service in tried.services), pool.map(one, tried.services), strict=True))


def trial(path: Path | None, name: str | None = None, report: Report = lambda _: None) -> tuple[Plan, dict[str, str]]:
    """A stack's files as its servers would get them, but with throw-away certificate and passwords; and the image of each backend.

    Raises BadStack, and EngineError when no engine answers or an image cannot be built.
    """
    loaded = load.load(path)
    stack = loaded.stack if name is None else loaded.stack.model_copy(update={"name": name})
    stack = peers.resolved(stack)
    services = render.services(stack)
    tags = images.build([service.backend for service in services], stack.debian, lambda progress: report(str(progress)))
    now = datetime.now(UTC)
    authority = ca.make_ca(stack.certified, now)  # for a throw-away certificate
    leaf = ca.make_leaf(authority, render.certificate_names(stack), now)
    credentials, disposable = {address: state.new_credential() for address in render.with_passwords(stack)}, state.new_credential()
    hashes = {address: credential.hash for address, credential in credentials.items()}
    kept = verifiers(stack, services, credentials, disposable)
    named = dict.fromkeys(stack.tls.sni, leaf.key + leaf.certificate)
    secrets = Secrets(hashes, disposable.hash, leaf.certificate, leaf.key, authority.certificate, named=named, verifiers=kept, kerberos=state.new_password())
    return Plan(stack, services, {service.name: render.render(stack, service, secrets) for service in services}), tags
