"""The webmail as people use it: a Chromium that trusts the local CA logs in, reads, sends and logs out; and what the container may do."""

from __future__ import annotations

import email
import email.policy
import socket
import ssl
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

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D8")]

STACK = f"{NAME}-webmail"
CONTAINER = f"{project_name(STACK)}-webmail-1"
ALICE, BOB = "alice@example.test", "bob@example.test"
FILE = """\
stores: [{backend: dovecot}]
webmail: {}
limits: {auth_failure_delay: 0}
"""
OCTETS = bytes(range(256)) * 40 + b"\r\n.\r\n"


@pytest.fixture(scope="module")
def webmail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack with a webmail."""
    program = Program.below(tmp_path_factory.mktemp("webmail"), STACK, STACKCTL_NAME=STACK)
    program.write(FILE)
    with program.up():
        program("open", "webmail", "--print", "--wait")
        yield program


@pytest.fixture(scope="module")
def found(webmail: Program) -> Any:
    return webmail("endpoints", "--json", "--secrets").json


@pytest.fixture(scope="module")
def browser(found: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(CONTAINER, found["ca"], tmp_path_factory.mktemp("home")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def at_home(browser: Browser, found: Any) -> Iterator[BrowserContext]:
    """Alice, logged in."""
    context = browser.new_context()
    context.set_default_timeout(WITHIN * 1000)
    page = logs_in(context, tokens(found)[ALICE])
    page.wait_for_selector("#mailboxlist")
    page.close()
    yield context
    context.close()


def logs_in(context: BrowserContext, password: str) -> Page:
    page = context.new_page()
    page.goto(URL)
    page.fill("#rcmloginuser", ALICE)
    page.fill("#rcmloginpwd", password)
    page.click("#rcmloginsubmit")
    return page


# --- What people do


def test_a_message_is_read_and_its_attachment_is_whole(at_home: BrowserContext, found: Any) -> None:
    sent = EmailMessage()
    sent["From"], sent["To"], sent["Subject"] = "Zoe <zoe@elsewhere.test>", ALICE, "with a file"
    sent.set_content("Here it is, <b>plain</b>.\n")
    sent.add_attachment(OCTETS, maintype="application", subtype="octet-stream", filename="every octet.bin")
    with Smtp(Where.of(found, "mta", "smtp")) as smtp:
        smtp.send("zoe@elsewhere.test", [ALICE], sent.as_bytes(policy=email.policy.SMTP))
    message(found, "dovecot", ALICE, "with a file")
    page = at_home.new_page()
    page.goto(URL)
    page.locator("#messagelist td.subject", has_text="with a file").dblclick()
    page.locator("#messagebody", has_text="Here it is, <b>plain</b>.").wait_for()
    with page.expect_download() as download:
        page.locator("#attachment-list a.filename").click()
    assert download.value.suggested_filename == "every octet.bin"
    assert Path(download.value.path()).read_bytes() == OCTETS


def test_a_message_is_sent(at_home: BrowserContext, found: Any) -> None:
    page = at_home.new_page()
    page.goto(f"{URL}?_task=mail&_action=compose")
    page.locator(".recipient-input input").first.fill(f"{BOB},")
    page.fill("#compose-subject", "from a browser")
    page.fill("#composebody", "Grüße aus dem Browser.")
    page.set_input_files("#uploadformInput", {"name": "every.bin", "mimeType": "application/octet-stream", "buffer": OCTETS})
    page.locator("#attachment-list li:not(.uploading)", has_text="every.bin").wait_for()
    page.click("button.send")
    arrived = message(found, "dovecot", BOB, "from a browser")
    assert ALICE in arrived["From"] and BOB in arrived["To"]
    text = arrived.get_body(("plain",))
    assert text and text.get_content().strip() == "Grüße aus dem Browser."
    assert [one.get_content() for one in arrived.iter_attachments()] == [OCTETS]
    assert "TLS" in str(arrived.get_all("Received")), "it was handed in over TLS"
    assert message(found, "dovecot", ALICE, "from a browser", "Sent")["To"] == BOB


def test_cookies_are_for_this_site_and_no_script(at_home: BrowserContext, found: Any) -> None:
    cookies = [cookie for cookie in at_home.cookies() if cookie.get("name", "").startswith("roundcube_sess")]
    assert len(cookies) == 2
    for cookie in cookies:
        assert cookie.get("secure") and cookie.get("httpOnly") and cookie.get("sameSite") == "Strict", cookie


def test_a_wrong_password_is_refused(browser: Browser, webmail: Program, found: Any) -> None:
    context = browser.new_context()
    page = logs_in(context, "wrong horse")
    page.locator("#messagestack", has_text="Login failed").wait_for()
    assert page.locator("#rcmloginpwd").count() == 1 and page.locator("#mailboxlist").count() == 0
    context.close()
    assert "Failed login for alice@example.test" in until(lambda: webmail("logs", "webmail", "--problems").out, WITHIN)


def test_a_login_ends_with_logging_out(browser: Browser, found: Any) -> None:
    context, other = browser.new_context(), browser.new_context()
    page = logs_in(context, tokens(found)[ALICE])
    page.wait_for_selector("#mailboxlist")
    other.add_cookies(context.cookies())  # type: ignore[arg-type]
    thief = other.new_page()
    thief.goto(f"{URL}?_task=settings")
    assert thief.locator("#rcmloginpwd").count() == 0, "the cookies are the session"
    page.locator("a.logout").click()
    page.wait_for_selector("#rcmloginpwd")
    thief.goto(f"{URL}?_task=settings")
    assert thief.locator("#rcmloginpwd").count() == 1
    context.close()
    other.close()


# --- The way there


def test_its_certificate_is_the_local_cas(found: Any) -> None:
    host, port = found["webmail"]["https"]
    trusting = ssl.create_default_context(cafile=found["ca"])
    for name in ("webmail.example.test", "localhost"):
        with socket.create_connection((host, port), WITHIN) as sock, trusting.wrap_socket(sock, server_hostname=name) as tls:
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
    for context, name in ((trusting, "webmail.other.test"), (ssl.create_default_context(), "localhost")):
        with socket.create_connection((host, port), WITHIN) as sock, pytest.raises(ssl.SSLCertVerificationError):
            context.wrap_socket(sock, server_hostname=name)


PEERS = """
$config = []; require "/etc/stackctl/config.inc.php";
foreach ([["imap", $config["imap_host"]], ["smtp", "ssl://mta:465"]] as [$kind, $host]) {
    $good = $config[$kind . "_conn_options"];
    foreach ([[], ["peer_name" => "other.example.test"], ["cafile" => "/etc/ssl/certs/ca-certificates.crt"]] as $other) {
        $options = ["ssl" => $other + $good["ssl"]];
        echo @stream_socket_client($host, $number, $text, 10, STREAM_CLIENT_CONNECT, stream_context_create($options)) ? "+" : "-";
    }
}
"""


def test_servers_behind_it_are_verified() -> None:
    assert docker("exec", CONTAINER, "php", "-r", PEERS) == "+--+--"


def test_only_this_machine_reaches_it(found: Any) -> None:
    assert [line.split(" -> ")[1].rpartition(":")[0] for line in docker("port", CONTAINER).splitlines()] == ["127.0.0.1"]
    assert found["webmail"]["url"] == f"https://localhost:{found['webmail']['https'][1]}/"


# --- The command, and the container


def test_open_starts_the_browser_that_there_is(webmail: Program, found: Any, tmp_path: Path) -> None:
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n')
    script.chmod(0o755)
    assert webmail("open", "webmail", BROWSER=f"{script} %s").out == f"{found['webmail']['url']}\n"
    assert (tmp_path / "opened").read_text() == f"{found['webmail']['url']}\n"
    (tmp_path / "opened").unlink()
    assert webmail("open", "webmail", "--json", BROWSER=f"{script} %s").json == {"url": found["webmail"]["url"]}
    assert not (tmp_path / "opened").exists()
    assert "these have one: webmail" in webmail("open", "dovecot", code=2).err


def test_it_has_no_right_and_keeps_its_secrets(at_home: BrowserContext, webmail: Program, found: Any) -> None:
    key = docker("exec", CONTAINER, "sed", "-n", "s/.*'\\(.*\\)'.*/\\1/p", "/etc/stackctl/key.php").strip()
    assert len(key) == 20
    told = docker("inspect", CONTAINER) + docker("logs", CONTAINER) + (webmail.state / "compose.yaml").read_text()
    inside = docker("exec", CONTAINER, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /srv/webmail/* | tr -c '[:print:]' '\\n'")
    assert "lighttpd" in inside and ALICE in inside, "processes and database were looked through"
    told += inside
    assert key not in told and tokens(found)[ALICE] not in told
    image = docker("inspect", "-f", "{{.Image}}", CONTAINER).strip()
    assert docker("run", "--rm", "--user", "0", "--entrypoint", "grep", image, "-rl", "^.config..des_key", "/etc", "/var").split() == ["/etc/roundcube/defaults.inc.php"]
    wanted = ("HostConfig.ReadonlyRootfs", "HostConfig.CapDrop", "HostConfig.CapAdd", "Config.User", "HostConfig.SecurityOpt")
    shape = docker("inspect", "-f", " ".join(f"{{{{.{key}}}}}" for key in wanted), CONTAINER)
    assert shape.split() == ["true", "[ALL]", "[]", "5005:5005", "[no-new-privileges:true]"]


def test_it_takes_new_files_without_ending_sessions(at_home: BrowserContext, webmail: Program, found: Any) -> None:
    page = at_home.new_page()
    webmail.write(FILE + "message_size_limit: 3M\n")
    webmail("up")

    def limit() -> bool:
        page.goto(f"{URL}?_task=mail&_action=compose")
        return "3 MB" in page.content()

    until(limit, WITHIN, "the new limit")
    assert docker("inspect", "-f", "{{.Id}}", CONTAINER).strip() == found["webmail"]["container"]


def test_up_waits_for_no_webmail_and_it_ends_at_once(webmail: Program) -> None:
    start = time.monotonic()
    docker("stop", "-t", "10", CONTAINER)
    assert time.monotonic() - start < 5
    assert docker("inspect", "-f", "{{.State.ExitCode}}", CONTAINER).strip() != "137"  # that of SIGKILL
    assert "webmail" in webmail("status", code=1).err
    assert "webmail" not in " ".join(step["what"] for step in webmail("up", "--json").json["steps"])
    webmail("open", "webmail", "--print", "--wait")
