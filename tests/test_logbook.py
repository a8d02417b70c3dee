"""Reading logs without a server: lines that real servers wrote, times, the order, one message's way, counts. No engine is asked."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from stackctl import logbook, logformat, trace, traffic
from stackctl.backends import all_backends
from stackctl.cli.logs import _Printer
from stackctl.errors import CheckFailed, UsageError
from stackctl.logbook import Choice, Line, Rules
from stackctl.logformat import Log
from stackctl.render import INTERNAL

pytestmark = pytest.mark.feature("B9")
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
RULES = logbook.rules(
    {
        "mta": "postfix",
        "exim": "exim",
        "courier-mta": "courier-mta",
        "sendmail": "sendmail",
        "dovecot": "dovecot",
        "old": "dovecot-2.3",
        "courier": "courier",
        "table": "postgres",
        "tree": "openldap",
        "file": "sqlite",
    }
)

# service, severity, problem, a line as the server wrote it
SEEN = [
    ("mta", "info", False, "Nov 24 08:30:15 mail postfix/qmgr[15]: 2A2C418C071: removed"),
    ("mta", "debug", False, "Nov 24 08:26:56 mail postfix/postfix-script[57]: the Postfix mail system is running: PID: 1"),
    ("mta", "info", False, "Nov 24 08:30:14 mail postfix/submission/smtpd[142]: NOQUEUE: lost connection after CONNECT from unknown[192.168.144.1]"),
    ("mta", "info", False, "Nov 24 08:30:14 mail postfix/cleanup[147]: 2A2C418C071: message-id=<fatal: error: Error: reject: @x>"),
    ("mta", "info", False, "Nov 24 08:11:45 master: Info: Dovecot v2.4.1-4 (7d8c0e5759) starting up without any protocols (core dumps disabled)"),
    (
        "mta",
        "info",
        True,
        "Nov 24 08:30:14 mail postfix/smtpd[145]: NOQUEUE: reject: RCPT from unknown[192.168.144.1]: 554 5.7.1 <x@outside.example>: Relay access denied;"
        " from=<a@b.example> to=<x@outside.example> proto=ESMTP helo=<[127.0.0.1]>",
    ),
    ("mta", "warning", True, "Nov 24 08:30:14 mail postfix/submission/smtpd[142]: warning: unknown[192.168.144.1]: SASL PLAIN authentication failed: (r)"),
    ("mta", "info", True, "Nov 24 08:30:14 mail postfix/submissions/smtpd[144]: SSL_accept error from unknown[192.168.144.1]: -1"),
    ("mta", "err", True, "Nov 24 08:30:14 mail postfix/lmtp[14]: error: open database /etc/stackctl/x.lmdb: No such file or directory"),
    ("mta", "crit", True, "Nov 24 08:30:14 mail postfix/smtpd[14]: fatal: bad numerical configuration: smtpd_timeout = x"),
    ("mta", "crit", True, "postconf: fatal: /etc/postfix/main.cf, line 29: missing '=' after attribute name"),
    ("mta", "err", True, "Nov 24 08:30:14 auth: Error: passwd-file /etc/stackctl/accounts: open() failed: Permission denied"),
    (
        "mta",
        "info",
        True,
        "Nov 24 08:30:16 mail postfix/lmtp[149]: 3AE0F18C0B1: to=<alice@example.test.old.store.internal>, orig_to=<alice@example.test>, relay=old[192.168.144.2]:24,"
        " delay=1.1, delays=0/0/1.1/0, dsn=4.4.2, status=deferred (lost connection with old[192.168.144.2] while receiving the initial server greeting)",
    ),
    ("exim", "info", False, "2026-11-25 02:09:35.181 [42] 1xW2Ry-0000000000g-3kzV Completed"),
    (
        "exim",
        "info",
        True,
        "2026-11-25 02:08:00.133 [136] 1xW2Q1-0000000000Y-0ni9 == bob@example.test R=store_dovecot defer (-36) DT=0.000s: host lookup did not complete",
    ),
    (
        "exim",
        "info",
        True,
        "2026-11-25 02:08:00.133 [136] H=(client.invalid) [192.168.176.1] F=<a@b.example> rejected RCPT <x@outside.example>: 554 5.7.1 Relay access denied",
    ),
    ("exim", "info", True, "2026-11-25 02:08:00.133 [136] plain authenticator failed for (client.invalid) [192.168.176.1]: 535 Incorrect authentication data (set_id=x)"),
    ("exim", "crit", True, "2026-11-25 02:08:00.133 [136] Exim configuration error in line 84 of /etc/exim4/exim4.conf:"),
    ("courier-mta", "debug", False, "DEBUG: courierd: completed,id=00000000001DA37F.000000006B0EF0D9.00000050"),
    (
        "courier-mta",
        "info",
        True,
        "INFO: courierlocal: id=00000000001DA37F.000000006B0EF0D9.00000050,from=<a@b.example>,addr=<x@example.test.old.store.internal>,status: deferred",
    ),
    (
        "courier-mta",
        "info",
        True,
        "INFO: courieresmtpd: error,relay=::ffff:192.168.0.1,port=46696,from=<a@b.example>,to=<x@outside.example>: 554 5.7.1 <x>: Relay access denied",
    ),
    ("courier-mta", "debug", False, "INFO: courieresmtpd: started,ip=[::ffff:192.168.0.1],port=[46764]"),
    ("sendmail", "info", False, "info sendmail[56]: 6B1GtD83000055: done; delay=00:00:00, ntries=1"),
    ("sendmail", "debug", False, "debug sendmail[57]: AUTH warning: no mechanisms"),
    ("sendmail", "info", False, "info sendmail[56]: 6B1GtD83000055: to=a@b.test.dovecot.store.internal, delay=00:00:00, mailer=x, dsn=2.0.0, stat=Sent"),
    (
        "sendmail",
        "info",
        True,
        "info sendmail[198]: 6B1GnVxh000100: to=x@example.test.dovecot.store.internal, delay=00:00:12, xdelay=00:00:11, mailer=store_dovecot, pri=64172,"
        " relay=dovecot.example.test. [172.23.0.2], dsn=4.4.2, stat=Deferred: Connection timed out with dovecot.example.test.",
    ),
    (
        "sendmail",
        "notice",
        True,
        "notice sendmail[55]: 6B1GtD84000055: ruleset=check_rcpt, arg1=<x@outside.example>, relay=_gateway [172.23.0.1], reject=554 5.7.1 Relay access denied",
    ),
    (
        "sendmail",
        "notice",
        True,
        "notice sendmail[79]: 6B1GtJ7a000079: collect: relay=_gateway, from=<a@b.c>, info=Bare linefeed (LF) not allowed, where=header, status=tempfail",
    ),
    ("sendmail", "warning", True, "warning sendmail[57]: 6B1GtE0k000057: AUTH failure (PLAIN): authentication failure (-13), user=alice@example.test"),
    ("dovecot", "info", False, "Nov 24 08:30:15 lmtp(bob@example.test)<18><GVwfDRdLBWsSAAAAdn9kMw>: Info: sieve: msgid=<a@b>: stored mail into mailbox 'INBOX'"),
    ("dovecot", "info", False, "Nov 24 08:30:15 lmtp(bob@example.test)<18><GVwf:R2>: Info: msgid=<Error: Fatal: x@b>: saved mail to INBOX"),
    (
        "dovecot",
        "info",
        True,
        "Nov 24 08:30:02 imap-login: Info: Login aborted: Connection closed (auth failed, 1 attempts in 0 secs) (auth_failed): user=<x>, rip=192.168.144.1",
    ),
    (
        "dovecot",
        "info",
        False,
        "Nov 24 08:11:45 imap-login: Info: Login aborted: Connection closed (no auth attempts in 0 secs) (no_auth_attempts): user=<>, rip=172.18.0.1",
    ),
    ("dovecot", "info", True, "Nov 24 08:26:33 lmtp(tiny@example.test)<18><60Y6HT>: Info: msgid=<a@b>: save failed to INBOX: Quota exceeded (mailbox for user is full)"),
    ("old", "info", True, "Nov 24 08:30:03 imap-login: Info: Disconnected: Connection closed (auth failed, 1 attempts in 1 secs): user=<alice@example.test>"),
    ("old", "info", True, "Nov 24 08:30:03 imap-login: Info: Disconnected: Connection closed: SSL_accept() failed: error:0A00009C:SSL routines::http request"),
    ("old", "warning", True, "Nov 24 08:30:15 master: Warning: Killed with signal 15 (by pid=0 uid=0 code=kill)"),
    ("old", "crit", True, "doveconf: Fatal: Error in configuration file /etc/dovecot/dovecot.conf line 5: Unknown setting: protcols"),
    ("courier", "debug", False, "DEBUG: Connection, ip=[::ffff:192.168.144.1], port=[49680]"),
    ("courier", "info", False, "INFO: LOGIN, user=alice@example.test, ip=[::ffff:192.168.144.1], port=[49680], protocol=IMAP, starttls=1"),
    ("courier", "info", True, "INFO: LOGIN FAILED, user=alice@example.test, ip=[::ffff:192.168.144.1], port=[49688]"),
    ("courier", "info", True, "ip=[::ffff:192.168.144.1], An unexpected TLS packet was received."),
    ("courier", "debug", False, "DEBUG: courierd: Waiting.  shutdown time=none, wakeup time=none, queuedelivering=1, inprogress=1"),
    ("courier", "info", False, "INFO: courierlocal: id=1C26.6B05.4A,from=<a@example.net>,addr=<bob=40example.test@store.internal>,size=929,success: Message delivered."),
    ("courier", "info", True, "INFO: courierlocal: id=1C26.6B05.4A,from=<a@example.net>,addr=<bob=40example.test@store.internal>,status: deferred"),
    ("courier", "info", True, 'INFO: courieresmtpd: error,relay=::ffff:192.168.80.3,port=47606,msg="502 ESMTP command error",cmd: DATA'),
    ("courier", "err", True, "ERR: authdaemon: s_connect() failed: No such file or directory"),
    ("table", "info", False, "2026-11-24 13:30:10.666 UTC [1] LOG:  database system is ready to accept connections"),
    ("table", "debug", False, "2026-11-24 13:30:10.663 UTC [19] FATAL:  the database system is starting up"),
    ("table", "debug", False, "2026-11-24 13:47:41.699 UTC [104] FATAL:  terminating connection due to administrator command"),
    ("table", "err", True, '2026-11-24 13:30:10.663 UTC [19] FATAL:  password authentication failed for user "lookup"'),
    ("table", "warning", True, '2026-11-24 13:33:38.103 UTC [134] ERROR:  new row for relation "accounts" violates check constraint "accounts_password_check"'),
    ("table", "info", True, "2026-11-24 13:33:38.103 UTC [18] LOG:  database system was not properly shut down; automatic recovery in progress"),
    ("tree", "info", False, "6b0590f6.119d5999 0x7f3e31bfd6c0 connection_input: conn=1012 deferring operation: binding"),
    ("tree", "info", True, "6b05924b.22772426 0x7f8527ce7140 daemon: bind(6) failed errno=2 (No such file or directory)"),
    ("tree", "info", True, "6b05924b.217e6c5f 0x7f00adac5140 /tmp/x.conf: line 1: unknown directive <foo> outside backend info and database definitions."),
    ("file", "info", True, "Error: in prepare, file is not a database (26)"),
]


@pytest.mark.parametrize(("service", "severity", "problem", "text"), SEEN, ids=[f"{number}-{one[0]}-{one[1]}" for number, one in enumerate(SEEN)])
def test_a_line_is_as_grave_as_its_server_says(service: str, severity: str, problem: bool, text: str) -> None:
    assert RULES[service].severity(text) == severity
    assert RULES[service].is_problem(text) is problem


@pytest.mark.parametrize(("severity", "expected"), [("debug", 3), ("info", 2), ("notice", 1), ("warning", 1), ("err", 0), ("crit", 0)])
def test_a_severity_takes_what_is_as_grave_or_worse(severity: logformat.Severity, expected: int) -> None:
    texts = ("DEBUG: Connection", "INFO: LOGIN, user=a", "WARN: low")
    assert sum(Choice(severity).takes(Line("", "courier", text), RULES["courier"]) for text in texts) == expected


def test_a_choice_takes_what_meets_all_of_it() -> None:
    failed, other = Line("", "courier", "INFO: LOGIN FAILED, user=alice"), Line("", "courier", "INFO: LOGIN, user=alice")
    assert [Choice(problems=True).takes(line, RULES["courier"]) for line in (failed, other)] == [True, False]
    assert Choice(problems=True, grep=re.compile("al.ce")).takes(failed, RULES["courier"])
    assert not Choice(problems=True, grep=re.compile("bob")).takes(failed, RULES["courier"])
    assert not Choice("warning", problems=True).takes(failed, RULES["courier"]), "the server says it is info"


@pytest.mark.parametrize("coloured", [False, True])
def test_what_a_client_said_never_reaches_the_terminal_as_control_characters(coloured: bool) -> None:
    line = Line("2026-11-24T08:26:33.138232241Z", "courier", "INFO: LOGIN FAILED, user=\x1b[2J\x9b5m\x07x")
    row = _Printer(RULES, RULES, json=False, streams=False)._row(line, coloured)
    assert row.endswith("user=\\x1b[2J\\x9b5m\\x07x" + ("\x1b[0m" if coloured else ""))
    assert row.count("\x1b") == (4 if coloured else 0), "on a terminal the service has a colour, and a problem is red"
    assert "08:26:33.138" in row


# --- What backend.yaml says


@pytest.mark.parametrize("backend", sorted(all_backends()))
def test_every_server_says_how_its_log_is_read(backend: str) -> None:
    log = logformat.of(backend)
    assert all_backends()[backend].log == log, "read without the other keys it is the same"
    Rules(log, backend)
    moves = {"accepted", "identified", "queued", "delivery", "removed"}
    wanted = {"mta": {*moves, "rejected"}, "host": moves, "store": {"read"}, "directory": set[str](), "webmail": set[str](), "kdc": set[str](), "line": set[str]()}
    role = all_backends()[backend].role
    assert log.problem and wanted[role] <= set(log.events)
    assert log.level or role == "directory", "only where no mail passes may a server have no word of severity"


EXIM = "2026-11-25 02:09:35.178 [43] 1xW2Ry-0000000000g-3kzV "


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '=> alice@example.test <al@example.test> R=store_dovecot T=store_dovecot S=541 H=dovecot [192.168.176.3] C="250 2.0.0 Saved" DT=0.040s',
            {"status": "sent", "recipient": "alice@example.test", "original": "al@example.test", "store": "dovecot", "reply": "250 2.0.0 Saved", "delay": "0.040"},
        ),
        (
            "-> alice <alice@example.test> R=store_old T=store_old S=590 DT=0.021s",
            {"status": "sent", "recipient": "alice@example.test", "store": "old", "delay": "0.021"},
        ),
        (
            "== bob@example.test R=store_dovecot defer (-36) DT=0.000s: host lookup did not complete",
            {"status": "deferred", "recipient": "bob@example.test", "store": "dovecot"},
        ),
        (
            "** nobody@b.test R=route_1 T=hop_1 H=mail.b.test [192.168.0.2]: SMTP error from remote mail server after RCPT TO:<nobody@b.test>: 550 5.1.1 User unknown",
            {"status": "bounced", "recipient": "nobody@b.test", "relay": "mail.b.test [192.168.0.2]"},
        ),
    ],
)
def test_a_delivery_ends_in_the_same_words_whatever_sign_a_server_has_for_it(text: str, told: dict[str, str]) -> None:
    (event,) = RULES["exim"].events(Line("2026-11-25T02:09:35.178000000Z", "exim", EXIM + text), ("delivery",))
    assert told.items() <= event.groups.items()


COURIER = "INFO: courierlocal: id=00000000001DA37F.000000006B0EF0D9.00000050,from=<a@b.example>,addr="


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (
            "delivery",
            f"{COURIER}<alice@example.test.old.store.internal>,size=594,success: Message delivered.",
            {"status": "sent", "recipient": "alice@example.test.old.store.internal"},
        ),
        ("delivery", f"{COURIER}<alice@example.test.old.store.internal>,status: deferred", {"status": "deferred"}),
        ("delivery", f"{COURIER.replace('local', 'esmtp')}<nobody@b.test>,status: failure", {"status": "bounced", "recipient": "nobody@b.test"}),
        (
            "accepted",
            "INFO: submit: id=000000006B0EF0D9.00000050,from=<a@b.example>,size=261,message-id=<m@x>,client=[::ffff:10.0.0.1],auth=a@b.example,tls=TLS1.3,256bits,X",
            {"client": "::ffff:10.0.0.1", "login": "a@b.example"},
        ),
        ("queued", "INFO: submit: id=000000006B0EF0D9.00000050,from=<>,size=2474,message-id=<>", {"sender": "", "size": "2474"}),
        ("removed", "INFO: courierd: completed,id=00000000001DA37F.000000006B0EF0D9.00000050", {}),
        (
            "rejected",
            "INFO: courieresmtpd: error,relay=::ffff:10.0.0.1,port=1,from=<a@b.example>,to=<x@o.example>: 554 5.7.1 <x@o.example>: Relay access denied",
            {"recipient": "x@o.example", "reason": "554 5.7.1 <x@o.example>: Relay access denied"},
        ),
        (
            "rejected",
            'INFO: courieresmtpd: error,relay=::ffff:10.0.0.1,port=1,msg="535 Authentication failed.",cmd: AUTH PLAIN *** alice@example.test',
            {"reason": "535 Authentication failed."},
        ),
    ],
)
def test_couriers_lines_are_those_of_a_messages_way(kind: str, text: str, told: dict[str, str]) -> None:
    (event,) = RULES["courier-mta"].events(Line("2026-11-25T02:09:35.178000000Z", "courier-mta", text), (kind,))
    assert told.items() <= event.groups.items()
    assert event.groups.get("id", "000000006B0EF0D9.00000050") == "000000006B0EF0D9.00000050"
    assert not list(RULES["courier-mta"].events(Line("2026-11-25T02:09:35.178000000Z", "courier-mta", f"{COURIER}<x@y>: 450 4.4.1 down"), ("delivery",)))


SENDMAIL = "info sendmail[56]: 6B1GtD83000055: "
FROM = (
    f"{SENDMAIL}from=<a@b.example>, size=325, class=0, nrcpts=1, msgid=<x.1@b.example>, bodytype=8BITMIME, proto=ESMTPSA, daemon=submission, relay=_gateway [172.23.0.1]"
)


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("accepted", FROM, {"process": "sendmail[56]", "client": "_gateway [172.23.0.1]"}),
        ("queued", FROM, {"sender": "a@b.example", "size": "325", "recipients": "1"}),
        ("identified", FROM, {"message_id": "x.1@b.example"}),
        (
            "delivery",
            f"{SENDMAIL}to=two@inbox.example.test.dovecot.store.internal, delay=00:00:01, xdelay=00:00:00, mailer=store_dovecot, pri=120269,"
            " relay=dovecot.example.test. [172.23.0.2], dsn=2.0.0, stat=Sent",
            {"recipient": "two@inbox.example.test.dovecot.store.internal", "status": "sent", "relay": "dovecot.example.test. [172.23.0.2]", "reply": "Sent"},
        ),
        (
            "delivery",
            f"{SENDMAIL}to=<joe@f.example>, ctladdr=<a@b.example>, delay=00:00:01, mailer=hop_1, relay=mx. [10.0.0.1], dsn=5.7.1, stat=No",
            {"recipient": "joe@f.example", "status": "bounced", "dsn": "5.7.1", "reply": "No"},
        ),
        ("successor", f"{SENDMAIL}6B1GGSMj000052: DSN: Service unavailable", {"successor": "6B1GGSMj000052", "what": "DSN: Service unavailable"}),
        (
            "rejected",
            "notice sendmail[56]: 6B1GtD83000055: ruleset=check_rcpt, arg1=<x@outside.example>, relay=_gateway [172.23.0.1], reject=554 5.7.1 Relay access denied",
            {"recipient": "x@outside.example", "client": "_gateway [172.23.0.1]", "verdict": "reject", "reason": "554 5.7.1 Relay access denied"},
        ),
        (
            "rejected",
            "notice sendmail[56]: 6B1GtD83000055: ruleset=check_mail, arg1=<b@example.test>, relay=_gateway [172.23.0.1], reject=553 5.7.1 not owned",
            {"sender": "b@example.test", "reason": "553 5.7.1 not owned"},
        ),
        ("removed", f"{SENDMAIL}done; delay=00:00:00, ntries=1", {}),
    ],
)
def test_sendmails_lines_are_those_of_a_messages_way(kind: str, text: str, told: dict[str, str]) -> None:
    (event,) = RULES["sendmail"].events(Line("2026-11-25T02:09:35.178000000Z", "sendmail", text), (kind,))
    assert told.items() <= event.groups.items()
    assert event.groups["id"] == "6B1GtD83000055"


def test_what_sendmail_never_took_is_no_message() -> None:
    """A session that ended before the end of its message, or whose message was refused."""
    line = Line("2026-11-25T02:09:35.178000000Z", "sendmail", f"{SENDMAIL}from=<a@b.example>, size=10, class=0, nrcpts=1, proto=ESMTP, daemon=smtp, relay=_gateway [::1]")
    assert not list(RULES["sendmail"].events(line))


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (Log(level="(["), "unterminated"),
        (Log(level="x"), "the group level is missing"),
        (Log(levels={"x": "loud"}), "loud is no severity"),  # type: ignore[dict-item]
        (Log(events={"born": ("x",)}), "unknown born"),
        (Log(events={"removed": ("removed",)}), "the group id is missing"),
        (Log(events={"removed": (r"(?P<id>\w+) (?P<colour>\w+)",)}), "unknown group colour"),
    ],
)
def test_a_log_key_with_faults_is_told(log: Log, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        Rules(log, "images/x/backend.yaml")
    assert caught.value.message.startswith("images/x/backend.yaml: log")
    assert caught.value.hint


def test_a_backend_that_is_gone_is_told() -> None:
    with pytest.raises(UsageError, match="does not know"):
        logbook.rules({"mta": "no-such-server"})


# --- Times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", "2026-11-24T11:55:00.000000000Z"),
        ("1.5h", "2026-11-24T10:30:00.000000000Z"),
        ("30s", "2026-11-24T11:59:30.000000000Z"),
        ("2d", "2026-11-22T12:00:00.000000000Z"),
        ("2026-11-24T10:00", "2026-11-24T10:00:00.000000000Z"),
        ("2026-11-24 10:00:01.25", "2026-11-24T10:00:01.250000000Z"),
        ("2026-11-24T10:00:00+02:00", "2026-11-24T08:00:00.000000000Z"),
        ("2026-11-24T08:26:33.138232241Z", "2026-11-24T08:26:33.138232000Z"),
        ("2026-11-24", "2026-11-24T00:00:00.000000000Z"),
    ],
)
def test_a_time_is_one_ago_or_of_iso_8601(text: str, expected: str) -> None:
    assert logbook.moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "5", "5x", "-5m", "m", "5 m", "yesterday", "2026-13-01", "2026-11-24T25:00", "999999999999d", "1e3s", "0001-01-01T00:00+23:59"])
def test_what_is_no_time_is_told_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="is no time") as caught:
        logbook.moment(text, NOW)
    assert "5m" in caught.value.hint


def test_a_day_is_a_whole_day() -> None:
    assert traffic.span("today", NOW) == ("2026-11-24", "2026-11-25")
    assert traffic.span("yesterday", NOW) == ("2026-11-23", "2026-11-24")
    assert traffic.span("2026-02-28", NOW) == ("2026-02-28", "2026-03-01")
    for text in ("", "tomorrow", "2026-02-30", "9999-12-31"):
        with pytest.raises(UsageError, match="no such day"):
            traffic.span(text, NOW)


# --- One message's way


def lines(*rows: tuple[str, str, str]) -> list[Line]:
    return [Line(f"2026-11-24T{at}000Z", service, text) for at, service, text in rows]


def mta(at: str, text: str) -> tuple[str, str, str]:
    return at, "mta", f"Nov 24 {at[:8]} mail postfix/{text}"


LOG = lines(
    mta("08:26:33.432787", "submission/smtpd[17]: Anonymous TLS connection established from unknown[10.0.0.1]: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256 bits)"),
    mta("08:26:33.479249", "submission/smtpd[17]: 74E8518D2A3: client=unknown[10.0.0.1], sasl_method=PLAIN, sasl_username=alice@example.test"),
    mta("08:26:33.480154", "cleanup[24]: 74E8518D2A3: message-id=<one@example.test>"),
    mta("08:26:33.481987", "qmgr[15]: 74E8518D2A3: from=<alice@example.test>, size=9995, nrcpt=3 (queue active)"),
    mta("08:26:33.482000", "submission/smtpd[17]: disconnect from unknown[10.0.0.1] ehlo=2 starttls=1 auth=1 mail=1 rcpt=1 data=1 quit=1 commands=8"),
    mta("08:26:33.483000", "smtpd[17]: 74E8518D2A31: client=unknown[10.0.0.9]"),
    mta("08:26:33.483100", "cleanup[24]: 74E8518D2A31: message-id=<one@example.test.other>"),
    mta(
        "08:26:33.485677",
        "virtual[26]: 74E8518D2A3: to=<tiny+a=b@example.test.courier.store.internal>, orig_to=<tiny+a=b@example.test>, relay=virtual, delay=0.01,"
        " delays=0/0/0/0, dsn=2.0.0, status=sent (delivered to maildir)",
    ),
    ("08:26:33.500199", "dovecot", "Nov 24 08:26:33 lmtp(tiny@example.test)<18><60Y6>: Info: msgid=<one@example.test>: save failed to INBOX: Quota exceeded"),
    mta(
        "08:26:33.509451",
        "lmtp[25]: 74E8518D2A3: to=<tiny@example.test.dovecot.store.internal>, orig_to=<tiny@example.test>, relay=dovecot[10.0.0.5]:24, delay=0.03,"
        " delays=0/0/0.01/0.01, dsn=5.2.2, status=bounced (host dovecot[10.0.0.5] said: 552 5.2.2 <tiny@example.test> Quota exceeded (in reply to end of DATA))",
    ),
    mta("08:26:33.510946", "cleanup[24]: 7C8A318D2A6: message-id=<bounce@mail.example.test>"),
    mta("08:26:33.511560", "bounce[42]: 74E8518D2A3: sender non-delivery notification: 7C8A318D2A6"),
    mta("08:26:33.511747", "qmgr[15]: 7C8A318D2A6: from=<>, size=12678, nrcpt=1 (queue active)"),
    mta("08:26:33.513318", "qmgr[15]: 74E8518D2A3: removed"),
    ("08:26:33.522115", "dovecot", "Nov 24 08:26:33 lmtp(alice@example.test)<18><UQW5>: Info: msgid=<bounce@mail.example.test>: saved mail to INBOX"),
    mta(
        "08:26:33.522916",
        "lmtp[25]: 7C8A318D2A6: to=<alice@example.test.dovecot.store.internal>, orig_to=<alice@example.test>, relay=dovecot[10.0.0.5]:24, delay=0.01,"
        " delays=0/0/0/0.01, dsn=2.0.0, status=sent (250 2.0.0 <alice@example.test> UQW5HjlKBWsSAAAAdn9kMw Saved)",
    ),
    ("08:26:34.000000", "dovecot", "Nov 24 08:26:34 imap(alice@example.test)<8><00Ht>: Info: Disconnected: Logged out in=1 out=2 body_count=0 body_bytes=0"),
    ("08:26:35.000000", "dovecot", "Nov 24 08:26:35 pop3(Alice@example.test)<8><00Hu>: Info: Disconnected: Logged out top=0/0, retr=1/1072, del=1/1055, size=1055"),
    ("08:26:36.000000", "courier", "INFO: LOGOUT, user=tiny@example.test, ip=[::ffff:10.0.0.1], port=[4], headers=0, body=742, rcvd=58, sent=1191, time=0, starttls=1"),
)


def test_a_trace_tells_every_hop_with_its_milliseconds() -> None:
    found = trace.trace("<one@example.test>", LOG, RULES)
    assert found.queue_ids == ("74E8518D2A3", "7C8A318D2A6")
    assert found.message_ids == ("one@example.test", "bounce@mail.example.test")
    assert [(hop.ms, hop.service, hop.id, hop.step) for hop in found.hops] == [
        (0.0, "mta", "74E8518D2A3", "accepted"),
        (0.9, "mta", "74E8518D2A3", "message-id"),
        (2.7, "mta", "74E8518D2A3", "queued"),
        (6.4, "mta", "74E8518D2A3", "delivered"),
        (21.0, "dovecot", "", "not saved"),
        (30.2, "mta", "74E8518D2A3", "bounced"),
        (31.7, "mta", "7C8A318D2A6", "message-id"),
        (32.3, "mta", "74E8518D2A3", "made"),
        (32.5, "mta", "7C8A318D2A6", "queued"),
        (34.1, "mta", "74E8518D2A3", "removed"),
        (42.9, "dovecot", "", "saved"),
        (43.7, "mta", "7C8A318D2A6", "delivered"),
        (1520.8, "dovecot", "", "read"),
        (2520.8, "courier", "", "read"),
    ]
    first, delivered, made = found.hops[0].told, found.hops[3].told, found.hops[7].told
    assert made == {"successor": "7C8A318D2A6", "what": "sender non-delivery notification"}
    assert (first["client"], first["tls"], first["login"]) == ("unknown[10.0.0.1]", "TLSv1.3", "alice@example.test")
    assert (delivered["recipient"], delivered["store"], delivered["dsn"], delivered["relay"]) == ("tiny+a=b@example.test", "courier", "2.0.0", "virtual")
    assert any("which message it was, the servers do not log" in said for said in found.unknown)


@pytest.mark.parametrize("wanted", ["one@example.test", "<one@example.test>", "74E8518D2A3"])
def test_each_id_finds_the_same_message(wanted: str) -> None:
    assert trace.trace(wanted, LOG, RULES) == trace.trace("<one@example.test>", LOG, RULES)


def test_the_bounce_has_a_trace_of_its_own() -> None:
    found = trace.trace("7C8A318D2A6", LOG, RULES)
    assert found.queue_ids == ("7C8A318D2A6",)
    assert [hop.step for hop in found.hops] == ["message-id", "queued", "saved", "delivered", "read"]


@pytest.mark.parametrize("wanted", ["", "<>", "nobody@example.test", "74E8518D2A", "one@example", ".*", "one.example.test", "[", "(?P<id>", "removed"])
def test_an_unknown_message_is_told(wanted: str) -> None:
    with pytest.raises(CheckFailed, match="no line of the log knows") as caught:
        trace.trace(wanted, LOG, RULES)
    assert "--problems" in caught.value.hint


def test_messages_without_a_message_id_are_not_taken_for_one() -> None:
    log = lines(mta("08:00:00.000000", "cleanup[1]: AAAA1: message-id=<>"), mta("08:00:01.000000", "cleanup[1]: BBBB1: message-id=<>"))
    found = trace.trace("AAAA1", log, RULES)
    assert (found.queue_ids, found.message_ids, len(found.hops)) == (("AAAA1",), (), 1)


def test_what_a_store_sends_on_is_followed_by_its_message_id() -> None:
    log = lines(
        mta("08:00:00.000000", "smtpd[1]: AAAA1: client=unknown[10.0.0.1]"),
        mta("08:00:00.100000", "cleanup[2]: AAAA1: message-id=<x@y>"),
        mta("08:00:01.000000", "internal/smtpd[3]: BBBB1: client=unknown[10.0.0.5]"),
        mta("08:00:01.100000", "cleanup[2]: BBBB1: message-id=<x@y>"),
    )
    assert trace.trace("AAAA1", log, RULES).queue_ids == trace.trace("x@y", log, RULES).queue_ids == ("AAAA1", "BBBB1")


def test_the_connection_before_is_not_this_one() -> None:
    log = lines(
        mta("08:00:00.000000", "smtpd[1]: Anonymous TLS connection established from unknown[10.0.0.1]: TLSv1.3 with cipher X"),
        mta("08:00:00.100000", "smtpd[1]: disconnect from unknown[10.0.0.1] quit=1"),
        mta("08:00:00.200000", "smtpd[1]: AAAA1: client=unknown[10.0.0.1]"),
    )
    assert "tls" not in trace.trace("AAAA1", log, RULES).hops[0].told


def test_the_name_space_of_stores_is_the_one_that_is_rendered() -> None:
    assert trace._STORE.search(f"alice@example.test.dovecot-2-3.{INTERNAL}")


# --- Counts


def test_traffic_is_counted_once_where_it_is_logged_twice() -> None:
    again = lines(
        mta("09:00:00.000000", "lmtp[9]: 74E8518D2A3: to=<x@y>, relay=none, delay=1, delays=0/0/1/0, dsn=4.4.1, status=deferred (connect to x[10.0.0.1]:24: refused)"),
        mta("09:00:00.100000", "qmgr[15]: 74E8518D2A3: from=<alice@example.test>, size=9995, nrcpt=3 (queue active)"),
        mta("09:00:00.200000", "lmtp[9]: 74E8518D2A3: to=<x@y>, relay=none, delay=1, delays=0/0/1/0, dsn=4.4.1, status=deferred (connect to x[10.0.0.1]:24: refused)"),
        mta(
            "09:00:01.000000",
            "smtpd[145]: NOQUEUE: reject: RCPT from unknown[10.0.0.1]: 554 5.7.1 <x@o.example>: Relay access denied; from=<a@b> to=<x@o.example> proto=ESMTP helo=<h>",
        ),
        mta("09:00:02.000000", "cleanup[145]: 74E8518D2A3: reject: header Subject: x from unknown[10.0.0.1]; from=<a@b> to=<c@d> proto=ESMTP helo=<h>: 5.7.1 no"),
    )
    found = traffic.as_json(traffic.count([*LOG, *again], RULES["mta"]), top=2)
    numbers = {key: found[key] for key in ("received", "delivered", "bounced", "deferred", "deferrals", "rejected", "octets_received", "octets_delivered")}
    assert numbers == {
        "received": 2,
        "delivered": 2,
        "bounced": 1,
        "deferred": 1,
        "deferrals": 2,
        "rejected": 2,
        "octets_received": 9995,
        "octets_delivered": 9995 + 12678,
    }
    assert found["senders"] == [{"name": "alice@example.test", "messages": 1, "octets": 9995}]
    assert found["totals"]["recipients"] == 2
    assert found["reject_reasons"][0] == {"reason": "554 5.7.1 <x@o.example>: Relay access denied", "count": 1}
    assert found["by_hour"][8] == {"hour": 8, "received": 2, "delivered": 2, "deferred": 0, "bounced": 1, "rejected": 0}
    assert found["by_hour"][9] == {"hour": 9, "received": 0, "delivered": 0, "deferred": 2, "bounced": 0, "rejected": 2}


def test_nothing_is_counted_in_nothing() -> None:
    found = traffic.as_json(traffic.count([], RULES["mta"]), top=10)
    assert not any(value for value in found.values() if isinstance(value, int))
    assert found["senders"] == []
