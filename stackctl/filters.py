"""What becomes of a message on its way into a mailbox: which service filters it, in which language, and a try without delivery. It changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stackctl import command, running, state
from stackctl.backends import all_backends
from stackctl.errors import CheckFailed, UsageError
from stackctl.labels import VERBS


@dataclass(frozen=True)
class Trial:
    """What a filter would do with a message, in its own words; `service` runs it, in `language`."""

    store: str
    service: str
    language: str
    output: str


def runs(endpoints: Mapping[str, Any], store: str) -> tuple[str, str] | None:
    """Which service filters what comes to a store, and in which language; None where nothing does."""
    part = endpoints["stores"][store]
    for language, places in all_backends()[endpoints["mta"]["backend"]].filters.items():
        if part["delivery"] in places.ways:
            return "mta", language
    backend = all_backends()[part["backend"]]
    direct = backend.delivery[part["delivery"]].port is not None  # the server itself takes it in
    return next(((store, language) for language in backend.filters), None) if direct else None


def test(known: state.State, user: str, message: bytes, store: str | None = None) -> tuple[Trial, ...]:
    """Has each store's filters look at a message for a user; nothing is delivered, no program of a script is started.

    Raises UsageError for an unknown user or store, and where nothing is filtered; CheckFailed with the filter's words where a script is at fault.
    """
    running.password_of(known, user)  # an unknown user ends here
    found = []
    for name in running.stores(known, store):
        if (by := runs(known.endpoints, name)) is None:
            continue
        service, language = by
        argv = ["docker", "exec", "-i", known.containers[service], f"{VERBS}/filter-test", language, user.lower()]
        done = command.run(argv, stdin=message.replace(b"\r\n", b"\n"), check=False)
        output = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
        if done.status != 0:
            raise CheckFailed(f"{name}: the {language} script does not work:\n{output}", "`stackctl check` names the line of each fault")
        found.append(Trial(name, service, language, output))
    if not found:
        ways = ", ".join(f"{name} by {known.endpoints['stores'][name]['delivery']}" for name in running.stores(known, store))
        raise UsageError(f"nothing is filtered on the way to {ways}", "another `delivery` in stack.yaml has filters: see docs/delivery.md")
    return tuple(found)
