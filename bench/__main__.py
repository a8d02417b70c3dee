"""Runs the measurements and prints them: a table, or JSON. Exit code 1 where a target is missed.

Figures are ratios to something that is measured in the same run, one after the other in turn; the absolute ones are this machine's.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from imaplib import IMAP4
from pathlib import Path
from smtplib import SMTPException

from bench import accounts, bare, contents, fixture, flakes, live, logs, mail, moving, mta, size, start
from bench.figures import Figure, table
from bench.stacks import Bench
from stackctl.backends import all_backends
from stackctl.errors import StackctlError

Measure = Callable[[Bench, int], Iterator[Figure]]


def measures() -> dict[str, Measure]:
    """Every measurement by its name. Those of one store carry the store's."""
    stores = [backend for backend in all_backends().values() if backend.role == "store"]
    found: dict[str, Measure] = {"up": start.up, "webmail": start.webmail, "life": start.life}
    for store in stores:
        found[f"single-{store.name}"] = partial(mail.single, store=store)
        found[f"burst-{store.name}"] = partial(mail.burst, store=store)
        found[f"sessions-{store.name}"] = partial(mail.sessions, store=store)
        found[f"outside-{store.name}"] = partial(mail.outside, store=store)
    for server in all_backends().values():
        if server.role == "mta" and (bare.HERE / server.name).is_dir():
            found[f"mta-{server.name}"] = partial(mta.mta, backend=server)
    return found | {
        "accounts": accounts.accounts,
        "contents": contents.contents,
        "live": live.live,
        "logs": logs.logs,
        "migrate": moving.migrate,
        "fixture": fixture.fixture,
        "flakes": flakes.flakes,
        "memory": size.memory,
        "disk": size.disk,
    }


def main() -> int:
    """The command line."""
    known = measures()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"these alone, by the beginning of their names: {', '.join(known)}")
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured (5); single messages are always sent 60 times")
    options = parser.parse_args()
    chosen = {name: measure for name, measure in known.items() if not options.only or name.startswith(tuple(options.only))}
    if not chosen:
        parser.error(f"--only: there is no such name; names are {', '.join(known)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was made is removed then, too
    figures: list[Figure] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="stackctl-bench-") as folder:
        for name, measure in chosen.items():
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                for figure in measure(Bench(Path(folder)), options.runs):
                    figures.append(figure)
                    print("  " + "  ".join(cell for cell in figure.row() if cell), file=sys.stderr, flush=True)
            except KeyboardInterrupt:
                return 130
            except (StackctlError, OSError, IMAP4.error, SMTPException) as why:
                failed.append(name)
                print(f"bench: {name}: {why}", file=sys.stderr)
    print(json.dumps([figure.json() for figure in figures], indent=1) if options.json else table(figures))
    if failed:
        print(f"bench: could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or any(figure.good is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
