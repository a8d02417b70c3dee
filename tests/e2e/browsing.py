"""A Chromium that trusts a stack's CA, inside the network of the stack's webmail. It excuses nothing, and knows no page."""

from __future__ import annotations

import email
import email.policy
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from program import docker, tokens

from stackctl.clients.imap import Imap
from stackctl.clients.where import Where

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM, CERTUTIL = Path("/usr/bin/chromium"), Path("/usr/bin/certutil")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
URL = "https://localhost:8443/"  # as the browser sees it, from the inside
WITHIN = 30  # seconds for what a page does


@contextmanager
def browsing(container: str, ca: str, home: Path) -> Iterator[Browser]:
    """A browser in a home of its own, in which the CA is trusted and nothing is excused. Skips the test where there can be none."""
    if not (CHROMIUM.exists() and CERTUTIL.exists()):
        pytest.skip("no browser here: `apt-get install chromium libnss3-tools`")
    pid = docker("inspect", "-f", "{{.State.Pid}}", container).strip()
    if not os.access(f"/proc/{pid}/ns/net", os.R_OK):
        pytest.skip("entering the network of a container is for root on the engine's own machine")
    from playwright.sync_api import sync_playwright

    # A network that comes or goes on this machine, another test's say, makes Chromium drop its connections (ERR_NETWORK_CHANGED). In the webmail's own none does.
    program = home / "chromium"
    program.write_text(f'#!/bin/sh\nexec nsenter --net=/proc/{pid}/ns/net {CHROMIUM} "$@"\n')
    program.chmod(0o755)
    store = home / ".pki/nssdb"
    store.mkdir(parents=True)
    for what in (["-N", "--empty-password"], ["-A", "-n", "local", "-t", "C,,", "-i", ca]):
        subprocess.run([CERTUTIL, *what, "-d", f"sql:{store}"], check=True)
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=QUIET.split(), env={**os.environ, "HOME": str(home)})
        yield chromium
        chromium.close()


def message(found: Any, store: str, who: str, subject: str, folder: str = "INBOX") -> EmailMessage:
    """A message in somebody's mailbox of a store, once it is there."""
    with Imap(Where.of(found, store, "imaps")) as imap:
        imap.login(who, tokens(found)[who])
        [one] = imap.wait(subject=subject, timeout=WITHIN, mailbox=folder)
        return email.message_from_bytes(imap.fetch(one.uid), policy=email.policy.default)
