"""docs/stores.md, written from what a run observed. It asks no server anything."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stackctl.backends import Backend, all_backends
from stackctl.scenario import Scenario
from stackctl.scenarios import Outcome, all_scenarios

PATH = Path(__file__).parent.parent / "docs" / "stores.md"
_RFC = re.compile(r"RFC \d+(?: [A-Z0-9=-]{3,})?")
_HEAD = """\
# What each store has

Written by `pytest tests/e2e/test_flow.py -k stores --update-golden` from what the servers did; the end-to-end suite compares it in each run.
`stackctl test --only imap_` asks the stores of your own stack. **yes**: a scenario did it, and what must not work beside it did not.
**no**: the server itself does not announce it as it is set here; with Dovecot some of it is a matter of settings, as [ACL](dovecot.md#shared-folders) is.

Mail programs as people have them are tried against each store and the MTA too, with TLS verified against the local CA: mbsync, mutt, curl, fetchmail and
getmail read, curl, msmtp, swaks and mutt send. What each of them is told is a file of `tests/clients/`, which may serve as an example.

"""


def text(endpoints: Mapping[str, Any], outcomes: Sequence[Outcome], announced: Mapping[str, Mapping[str, set[str]]]) -> str:
    """The page: a table of scenarios and stores, and what each store announces."""
    titles = {store: all_backends()[about["backend"]].summary.partition(",")[0] for store, about in endpoints["stores"].items()}
    rows = [["what", "where it is written", *titles.values()], ["---"] * (2 + len(titles))]
    for name in dict.fromkeys(one.name for one in outcomes):
        verdicts = {one.case.store: _cell(one) for one in outcomes if one.name == name}
        rows.append([name.replace("_", " "), _source(all_scenarios()[name]), *(verdicts[store] for store in titles)])
    parts = [_HEAD + "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    parts += ["## What can be chosen", *_choices({title: all_backends()[endpoints["stores"][store]["backend"]] for store, title in titles.items()})]
    for store, title in titles.items():
        lines = [f"{protocol}: {' '.join(f'`{name}`' for name in sorted(names))}" for protocol, names in announced[store].items()]
        parts.append("\n\n".join([f"## What {title} announces", *lines]))
    return "\n\n".join(parts) + "\n"


def _choices(stores: Mapping[str, Backend]) -> list[str]:
    """A table of what stack.yaml can ask of each store: the suite logs in by every mechanism, and delivers by every way into every format."""
    rows = [["what", *stores], ["---"] * (1 + len(stores))]
    for what, field in (("auth.mechanisms", "mechanisms"), ("delivery", "delivery"), ("mailbox", "mailboxes")):
        for name in dict.fromkeys(name for one in stores.values() for name in getattr(one, field)):
            rows.append([f"`{what}`: {name}", *("yes" if name in getattr(one, field) else "no" for one in stores.values())])
    refused = {name: why for one in stores.values() for name, why in one.mechanism_reasons.items()}
    return ["\n".join(f"| {' | '.join(row)} |" for row in rows), "\n".join(f"- No store has {name}: {why}." for name, why in refused.items())]


def _cell(outcome: Outcome) -> str:
    if outcome.verdict == "not offered":
        return f"no: `{outcome.reason.removeprefix('not offered: ').partition(' (')[0]}`"
    return {"passed": "yes"}.get(outcome.verdict, f"{outcome.verdict}: {outcome.reason}")


def _source(scenario: Scenario) -> str:
    found = _RFC.search(scenario.function.__doc__ or "")
    return found[0] if found else ""
