"""Asking servers whether a password is right, without a session. It changes nothing, and puts a password into no argument and no environment.

The verb `auth-test SERVICE ADDRESS` of an image does it, with the password as a line of standard input; SERVICE is imap, pop3 or smtp. It prints what the
server itself says of the login, and ends with 0 where it is accepted, with 1 where it is refused, with anything else where the server cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from stackctl import command, running, state
from stackctl.backends import all_backends
from stackctl.errors import CheckFailed, UsageError
from stackctl.labels import VERBS
from stackctl.model import address
from stackctl.problems import valid

VERB = "auth-test"


@dataclass(frozen=True)
class Verdict:
    """Whether a server would let somebody in, and what it says of it."""

    server: str
    service: str
    accepted: bool
    output: str


def test(known: state.State, who: str, password: str, service: str = "imap", store: str | None = None) -> tuple[Verdict, ...]:
    """What each store says of a password, or one store; for smtp, what the MTA says, where submission is checked.

    Raises UsageError for what is no address, an unknown store or a store for smtp; CheckFailed where a server does not run or cannot tell.
    """
    who = valid(address, who)
    if service == "smtp" and store is not None:
        raise UsageError("logins for submission are checked by the MTA, and by no store", "leave --store out")
    servers = ["mta"] if service == "smtp" else running.stores(known, store)
    running.require(known, servers)
    return tuple(_ask(known, server, service, who, password) for server in servers)


def _ask(known: state.State, server: str, service: str, who: str, password: str) -> Verdict:
    backend = all_backends()[state.parts(known.endpoints)[server]["backend"]]
    if VERB not in backend.verbs:
        raise UsageError(f"{backend.name} has no verb {VERB}", f"it has {', '.join(backend.verbs)}")
    argv = ["docker", "exec", "-i", known.containers[server], f"{VERBS}/{VERB}", service, who]
    done = command.run(argv, stdin=f"{password}\n".encode(), check=False)
    output = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    if done.status not in (0, 1):
        raise CheckFailed(f"{server} cannot tell whether the password is right: {output}", f"`stackctl logs {server}` shows why")
    return Verdict(server, service, done.status == 0, output)
