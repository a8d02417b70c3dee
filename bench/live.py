"""How soon a change of a running stack counts: a user, an alias, a domain, from the call until the MTA takes mail for it. It looks at no mailbox."""

from __future__ import annotations

import os
import smtplib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from bench.figures import Figure, interleaved, median
from bench.mail import WHO, WITHIN
from bench.stacks import Bench, since
from stackctl import live as change
from stackctl import state
from stackctl.errors import CheckFailed

Change = Callable[[str], object]
# Seconds: Dovecot looks at its passwd-file once in each, and a change that comes right after such a look waits for the next.
LOOKED_AT = 1.1


def live(bench: Bench, runs: int) -> Iterator[Figure]:
    """Each change on the default stack, by the library and as a command."""
    with bench.up("live") as found, patch.dict(os.environ, bench.environment()):
        name, known, made = found["name"], state.load(found["name"]), iter(range(1_000_000))

        def timed(address: str, make: Change) -> Callable[[], float]:
            """A measure of the time until an address, new each time, is known at RCPT. It must be known as soon as the change is done."""

            def once() -> float:
                time.sleep(LOOKED_AT)
                who = address.format(next(made))
                if _known(found, who):
                    raise CheckFailed(f"{who} is known before it is made")
                start = time.perf_counter()
                make(who)
                if not _known(found, who):
                    raise CheckFailed(f"{who} is made and is not known")
                return since(start)

            return once

        user, alias, domain = f"user{{}}@{found['domain']}", f"alias{{}}@{found['domain']}", f"anybody@new{{}}.{found['domain']}"
        changes: dict[str, tuple[str, Change]] = {
            "user add": (user, lambda who: change.user_add(known, who)),
            "alias set": (alias, lambda who: change.alias_set(known, who, (WHO,))),
            "domain add": (domain, lambda who: change.domain_add(known, who.partition("@")[2], WHO)),
            "alias set, as a command": (alias, lambda who: bench.stackctl("alias", "set", who, WHO, "--name", name)),
        }
        measures = [timed(*one) for one in changes.values()]
        interleaved(1, *measures)  # the first call of a process imports what the others have
        for what, values in zip(changes, interleaved(runs * 2, *measures), strict=True):
            yield Figure("live", f"{what}, until mail is taken for it", "ms", median(values), most=None if "command" in what else 150)


def _known(found: dict[str, Any], who: str) -> bool:
    """What a client that comes now is told; one that is there already may be told what it was told before."""
    host, port = found["mta"]["smtp"]
    with smtplib.SMTP(host, port, timeout=WITHIN) as smtp:
        smtp.ehlo()
        smtp.mail("bench@elsewhere.test")
        return smtp.rcpt(who)[0] == 250
