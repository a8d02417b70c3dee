"""Every MTA beside every other one: a stack of each, which all hand mail to each other over verified TLS; what came back is in docs/mtas.md."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Iterator
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from conftest import NAME, ROOT
from program import until
from test_mtas import WITHIN, Front, up

from stackctl import running
from stackctl.backends import choices
from stackctl.clients.imap import Imap
from stackctl.clients.where import Where
from stackctl.testing import bounce
from stackctl.testing.received import Message

pytestmark = [pytest.mark.e2e, pytest.mark.feature("B2", "B11")]
FAMILIES = choices("mta")
PAIRS = list(permutations(FAMILIES, 2))
PAGE = ROOT / "docs/mtas.md"
_found: dict[tuple[str, str], dict[str, str]] = {}  # from and to -> what was seen


def domain(family: str) -> str:
    return f"{family}.test"


def ann(family: str) -> str:
    return f"ann@{domain(family)}"


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Front]]:
    """A stack of each MTA; the domains of all the others are routes to their stacks."""
    folder: Path = tmp_path_factory.mktemp("exchange")
    names = {family: f"{NAME}-x-{family}" for family in FAMILIES}

    def file(family: str) -> dict[str, Any]:
        others = [other for other in FAMILIES if other != family]
        return {
            "name": names[family],
            "domain": domain(family),
            "mta": {"backend": family},
            "stores": [{"backend": "dovecot"}],
            "users": [{"address": ann(family)}],
            "routes": {domain(other): {"stack": names[other], "host": f"mail.{domain(other)}"} for other in others},
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACKCTL_STATE", str(folder / "state"))
        patch.setenv("CAROOT", str(folder / "ca"))
        patch.delenv("STACKCTL_NAME", raising=False)
        try:
            yield {family: up(folder / f"{family}.yaml", file(family)) for family in FAMILIES}
        finally:
            for name in names.values():
                running.down(name, volumes=True)


def send(front: Front, sender: str, to: str, subject: str, notify: str) -> None:
    """Through the submission port, by a client that asks for reports (RFC 3461)."""
    host, port = front.endpoints["mta"]["submission"]
    with smtplib.SMTP(host, port, timeout=WITHIN) as smtp:
        smtp.starttls(context=ssl.create_default_context(cafile=front.endpoints["ca"]))
        smtp.login(sender, front.password(sender))
        text = f"From: {sender}\r\nTo: {to}\r\nMessage-ID: <{subject}@x.example>\r\nSubject: {subject}\r\n\r\nhello\r\n"
        assert smtp.sendmail(sender, [to], text, ["RET=HDRS"], [f"NOTIFY={notify}"]) == {}


def report(front: Front, who: str, about: str) -> bounce.Bounce:
    """The notification about a message, as it came to who sent it."""

    def look() -> bounce.Bounce | None:
        with Imap(Where.of(front.endpoints, "dovecot", "imaps")) as imap:
            imap.login(who, front.password(who))
            imap.select(readonly=True)
            found = [bounce.parse(Message(one, partial(imap.fetch, one.uid))) for one in imap.summaries(imap.uids("ALL"))]
        return next((one for one in found if one and about in one.message_id), None)

    found: bounce.Bounce = until(look, WITHIN, f"a report about {about}")
    return found


@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_mail_goes_over_verified_tls_and_reports_come_back(sender: str, receiver: str, fronts: dict[str, Front]) -> None:
    here, there, subject = fronts[sender], fronts[receiver], f"{sender}-to-{receiver}"
    send(here, ann(sender), ann(receiver), subject, "SUCCESS,FAILURE")
    send(here, ann(sender), f"nobody@{domain(receiver)}", f"{subject}-nobody", "FAILURE")
    message = there.message(ann(receiver), subject)
    hop = next(" ".join(line.split()) for line in message.get_all("Received", []) if f"by mail.{domain(receiver)}" in line)
    tls = re.search(r"TLSv?(1\.\d)", hop)
    assert f"mail.{domain(sender)}" in hop and "with ESMTPS" in hop and tls, hop
    delivered, bounced = report(here, ann(sender), f"<{subject}@"), report(here, ann(sender), f"<{subject}-nobody@")
    assert delivered.action in ("delivered", "relayed", "expanded") and delivered.status.startswith("2.")
    assert bounced.action == "failed" and bounced.status.startswith("5.") and "User unknown" in bounced.diagnostic_code
    _found[sender, receiver] = {"hop": f"TLS {tls[1]}", "delivered": f"{delivered.action} {delivered.status}", "bounced": f"{bounced.action} {bounced.status}"}


def test_mail_for_another_domain_goes_to_no_peer(fronts: dict[str, Front]) -> None:
    """The negative twin, beside that of test_mtas.py: a next hop must show who it is."""
    first, second = (fronts[family] for family in FAMILIES[:2])
    first.send(ann(FAMILIES[0]), f"joe@{domain(FAMILIES[1])}.example", "elsewhere", login=ann(FAMILIES[0]))
    first.message(first.endpoints["catch_all"]["address"], "elsewhere")
    assert not [line for line in second.lines() if "elsewhere" in line.text]


def test_the_page_has_every_pair(request: pytest.FixtureRequest) -> None:
    """What it is to hold is written by `--update-golden`."""
    assert set(_found) == set(PAIRS), "run the whole file: the table is of all pairs"
    rows = ["| from | to | hop | report of success | report of failure |", "| --- | --- | --- | --- | --- |"]
    rows += [f"| {one} | {other} | {seen['hop']} | {seen['delivered']} | {seen['bounced']} |" for (one, other), seen in sorted(_found.items())]
    table, text = "\n".join(rows) + "\n", PAGE.read_text(encoding="utf-8")
    if request.config.getoption("--update-golden"):
        text = re.sub(r"\| from \| to \|.*?\n(?!\|)", lambda _: f"{table}", text, count=1, flags=re.DOTALL)
        PAGE.write_text(text, encoding="utf-8")
    assert table in text, "`pytest tests/e2e/test_exchange.py --update-golden`, then read the difference"
