"""The pytest plugin without any server: its options, what it says where there is no engine, and how it reads messages."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64decode, b64encode
from email.message import EmailMessage
from pathlib import Path

import pytest

from stackctl.clients.message import summary
from stackctl.testing import bounce
from stackctl.testing.received import Message
from stackctl.testing.settings import OPTIONS

pytestmark = pytest.mark.feature("A6")
DOCS = Path(__file__).parent.parent / "docs" / "testing.md"
HEADER = re.compile(r"^stackctl [\d.]+: (.*)$", re.MULTILINE)
USES = "def test_it(mailbox): pass"


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in OPTIONS:
        monkeypatch.delenv(one.variable, raising=False)
    # The inner runs load this plugin alone, which takes half the time.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "stackctl.testing.plugin")


# --- Options


def told(pytester: pytest.Pytester, *arguments: str) -> str:
    """What the header says is meant."""
    found = HEADER.search(pytester.runpytest_inprocess("--collect-only", *arguments).stdout.str())
    assert found
    return found[1]


def test_the_command_line_counts_before_the_environment_before_the_ini_file(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(pytester) == "demo stack, scope session, unreachable: fail"
    pytester.makeini("[pytest]\nstackctl_name = ini\nstackctl_unreachable = skip\nstackctl_keep = true")
    assert told(pytester) == "stack ini, scope session, unreachable: skip, kept"
    monkeypatch.setenv("STACKCTL_NAME", "environment")
    monkeypatch.setenv("STACKCTL_KEEP", "no")
    assert told(pytester) == "stack environment, scope session, unreachable: skip"
    assert told(pytester, "--stackctl-name=line", "--stackctl-keep", "--stackctl-scope=module") == "stack line, scope module, unreachable: skip, kept"


def test_a_stack_file_is_found_where_it_is_named_from(pytester: pytest.Pytester) -> None:
    below = pytester.mkdir("conf")
    (below / "mail.yaml").touch()
    pytester.makeini("[pytest]\nstackctl_file = conf/mail.yaml")
    assert told(pytester) == f"stack of {below}/mail.yaml, scope session, unreachable: fail"
    (pytester.path / "stack.yaml").touch()
    pytester.makeini("[pytest]")
    assert told(pytester) == f"stack of {pytester.path}/stack.yaml, scope session, unreachable: fail"


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--stackctl-unreachable=ignore", "--stackctl-unreachable: 'ignore' is not known; it is one of fail, skip"),
        ("--stackctl-scope=test", "it is one of session, package, module, class, function"),
        ("--stackctl-timeout=soon", "--stackctl-timeout: 'soon' is no number of seconds, such as 10 or 2.5"),
        ("--stackctl-timeout=nan", "'nan' is no number of seconds"),
        ("--stackctl-name=../x", "--stackctl-name: '../x' is no name of a stack"),
        ("--stackctl-file=none.yaml", "--stackctl-file: there is no file "),
    ],
)
def test_a_wrong_option_ends_the_run_before_any_test(argument: str, complaint: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    ran = pytester.runpytest_inprocess(argument)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in ran.stderr.str() and "Traceback" not in ran.stderr.str()


def test_a_wrong_variable_and_a_wrong_ini_key_are_named(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nstackctl_keep = perhaps")
    assert "ini stackctl_keep: 'perhaps' is not known; it is one of yes, no" in pytester.runpytest_inprocess().stderr.str()
    monkeypatch.setenv("STACKCTL_KEEP", "maybe")
    assert "$STACKCTL_KEEP: 'maybe' is not known" in pytester.runpytest_inprocess().stderr.str()


def test_the_scope_of_the_stack_is_the_one_that_is_chosen(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES)
    for scope in ("session", "module", "function"):
        pytester.runpytest_inprocess("--setup-plan", f"--stackctl-scope={scope}").stdout.re_match_lines([rf" *SETUP +{scope[0].upper()} mail_stack"])


def test_the_documentation_has_every_option(pytester: pytest.Pytester) -> None:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\| `--stackctl-.*\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)]
    assert rows == [[f"`{one.flag}`", f"`{one.variable}`", f"`{one.key}`", f"`{one.default}`" if one.default else "", one.help] for one in OPTIONS]
    shown = pytester.runpytest_inprocess("--help").stdout.str()
    assert all(one.flag in shown and f"{one.key} (string)" in shown for one in OPTIONS)


# --- Without an engine


def test_without_an_engine_only_the_tests_that_need_it_fail_or_are_skipped(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{pytester.path}/nobody.sock")
    monkeypatch.setenv("STACKCTL_STATE", str(pytester.path / "state"))
    monkeypatch.setenv("CAROOT", str(pytester.path / "ca"))
    pytester.makepyfile("def test_plain(): pass\ndef test_one(mailbox): pass\ndef test_two(mail_stack): pass")
    failed = pytester.runpytest_subprocess("-rE")
    failed.assert_outcomes(passed=1, errors=2)
    failed.stdout.fnmatch_lines(["*no container engine answers*", "*next: *stackctl doctor*"])
    assert "Traceback" not in failed.stdout.str()
    skipped = pytester.runpytest_subprocess("-rs", "--stackctl-unreachable=skip")
    skipped.assert_outcomes(passed=1, skipped=2)


def test_a_bad_stack_file_is_told_with_its_line_and_never_skipped(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKCTL_STATE", str(pytester.path / "state"))
    (pytester.path / "stack.yaml").write_text("stroe: []\n")
    pytester.makepyfile(USES)
    ran = pytester.runpytest_inprocess("--stackctl-unreachable=skip")
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*stack.yaml:1: unknown key 'stroe' (did you mean 'stores'?)"])


def test_an_engine_that_is_none_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.mail_engines('sendmail')\n" + USES)
    ran = pytester.runpytest_inprocess()
    ran.stdout.fnmatch_lines(["*mail_engines: there is no engine 'sendmail'*", "*there are *dovecot-2.3*"])
    assert ran.ret != 0


def test_a_pytest_that_does_not_use_it_loads_next_to_nothing() -> None:
    program = "import sys, pytest; before = set(sys.modules); import stackctl.testing.plugin; print(*sorted(set(sys.modules) - before))"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    assert {name for name in loaded if name.startswith("stackctl")} == {
        "stackctl", "stackctl.errors", "stackctl.testing", "stackctl.testing.plugin", "stackctl.testing.run", "stackctl.testing.settings",
    }  # fmt: skip
    assert not loaded & {"imapclient", "docker", "pydantic", "yaml", "cryptography", "typer", "ssl", "email"}


# --- Messages


def read(message: EmailMessage | str) -> Message:
    raw = message.encode() if isinstance(message, str) else message.as_bytes()
    return Message(summary(raw), lambda: raw)


def written(subject: str = "", text: str = "", html: str = "") -> Message:
    message = EmailMessage()
    message["Subject"] = subject
    if text:
        message.set_content(text)
    if html:
        (message.add_alternative if text else message.set_content)(html, subtype="html")
    return read(message)


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("Go to https://shop.example/confirm?t=a-b_c&x=1.", ["https://shop.example/confirm?t=a-b_c&x=1"]),
        ("(see http://a.example/) and <http://b.example/x>, http://a.example/ again", ["http://a.example/", "http://b.example/x"]),
        ("https://en.example/wiki/Mail_(song)!", ["https://en.example/wiki/Mail_(song)"]),
        ("mailto:a@b.example, ftp://c.example, www.d.example", []),
    ],
)
def test_the_links_of_a_text(text: str, links: list[str]) -> None:
    assert written(text=text).links() == links


def test_the_links_of_html_are_what_a_reader_can_click() -> None:
    html = '<p>Hello<a class=x href=" https://a.example/?x=1&amp;y=2 ">x</a><a href="#top">y</a><img src="https://pixel.example/1.gif"></p>'
    assert written(html=html).links() == ["https://a.example/?x=1&y=2"]
    assert written(text="https://a.example/?x=1&y=2 or https://b.example", html=html).links() == ["https://a.example/?x=1&y=2", "https://b.example"]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("Your code is 123456.", ["123456"]),
        ("123 456 or 987-654", ["123456", "987654"]),
        ("code: 0042, again 0042", ["0042"]),
        ("123, 123456789, 12.3456, 10:4567, 2026-11-24, 1,2345, #12345, +4912345, a12345, user12345@b.example, 12345/6", []),
        ("https://shop.example/123456?code=654321", []),
    ],
)
def test_the_codes_of_a_text(text: str, codes: list[str]) -> None:
    assert written(text=text).codes() == codes


def test_codes_are_found_in_the_subject_and_in_html_that_is_seen() -> None:
    html = "<html><head><title>111111</title><style>p { color: 222222 }</style></head><body><td>333333</td><td>4444</td></body></html>"
    assert written("555555 is your code", html=html).codes() == ["555555", "333333", "4444"]


HTML = """<a href="https://a.example/"><img src="cid:logo" alt="The Shop"></a><p>Hello</p>
<a href="https://a.example/reset/17">Set a <b>new</b> password</a> <a href="https://a.example/orders/1">order</a> <a href="https://a.example/orders/2">order</a>"""


def test_one_link_is_chosen_by_its_address_its_words_or_a_pattern() -> None:
    message = written("Hello", html=HTML)
    assert message.link("/reset/") == message.link(text="new password") == message.link(pattern=r"/reset/\d+$") == "https://a.example/reset/17"
    assert message.link(text="The Shop") == "https://a.example/"
    assert message.links("/orders/") == ["https://a.example/orders/1", "https://a.example/orders/2"]
    with pytest.raises(AssertionError, match=r"one link with part '/orders/' was expected in 'Hello' from .*, not 2; there is:\n  https://a\.example/  The Shop\n"):
        message.link("/orders/")
    with pytest.raises(AssertionError, match="not 0; there is nothing of the kind"):
        written(text="no link").link()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Your code is 123456.", "123456"),
        ("Since 2019.\nYour code: 4711\n", "4711"),
        ("Order 20261\nYour verification code:\n\n  884422\n\nGoodbye, since 2019\n", "884422"),
    ],
)
def test_one_code_is_the_one_that_is_spoken_of(text: str, code: str) -> None:
    assert written(text=text).code() == code


def test_a_code_that_is_not_sure_is_no_code() -> None:
    with pytest.raises(AssertionError, match=r"one code was expected.*not 2.*\n  1234\n  5678"):
        written(text="1234 or 5678").code()
    assert written(text="Yours is AB-1234, not A-1").code(r"[A-Z]{2}-\d{4}") == "AB-1234"
    assert written(text="PIN=77;").codes(r"PIN=(\d+)") == ["77"]
    with pytest.raises(AssertionError, match="not 0"):
        written(text="nothing").code(r"[A-Z]{2}-\d{4}")


def with_files() -> Message:
    message = EmailMessage()
    message["Subject"], message["To"], message["Cc"], message["Reply-To"] = "Invoice", "Ann <ann@a.example>, bob@a.example", "cy@a.example", "desk@a.example"
    message.set_content("see below")
    message.add_alternative('<img src="cid:logo@x">', subtype="html")
    message.get_payload()[1].add_related(b"PNG", "image", "png", cid="<logo@x>", filename="logo.png")  # type: ignore[index,union-attr]
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="Invoice-17.pdf")
    message.add_attachment("a,b", subtype="csv", filename="rows.csv")
    return read(message)


def test_one_attachment_is_chosen_by_name_and_type() -> None:
    message = with_files()
    assert message.attachment("invoice-*.pdf").content == message.attachment(content_type="application/*").content == b"%PDF"
    assert [one.name for one in message.inline] == ["logo.png"] and message.attachment(content_type="image/*", inline=True).content_id == "logo@x"
    with pytest.raises(AssertionError, match=r"name 'receipt\*'.*not 0; there is:\n  Invoice-17\.pdf \(application/pdf, 4 octets\)\n  rows\.csv"):
        message.attachment("receipt*")
    with pytest.raises(AssertionError, match="not 0"):
        message.attachment(content_type="image/*")
    assert (message.to, message.cc, message.reply_to) == (["ann@a.example", "bob@a.example"], ["cy@a.example"], ["desk@a.example"])


def test_the_link_to_unsubscribe_is_that_of_the_header() -> None:
    fields = "List-Unsubscribe: <mailto:x@a.example>, <https://a.example/u/1>\n"
    assert read(fields + "\nx").unsubscribe_link() == "https://a.example/u/1"
    assert read(fields + "List-Unsubscribe-Post: List-Unsubscribe=One-Click\n\nx").unsubscribe_link(one_click=True) == "https://a.example/u/1"
    with pytest.raises(AssertionError, match="no List-Unsubscribe-Post"):
        read(fields + "\nx").unsubscribe_link(one_click=True)
    with pytest.raises(AssertionError, match="not 0; there is:\n  List-Unsubscribe: <mailto"):
        read("List-Unsubscribe: <mailto:x@a.example>\n\nx").unsubscribe_link()


def test_a_browser_is_shown_the_message_with_its_pictures() -> None:
    class Page:
        def goto(self, url: str) -> None:
            self.seen = b64decode(url.removeprefix("data:text/html;charset=utf-8;base64,")).decode()

    page = Page()
    with_files().open(page)
    assert f'<img src="data:image/png;base64,{b64encode(b"PNG").decode()}">' in page.seen
    written(text="a < b").open(page)
    assert "a &lt; b" in page.seen


def test_a_message_without_any_of_it_is_no_error() -> None:
    empty = read("")
    assert (empty.subject, empty.text, empty.html, empty.links(), empty.codes(), empty.attachments, empty.arrived) == ("", "", "", [], [], [], None)
    assert read("Received: from nowhere; yesterday\n\n").arrived is None
    assert read("Content-Type: text/plain; charset=nobodys\n\nhello\n").text == "hello\n"


def test_a_message_that_was_forwarded_as_an_attachment_is_one() -> None:
    inner, outer = EmailMessage(), EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("hello")
    outer.set_content("see below")
    outer.add_attachment(inner)
    [attachment] = read(outer).attachments
    assert attachment.content_type == "message/rfc822" and attachment.content == inner.as_bytes()


NOTE = """\
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b

Sorry.

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example

Final-Recipient: rfc822; joe@inner.example
Original-Recipient: rfc822;joe@example.test
Action: Failed
Status: 5.1.1 (unknown)
Diagnostic-Code: smtp; 550 5.1.1 <joe@example.test>
    User unknown

Final-Recipient: rfc822; ann@example.test
Action: delayed (it is tried again)
Status: 4.4.1

--b
Content-Type: text/rfc822-headers

Subject: x
Message-ID: <one@example.test>

--b--
"""


def test_a_notification_is_read_field_by_field() -> None:
    found = bounce.parse(read(NOTE))
    assert found
    assert (found.message_id, found.action, found.status, found.diagnostic_code) == ("<one@example.test>", "failed", "5.1.1", "550 5.1.1 <joe@example.test> User unknown")
    assert [(one.address, one.action, one.status, one.diagnostic_code) for one in found.recipients[1:]] == [("ann@example.test", "delayed", "4.4.1", "")]
    about_whole = bounce.parse(read(NOTE.replace("text/rfc822-headers", "message/rfc822")))
    assert about_whole and about_whole.message_id == "<one@example.test>"


def test_what_is_no_notification_is_none() -> None:
    for other in (NOTE.replace("multipart/report", "multipart/mixed"), NOTE.replace("message/delivery-status", "text/plain"), "Subject: x\n\nAction: failed\n"):
        assert bounce.parse(read(other)) is None
