"""Courier's own webmail as people use it, in a Chromium that trusts the local CA: logging in, reading, sending, logging out; and what the container may do."""

from __future__ import annotations

import email
import email.policy
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsing import URL, WITHIN, browsing, message
from conftest import NAME
from program import Program, docker, tokens, until

from stackctl.clients.smtp import Smtp
from stackctl.clients.where import Where
from stackctl.labels import project_name

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D6"), pytest.mark.feature("D8")]

STACK = f"{NAME}-sqwebmail"
CONTAINER = f"{project_name(STACK)}-webmail-1"
ALICE, BOB = "alice@example.test", "bob@example.test"
FILE = """\
stores: [{backend: dovecot}, {backend: courier}]
webmail: {backend: sqwebmail}
limits: {auth_failure_delay: 0}
"""
OCTETS = bytes(range(256)) * 40 + b"\r\n.\r\n"


@pytest.fixture(scope="module")
def webmail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack with a webmail, which shows the store that it can show and not the first one."""
    with Program.started(tmp_path_factory.mktemp("sqwebmail"), STACK, FILE) as program:
        program("open", "webmail", "--print", "--wait")
        yield program


@pytest.fixture(scope="module")
def found(webmail: Program) -> Any:
    return webmail.endpoints


@pytest.fixture(scope="module")
def browser(found: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(CONTAINER, found["ca"], tmp_path_factory.mktemp("home")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def at_home(browser: Browser, found: Any) -> Iterator[Page]:
    """Alice, logged in, with her folders before her."""
    context = browser.new_context()
    page = logs_in(context, ALICE, tokens(found)[ALICE])
    page.locator("a.folderlink", has_text="INBOX").wait_for()
    yield page
    context.close()


def logs_in(context: BrowserContext, who: str, password: str) -> Page:
    """A page after the login form was sent; without frames, each page is the whole of what is seen."""
    context.set_default_timeout(WITHIN * 1000)
    page = context.new_page()
    page.goto(URL)
    page.goto(f"{URL}webmail?noframes=1")
    page.fill("[name=username]", who)
    page.fill("[name=password]", password)
    page.click("[name='do.login']")
    if "/login/" in page.url:
        page.goto(page.url.replace("form=refreshfr", "form=folders"))
    return page


def test_a_message_is_read_and_its_attachment_is_whole(at_home: Page, found: Any) -> None:
    sent = EmailMessage()
    sent["From"], sent["To"], sent["Subject"] = "Zoe <zoe@elsewhere.test>", ALICE, "withafile"
    sent.set_content("Here it is, <b>plain</b>.\n")
    sent.add_attachment(OCTETS, maintype="application", subtype="octet-stream", filename="every.bin")
    with Smtp(Where.of(found, "mta", "smtp")) as smtp:
        smtp.send("zoe@elsewhere.test", [ALICE], sent.as_bytes(policy=email.policy.SMTP))
    message(found, "courier", ALICE, "withafile")
    at_home.get_by_role("link", name="Folders").first.click()
    at_home.locator("a.folderlink", has_text="INBOX").click()
    at_home.locator(".message-subject a", has_text="withafile").click()
    at_home.get_by_text("Here it is, <b>plain</b>.").wait_for()
    with at_home.expect_download() as download:
        at_home.get_by_role("link", name="Download", exact=True).click()
    assert download.value.suggested_filename == "every.bin"
    assert Path(download.value.path()).read_bytes() == OCTETS


def test_a_message_is_sent(at_home: Page, found: Any) -> None:
    at_home.get_by_role("link", name="Create Message").click()
    assert at_home.locator("[name=headerfrom]").get_attribute("readonly") is not None, "nobody writes as somebody else"
    at_home.fill("[name=headerto]", BOB)
    at_home.fill("[name=headersubject]", "fromabrowser")
    at_home.fill("[name=message]", "Grüße aus dem Browser.")
    at_home.click("[name=doattachments]")
    at_home.set_input_files("input[type=file]", {"name": "every.bin", "mimeType": "application/octet-stream", "buffer": OCTETS})
    at_home.click("input[value=Upload]")
    at_home.get_by_text("every.bin").wait_for()
    at_home.click("[name=sendmsg]")
    arrived = message(found, "courier", BOB, "fromabrowser")
    assert arrived["From"] == ALICE and arrived["To"] == BOB and arrived["Return-Path"] == f"<{ALICE}>"
    text = arrived.get_body(("plain",))
    assert text and text.get_content().strip() == "Grüße aus dem Browser."
    assert [one.get_content() for one in arrived.iter_attachments()] == [OCTETS]
    assert message(found, "courier", ALICE, "fromabrowser", "INBOX.Sent")["To"] == BOB


def test_a_wrong_password_is_refused(browser: Browser, webmail: Program, found: Any) -> None:
    context = browser.new_context()
    start = time.monotonic()
    page = logs_in(context, ALICE, tokens(found)[BOB])
    page.get_by_text("INVALID USER ID OR PASSWORD").wait_for()
    assert time.monotonic() - start > 4, "the store makes whoever guesses wait"
    assert "/login/" not in page.url
    context.close()
    assert f"LOGIN FAILED, user={ALICE}" in until(lambda: webmail("logs", "webmail", "--problems").out, WITHIN)


def test_a_session_ends_with_logging_out(browser: Browser, found: Any) -> None:
    """Its key is in the address, not in a cookie: no other site is told of it."""
    context, other = browser.new_context(), browser.new_context()
    page = logs_in(context, BOB, tokens(found)[BOB])
    session = page.url
    assert context.cookies() == []
    answer = page.reload()
    assert answer and answer.headers["referrer-policy"] == "no-referrer"
    thief = other.new_page()
    thief.goto(session)
    assert thief.locator("a.folderlink", has_text="INBOX").count(), "the address is the session"
    thief.goto(session.replace(session.split("/login/")[1].split("/")[1], "0" * 32))
    assert not thief.locator("a.folderlink").count()
    page.get_by_role("link", name="Log Out").click()
    page.wait_for_url(lambda url: "/login/" not in url)
    thief.goto(session)
    assert not thief.locator("a.folderlink").count()
    context.close()
    other.close()


def test_it_has_no_right_and_keeps_no_password(at_home: Page, webmail: Program, found: Any) -> None:
    told = docker("inspect", CONTAINER) + docker("logs", CONTAINER) + (webmail.state / "compose.yaml").read_text()
    files = "/proc/[0-9]*/cmdline /proc/[0-9]*/environ /etc/stackctl/* $(find /var/cache/sqwebmail /tmp -type f)"
    inside = docker("exec", CONTAINER, "sh", "-c", f"cat {files} 2>/dev/null || true")
    assert "lighttpd" in inside and ALICE in inside, "processes and sessions were looked through"
    assert tokens(found)[ALICE] not in told + inside
    wanted = ("HostConfig.ReadonlyRootfs", "HostConfig.CapDrop", "HostConfig.CapAdd", "Config.User", "HostConfig.SecurityOpt")
    shape = docker("inspect", "-f", " ".join(f"{{{{.{key}}}}}" for key in wanted), CONTAINER)
    assert shape.split() == ["true", "[ALL]", "[]", "5000:5000", "[no-new-privileges:true]"]
    assert [line.split(" -> ")[1].rpartition(":")[0] for line in docker("port", CONTAINER).splitlines()] == ["127.0.0.1"]
    assert webmail("check").code == 0


ASKED = r"""
sed "s,/etc/stackctl/login,/tmp/asked," /etc/courier/authProg >/tmp/asks
while read -r name ca; do
    printf 'courier\n%s\n%s\n' "$name" "$ca" >/tmp/asked
    printf '%s\n' "$0" | perl /tmp/asks 2>/dev/null | grep -c '^MAILDIR=/var/vmail/example.test/alice/Maildir$' || true
done <<END
courier.example.test /etc/stackctl/tls/ca.pem
other.example.test /etc/stackctl/tls/ca.pem
courier.example.test /etc/ssl/certs/ca-certificates.crt
END
"""


def test_the_store_behind_it_is_verified_and_asked_for_each_password(webmail: Program, found: Any) -> None:
    """The program that the login daemon runs: the store's certificate has to have its name and to be of the local CA, and nobody is known without a password."""

    def asked(command: str) -> list[str]:
        return docker("exec", CONTAINER, "bash", "-c", ASKED, command).split()

    login = f"webmail\nlogin\n{ALICE}\n{tokens(found)[ALICE]}\n"
    assert asked(f"AUTH {len(login)}\n{login}") == ["1", "0", "0"]
    assert asked(f"PRE . webmail {ALICE}") == ["0", "0", "0"]
