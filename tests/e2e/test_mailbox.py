"""The pytest plugin on real servers: mailboxes and their waits, what a failed test's report says, one stack for all workers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
import yaml
from conftest import NAME, stack_file
from program import Program, containers, left

from stackctl import faults as running_faults
from stackctl import running, state
from stackctl.clients.smtp import Refused
from stackctl.errors import TimedOut, UsageError
from stackctl.testing.aio import AsyncMailbox
from stackctl.testing.mailbox import Mailbox, MailboxFactory
from stackctl.testing.mailstack import MailStack
from stackctl.testing.smtpfaults import SmtpFaults

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A6")]
FULL = "full@example.test"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    name = f"{NAME}-plugin"
    stores = yaml.safe_load(stack_file(name))["stores"]
    users = [{"address": "alice@example.test"}, {"address": FULL, "quota": "2K"}]
    with Program.started(tmp_path_factory.mktemp("plugin"), name, yaml.safe_dump({"stores": stores, "users": users})) as program:
        yield program


@pytest.fixture(scope="module")
def mail_stack(program: Program) -> Iterator[MailStack]:
    """Instead of the plugin's: the other fixtures, which these tests use as anybody's do, build on it."""
    with pytest.MonkeyPatch.context() as patch:
        for key in ("STACKCTL_STATE", "CAROOT", "STACKCTL_NAME"):
            patch.setenv(key, program.env[key])
        yield MailStack(running.named(program.name), None, timeout=20)


# --- What came


def test_a_message_is_found_by_each_of_its_parts(mailbox: Mailbox) -> None:
    mailbox.send_from("ann@shop.example", "Welcome, Bob", "Your code is 123456.\n")
    mailbox.send_from("joe@elsewhere.example", "other", "nothing")
    wanted = mailbox.wait_for(subject="^Welcome")
    assert (wanted.subject, wanted.sender) == ("Welcome, Bob", "ann@shop.example")
    assert mailbox.wait_for(sender="ANN@shop") is wanted
    assert mailbox.wait_for(body=r"code is \d+") is wanted
    assert mailbox.wait_for(predicate=lambda one: one.codes() == ["123456"]) is wanted
    assert mailbox.wait_for(subject="other", sender="joe@").text == "nothing\n"
    with pytest.raises(TimedOut, match=r"no message with subject 'Welcome' and sender 'joe@' within 0.1 s"):
        mailbox.wait_for(subject="Welcome", sender="joe@", timeout=0.1)
    for subject, sender, body in (("welcome,", None, None), (None, "bob", None), (None, None, "code is [a-z]")):
        with pytest.raises(TimedOut):
            mailbox.wait_for(subject, sender, body, timeout=0.05)


def test_a_wait_that_ends_says_what_was_there_instead(mailbox: Mailbox) -> None:
    start = time.monotonic()
    with pytest.raises(TimedOut) as caught:
        mailbox.wait_for(timeout=0.1)
    assert time.monotonic() - start < 10
    assert caught.value.message == f"{mailbox.address} ({mailbox.stack.store}): no message within 0.1 s; there is nothing at all"
    mailbox.send_from("ann@shop.example", "one")
    mailbox.wait_for()
    with pytest.raises(TimedOut, match=r"(?s)1 of 2 messages with subject 'one' within 0.1 s; there is 1:\n  \d\d:\d\d:\d\d  'one' from ann@shop.example$"):
        mailbox.wait_for_count(2, subject="one", timeout=0.1)


def test_so_many_messages_are_waited_for(mailbox: Mailbox) -> None:
    for number in range(3):
        mailbox.send_from(subject=f"number {number}")
    assert sorted(one.subject for one in mailbox.wait_for_count(3, subject="number")) == ["number 0", "number 1", "number 2"]
    assert len(mailbox.messages()) == 3


def test_that_nothing_comes_is_told_and_that_something_does(mailbox: Mailbox) -> None:
    mailbox.assert_none(within=0.1)
    mailbox.send_from(subject="surprise")
    mailbox.assert_none(within=0.1, subject="^other$")
    with pytest.raises(AssertionError, match=r"there should be no message with subject 'sur'; there is 1:\n.*'surprise'"):
        mailbox.assert_none(within=20, subject="sur")


def test_links_codes_and_attachments_come_out_of_a_real_message(mailbox: Mailbox, tmp_path: Path) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@shop.example", mailbox.address, "Grüße: 4711"
    message.set_content("https://shop.example/a\n")
    message.add_alternative('<a href="https://shop.example/b?x=1&amp;y=2">confirm</a>', subtype="html")
    message.add_attachment(b"\0\1\2", maintype="application", subtype="pdf", filename="bill.pdf")
    message["List-Unsubscribe"], message["List-Unsubscribe-Post"] = "<https://shop.example/u/1>", "List-Unsubscribe=One-Click"
    message_id = mailbox.send_from("shop@shop.example", message=message)
    found = mailbox.wait_for(subject="^Grüße")
    assert found.message_id == message_id == message["Message-ID"]
    assert mailbox.links() == found.links() == ["https://shop.example/b?x=1&y=2", "https://shop.example/a"]
    assert mailbox.codes() == ["4711"]
    [attachment] = mailbox.attachments()
    assert (attachment.name, attachment.content_type, attachment.content) == ("bill.pdf", "application/pdf", b"\0\1\2")
    assert found.arrived
    assert (found.link(text="confirm"), found.code(), found.attachment("*.pdf"), found.to) == (found.links()[0], "4711", attachment, [mailbox.address])
    assert found.unsubscribe_link(one_click=True) == "https://shop.example/u/1"
    with pytest.raises(AssertionError, match=r"one link with part '/c' was expected in 'Grüße: 4711' from shop@shop\.example, not 0; there is:\n  https://shop"):
        found.link("/c")


def test_no_mailbox_sees_the_mail_of_another(mailbox_factory: MailboxFactory) -> None:
    one, other = mailbox_factory("Buyer & Co."), mailbox_factory("Buyer & Co.")
    assert one.address.startswith("buyer-co-") and one.address != other.address
    one.send_from(subject="for one")
    one.wait_for(subject="for one")
    assert other.messages() == []


def test_a_mailbox_is_emptied_in_every_store(mailbox: Mailbox, mail_stack: MailStack) -> None:
    mailbox.send_from(subject="x")
    everywhere = [Mailbox(MailStack(mail_stack.known, store, 20), mailbox.address, mailbox.password) for store in mail_stack.stores]
    for one in everywhere:
        one.wait_for(subject="x")
    mailbox.delete_all()
    assert [one.messages() for one in everywhere] == [[] for _ in everywhere]
    for one in everywhere:
        one.close()


def test_users_of_the_stack_have_mailboxes_and_others_do_not(mail_stack: MailStack, mailbox: Mailbox) -> None:
    alice = mail_stack.mailbox("alice@example.test")
    sent = mailbox.send_to(alice.address, "to a user")
    assert alice.wait_for(predicate=lambda one: one.message_id == sent).sender == mailbox.address
    alice.close()
    with pytest.raises(UsageError, match="is no user of the stack"):
        mail_stack.mailbox("nobody@example.test")


def test_a_session_that_was_lost_is_opened_anew(mailbox: Mailbox) -> None:
    assert mailbox.messages() == []
    assert mailbox._imap
    mailbox._imap.library.shutdown()
    mailbox.send_from(subject="later")
    mailbox.wait_for(subject="later")


def test_a_bounce_says_what_became_of_which_message(mailbox: Mailbox) -> None:
    sent = mailbox.send_to(FULL, "big", ("y" * 70 + "\n") * 100)
    bounce = mailbox.wait_for_bounce(of=sent)
    assert (bounce.message_id, bounce.action, bounce.status) == (sent, "failed", "5.2.2")
    assert {one.address for one in bounce.recipients} == {FULL}
    assert any(re.match(r"552 5\.2\.2 .*full", one.diagnostic_code) for one in bounce.recipients)
    with pytest.raises(TimedOut):
        mailbox.wait_for_bounce(of="<another@example.test>", timeout=0.1)


def test_asynchronous_tests_wait_for_two_mailboxes_at_once(async_mailbox: AsyncMailbox, mailbox_factory: MailboxFactory) -> None:
    second = AsyncMailbox(mailbox_factory("second"))

    async def scenario() -> list[str]:
        waits = [asyncio.create_task(one.wait_for(subject="both")) for one in (async_mailbox, second)]
        await async_mailbox.send_from(subject="both")
        await second.send_from(subject="both")
        with pytest.raises(TimedOut):
            await second.wait_for(subject="neither", timeout=0.1)
        return [(await one).subject for one in waits]

    assert asyncio.run(scenario()) == ["both", "both"]


# --- In somebody's project


@pytest.fixture
def project(program: Program, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project whose tests use the stack that is up."""
    for key in ("STACKCTL_STATE", "CAROOT", "STACKCTL_NAME"):
        monkeypatch.setenv(key, program.env[key])
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "stackctl.testing.plugin")
    return pytester


def test_a_failed_test_tells_of_its_mail_and_keeps_it(project: pytest.Pytester, mail_stack: MailStack) -> None:
    project.makepyfile(
        """
        import pathlib

        def sent(mailbox, name):
            pathlib.Path(name).write_text(mailbox.address)
            mailbox.send_from("ann@shop.example", subject="Hello")
            mailbox.wait_for(subject="Hello")

        def test_good(mailbox):
            sent(mailbox, "good")

        def test_bad(mailbox):
            sent(mailbox, "bad")
            mailbox.wait_for(subject="Goodbye", timeout=0.1)
        """
    )
    ran = project.runpytest_inprocess()
    ran.assert_outcomes(passed=1, failed=1)
    good, bad = ((project.path / name).read_text() for name in ("good", "bad"))
    said = ran.stdout.str()
    *_, failure, section = re.split(r"^-+ mail of (?:.*) -+$", said, flags=re.MULTILINE)
    assert f"mail of {bad}" in said and f"mail of {good}" not in said
    assert "no message with subject 'Goodbye' within 0.1 s; there is 1:" in failure
    assert "imap.py" not in failure, "the traceback ends in the test"
    assert re.search(r"arrived:\n  \d\d:\d\d:\d\d  'Hello' from ann@shop.example\nin the queue:\n  nothing\nlogged:\n", section)
    for service in ("mta", mail_stack.store):
        assert re.search(rf"^  \d\d:\d\d:\d\d\.\d+ {service}: .*{bad}", section, re.MULTILINE), service
    assert re.search(r"^  .* mta: .*: client=", section, re.MULTILINE), "a line without the address, by its queue id"
    assert good not in section
    assert f"stackctl inbox {bad} --name {mail_stack.name}" in section
    assert [one.subject for one in mail_stack.mailbox(bad).messages()] == ["Hello"]
    assert mail_stack.mailbox(good).messages() == []


def test_the_marker_says_how_long_a_test_waits(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.mail_timeout(0.2)
        def test_short(mailbox, mailbox_factory):
            assert (mailbox.timeout, mailbox_factory().timeout) == (0.2, 0.2)
            mailbox.wait_for()

        @pytest.mark.mail_timeout("long")
        def test_wrong(mailbox):
            pass

        def test_none(mailbox):
            assert mailbox.timeout == 10
        """
    )
    ran = project.runpytest_inprocess()
    ran.assert_outcomes(passed=1, failed=1, errors=1)
    said = ran.stdout.str()
    assert "no message within 0.2 s; there is nothing at all" in said
    assert "the marker mail_timeout takes one number of seconds, such as mail_timeout(60)" in said


def test_what_could_not_be_delivered_is_in_the_report_too(project: pytest.Pytester) -> None:
    project.makepyfile(f"def test_it(mailbox):\n    mailbox.send_to('{FULL}', 'big', ('y' * 70 + '\\n') * 100)\n    mailbox.wait_for_bounce()\n    assert 0")
    ran = project.runpytest_inprocess()
    ran.stdout.re_match_lines([r"  .*'Undelivered Mail Returned to Sender' from .*", rf".* mta: .*to=<{FULL}.*status=bounced .*552 5\.2\.2.*"])


def test_the_marker_runs_a_test_on_each_engine(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.mail_engines
        def test_all(mailbox, mail_stack):
            mailbox.send_from(subject="x")
            print("read from", mail_stack.endpoints["stores"][mail_stack.store]["backend"], mailbox.wait_for(subject="x").subject)

        @pytest.mark.mail_engines("courier")
        def test_one(mailbox):
            assert mailbox.stack.store == "courier"
        """
    )
    ran = project.runpytest_inprocess("-s", "-v")
    ran.assert_outcomes(passed=4)
    for engine in ("courier", "dovecot", "dovecot-2.3"):
        ran.stdout.fnmatch_lines([f"*test_all[[]{engine}]*read from {engine} x*"])
    assert "test_one[courier]" in ran.stdout.str()


def test_a_store_that_is_not_there_is_a_mistake_and_the_stack_that_was_up_stays(project: pytest.Pytester, program: Program) -> None:
    before = containers(program.name)
    project.makepyfile("def test_it(mailbox): pass")
    ran = project.runpytest_inprocess("--stackctl-store=exim", "--stackctl-unreachable=skip")
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines([f"*the stack {program.name} has no store exim*"])
    project.runpytest_inprocess().assert_outcomes(passed=1)
    assert containers(program.name) == before


def test_all_workers_share_one_stack_that_ends_with_the_last_of_them(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{NAME}-plugin-own"
    monkeypatch.delenv("STACKCTL_NAME")
    monkeypatch.setenv("PYTEST_PLUGINS", "stackctl.testing.plugin,xdist.plugin")
    (project.path / "stack.yaml").write_text(f"name: {name}\nstores: [{{backend: courier}}]\n")
    project.makepyfile(
        """
        import pathlib, pytest

        @pytest.mark.parametrize("number", range(8))
        def test_it(mailbox, number, worker_id):
            pathlib.Path(f"{worker_id}-{number}").write_text(mailbox.stack.endpoints["mta"]["container"])
            mailbox.send_from(subject=f"number {number}")
            assert [one.subject for one in mailbox.wait_for_count(1)] == [f"number {number}"]
        """
    )
    try:
        project.runpytest_subprocess("-n", "2", "--stackctl-keep").assert_outcomes(passed=8)
        noted = list(project.path.glob("gw*-*"))
        assert {path.name[:3] for path in noted} == {"gw0", "gw1"}
        [mta] = {path.read_text() for path in noted}
        assert mta in containers(name)
        # As a run that was killed would have left it: the next one ends what tests began.
        (state.root() / ".tests" / name).write_text(mta)
        project.runpytest_subprocess("-n", "2").assert_outcomes(passed=8)
        assert left(name) == []
    finally:
        running.down(name, volumes=True)


# --- Faults


def test_faults_are_of_one_mailbox_and_end_by_one_call(mailbox: Mailbox, mailbox_factory: MailboxFactory, smtp_faults: SmtpFaults) -> None:
    other = mailbox_factory()
    smtp_faults.set(mailbox.address, reply=451)
    with pytest.raises(Refused, match="451"):
        mailbox.send_from("ann@shop.example", "refused")
    other.send_from("ann@shop.example", "taken")
    other.wait_for("taken")
    smtp_faults.clear()
    mailbox.send_from("ann@shop.example", "taken too")
    assert [one.subject for one in mailbox.wait_for_count(1)] == ["taken too"]


def test_connections_logins_and_a_full_mailbox_are_good_again_by_one_call(mail_stack: MailStack) -> None:
    faults = SmtpFaults(mail_stack.known, mail_stack.domain)
    faults.connection("mta.smtp", hang=True)
    faults.logins()
    faults.full(mail_stack.known.endpoints["accounts"][0]["address"])
    assert running_faults.listed(running.named(mail_stack.name)).number == 3
    faults.clear()
    assert running_faults.listed(running.named(mail_stack.name)).number == 0


def test_faults_end_with_their_test(mailbox: Mailbox, mail_stack: MailStack) -> None:
    faults = SmtpFaults(mail_stack.known, mail_stack.domain)
    running_faults.put(mail_stack.known, "somebody@else.example", reply=550)
    faults.set(mailbox.address, reply=552, at="end")
    assert running_faults.listed(running.named(mail_stack.name)).number == 2
    faults.clear()
    assert [one.address for one in running_faults.listed(running.named(mail_stack.name)).mail] == ["somebody@else.example"], "what others set stays"
    running_faults.clear(mail_stack.known)
    with pytest.raises(UsageError, match="no reply that refuses"):
        faults.set(mailbox.address, reply=250)


def test_an_address_is_a_fault_without_any_set_up(mailbox: Mailbox, smtp_faults: SmtpFaults) -> None:
    first, second = smtp_faults.address("450.rcpt"), smtp_faults.address("450.rcpt")
    assert first != second
    with pytest.raises(Refused, match="450"):
        mailbox.send_to(first)
    mailbox.assert_none(within=0.1)
