"""ESMTP as it is spoken: what EHLO offers, every status code, pipelining, chunks, delivery reports. It sends exact octets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stackctl.scenario import Context, RawSmtp, expect, plain, scenario

# RFC 2920, 1870, 5321 (VRFY), 1985, 2034, 6152, 3461, 6531, 3030
EXTENSIONS = frozenset({"pipelining", "size", "vrfy", "etrn", "enhancedstatuscodes", "8bitmime", "dsn", "smtputf8", "chunking"})
AUTHENTICATED = ("submission", "submissions")


def _keywords(smtp: RawSmtp) -> set[str]:
    return {line.split(" ")[0].lower() for line in smtp.ehlo[1].split("\n")[1:]}


@scenario(feature="B1", over=("way_in",))
def ehlo_offers_every_extension(context: Context) -> None:
    """Those that the MTA provides, and none that it does not. Inside TLS STARTTLS is over, and a login is offered where mail is submitted, only there."""
    expected = EXTENSIONS & context.mta_provides
    with context.raw_smtp() as smtp:
        offered = _keywords(smtp)
        expect(offered & EXTENSIONS == expected, f"offered are {', '.join(sorted(offered & EXTENSIONS))}, expected {', '.join(sorted(expected))}")
        expect("starttls" not in offered, "STARTTLS is offered inside TLS")
        expect(("auth" in offered) == (context.case.way_in in AUTHENTICATED), f"AUTH is {'' if 'auth' in offered else 'not '}offered")


@scenario(feature="B1", over=("way_in",), ways_in=("smtp", "submission"), of_mta={"starttls"})
def before_tls_ehlo_offers_starttls_and_no_login(context: Context) -> None:
    """RFC 4954 4: a password must not be asked for where it could be read."""
    with context.raw_smtp(tls="none") as smtp:
        offered = _keywords(smtp)
        expect("starttls" in offered, "STARTTLS is not offered")
        expect("auth" not in offered, "AUTH is offered before TLS")


@scenario(feature="B1", over=("way_in",), ways_in=("smtp", "submission"), of_mta={"starttls"})
def commands_before_tls_do_not_count_inside_it(context: Context) -> None:
    """RFC 3207 4.2, CVE-2011-0411: what follows STARTTLS in plain text is thrown away."""
    with context.raw_smtp(tls="none") as smtp:
        smtp.say(b"STARTTLS\r\nRSET\r\n")
        code, text = smtp.reply()
        if code != 220:  # refusing the whole attempt is right as well
            expect(code >= 500, f"STARTTLS with a command behind it: {code} {text}")
            return
        smtp.start_tls(context.where("mta", context.case.way_in or ""))
        code, text = smtp.ask("EHLO client.invalid")
        expect(code == 250 and "\n" in text, f"the first reply inside TLS is not the one to EHLO: {code} {text}")


@dataclass(frozen=True)
class Row:
    """What is said, and the codes that the last line, or one before it, may be refused or answered with. `enhanced` is its status, "" where there is none."""

    codes: tuple[int, ...]
    lines: tuple[str, ...]
    login: bool = True
    enhanced: str = ""
    tls: bool = True


# {own}, {other}: fresh addresses; {user}: a user; {domain}: the strict domain; {limit}: the size limit; {right}, {wrong}: SASL PLAIN
MAIL = "MAIL FROM:<{own}>"
ROWS = (
    Row((221,), ("QUIT",), enhanced="2.0.0"),
    Row((235,), ("AUTH PLAIN {right}",), login=False, enhanced="2.7.0"),
    Row((250,), ("NOOP",), enhanced="2.0.0"),
    Row((250,), (MAIL,), enhanced="2.1.0"),
    Row((250,), (MAIL, "RCPT TO:<{other}>"), enhanced="2.1.5"),
    Row((250,), ("RSET",), enhanced="2.0.0"),
    Row((250, 252), ("VRFY {user}",), enhanced="2."),
    Row((334,), ("AUTH PLAIN",), login=False),
    Row((354,), (MAIL, "RCPT TO:<{other}>", "DATA")),
    Row((500,), ("FROBNICATE",), enhanced="5.5.2"),
    Row((501,), ("MAIL FROM:",), enhanced="5.5.4"),
    Row((501,), ("EHLO",)),
    Row((501,), ("AUTH PLAIN", "*"), login=False, enhanced="5.7.0"),
    Row((500, 502), ("EXPN list",), enhanced="5.5."),
    Row((503,), ("RCPT TO:<{other}>",), enhanced="5.5.1"),
    Row((503,), (MAIL, MAIL), enhanced="5.5.1"),
    Row((503,), ("AUTH PLAIN {right}",), enhanced="5.5.1"),
    Row((504,), (MAIL, "RCPT TO:<nobody>"), enhanced="5.5.2"),
    Row((530,), (MAIL,), login=False, tls=False, enhanced="5.7.0"),
    Row((535,), ("AUTH PLAIN {wrong}",), login=False, enhanced="5.7.8"),
    Row((550,), (MAIL, "RCPT TO:<nobody@{domain}>"), enhanced="5.1.1"),
    Row((550,), ("VRFY nobody@{domain}",), enhanced="5.1.1"),
    Row((552,), (MAIL + " SIZE={over}",), enhanced="5.3.4"),
    Row((553,), ("MAIL FROM:<{other}>", "RCPT TO:<{own}>"), enhanced="5.7.1"),
    Row((554, 503), (MAIL, "DATA"), enhanced="5.5.1"),
    Row((555,), (MAIL + " FROBNICATE=1",), enhanced="5.5.4"),
)


@scenario(feature="B1", over=("way_in",), ways_in=AUTHENTICATED, of_mta={"enhancedstatuscodes"})
def every_status_code_has_its_occasion(context: Context) -> None:
    """RFC 5321 4.2.3 and RFC 3463, one short dialogue for each; and 421 closes a session of nothing but errors."""
    own, other = context.fresh("own"), context.fresh("other")
    words = {
        "own": own, "other": other, "user": context.user, "domain": context.domain, "over": 10**12,
        "right": plain(own, context.password(own)), "wrong": plain(own, "not-the-password"),
    }  # fmt: skip
    seen = {220}
    faults = []
    for row in ROWS:
        if not row.tls and context.case.way_in == "submissions":
            continue
        with context.raw_smtp(login=own if row.login else None, **({} if row.tls else {"tls": "none"})) as smtp:
            expect(smtp.greeting[0] == 220, f"the greeting is {smtp.greeting}")
            for line in row.lines:
                code, text = smtp.ask(line.format(**words))
                if code >= 400:  # some servers refuse a sender at once, some wait for the recipient
                    break
            seen.add(code)
            if code not in row.codes or not context.has_status(text, row.enhanced):
                faults.append(f"{' / '.join(row.lines)}: {code} {text}, expected {' or '.join(map(str, row.codes))} {row.enhanced}")
    with context.raw_smtp(login=own) as smtp:
        for _ in range(100):
            code, text = smtp.ask("FROBNICATE")
            if code == 421:
                seen.add(code)
                break
    wanted = {220, 221, 235, 250, 334, 354, 421, 500, 501, 503, 504, 535, 550, 552, 553}
    faults += [f"never seen: {sorted(wanted - seen)}"] if wanted - seen else []
    expect(not faults, "\n".join(faults))


@scenario(feature="B1", over=("way_in",), of_mta={"etrn"})
def vrfy_and_etrn_answer(context: Context) -> None:
    """VRFY knows users from strangers (RFC 5321 3.5.3); ETRN takes a domain and nothing else (RFC 1985)."""
    with context.raw_smtp(login=None if context.case.way_in == "smtp" else context.sender()) as smtp:
        smtp.expect(f"VRFY {context.user}", 250, 252)
        smtp.expect(f"VRFY nobody@{context.domain}", 550)
        smtp.expect(f"ETRN {context.domain}", 250, 251, 252, 253, 458, 459)
        smtp.expect("ETRN not..a..domain", 501, 458, 459)


@scenario(feature="B1", over=("way_in",), of_mta={"pipelining"})
def pipelined_commands_are_answered_in_order(context: Context) -> None:
    """RFC 2920: a whole transaction in one write, with one recipient that is refused."""
    own, box = context.sender(), context.fresh()
    message = context.message(own, box)
    with context.raw_smtp(login=None if context.case.way_in == "smtp" else own) as smtp:
        smtp.say(f"MAIL FROM:<{own}>\r\nRCPT TO:<{box}>\r\nRCPT TO:<nobody@{context.domain}>\r\nDATA\r\n".encode())
        codes = [smtp.reply()[0] for _ in range(4)]
        expect(codes == [250, 250, 550, 354], f"MAIL, RCPT, RCPT, DATA were answered with {codes}")
        smtp.say(message + b".\r\n")
        code, text = smtp.reply()
        expect(code == 250, f"the end of data was answered with {code} {text}")
    expect(context.mailbox(box, 1)[0].endswith(message), "a pipelined message was changed")


@scenario(feature="B1", over=("way_in",), of_mta={"pipelining", "pipelining-after-data"})
def messages_follow_one_another_without_a_pause(context: Context) -> None:
    """RFC 2920 3.1: a message may be the first in a group of commands, so that the next transaction comes with its end."""
    own, box = context.sender(), context.fresh()
    message = context.message(own, box)
    with context.raw_smtp(login=None if context.case.way_in == "smtp" else own) as smtp:
        for command, code in ((f"MAIL FROM:<{own}>", 250), (f"RCPT TO:<{box}>", 250), ("DATA", 354)):
            smtp.expect(command, code)
        smtp.say(message + b".\r\n" + f"MAIL FROM:<{own}>\r\nRCPT TO:<{box}>\r\nDATA\r\n".encode())
        codes = [smtp.reply()[0] for _ in range(4)]
        expect(codes == [250, 250, 250, 354], f"the end of data, MAIL, RCPT, DATA were answered with {codes}")
        smtp.say(message + b".\r\nQUIT\r\n")
        codes = [smtp.reply()[0] for _ in range(2)]
        expect(codes == [250, 221], f"the end of data and QUIT were answered with {codes}")
    expect(all(octets.endswith(message) for octets in context.mailbox(box, 2)), "a pipelined message was changed")


@scenario(feature="B1", over=("way_in",), of_mta={"chunking"})
def a_message_in_chunks_arrives_whole(context: Context) -> None:
    """RFC 3030: BDAT counts octets, so that dots at the start of a line are octets like all others."""
    own, box = context.sender(), context.fresh()
    message = context.message(own, box, body=b".\r\n..\r\n.start\r\n" + b"y" * 998 + b"\r\nend\r\n.\r\n")
    cut = len(message) - 1010  # within a line
    with context.raw_smtp(login=None if context.case.way_in == "smtp" else own) as smtp:
        smtp.expect(f"MAIL FROM:<{own}>", 250)
        smtp.expect(f"RCPT TO:<{box}>", 250)
        smtp.say(f"BDAT {cut}\r\n".encode() + message[:cut])
        expect(smtp.reply()[0] == 250, "the first chunk was refused")
        smtp.say(f"BDAT {len(message) - cut} LAST\r\n".encode() + message[cut:])
        code, text = smtp.reply()
        expect(code == 250, f"the last chunk: {code} {text}")
    expect(context.mailbox(box, 1)[0].endswith(message), "the message in chunks was changed")


@scenario(feature="B1", over=("way_in",), of_mta={"chunking"})
def chunks_out_of_turn_are_refused(context: Context) -> None:
    """RFC 3030 2: no BDAT before MAIL, no DATA after BDAT, no count that is none."""
    own, box = context.sender(), context.fresh()
    with context.raw_smtp(login=None if context.case.way_in == "smtp" else own) as smtp:
        smtp.say(b"BDAT 2\r\nx\n")
        expect(smtp.reply()[0] == 503, "BDAT before MAIL was taken")
        smtp.expect("RSET", 250)
        smtp.expect(f"MAIL FROM:<{own}>", 250)
        smtp.expect(f"RCPT TO:<{box}>", 250)
        smtp.say(b"BDAT 2\r\n\r\n")
        expect(smtp.reply()[0] == 250, "a chunk was refused")
        smtp.expect("DATA", 503)
        smtp.expect("RSET", 250)
        smtp.expect(f"MAIL FROM:<{own}>", 250)
        smtp.expect("BDAT two", 501, 521)  # without a count nobody knows where the chunk ends: closing the session is right as well


@scenario(feature="B1", of_mta={"dsn"})
def a_delivery_report_comes_when_it_was_asked_for(context: Context) -> None:
    """RFC 3461: NOTIFY=SUCCESS gives one report for each delivery, with the envelope id; NOTIFY=NEVER gives none."""
    own, loud, quiet = context.fresh("own"), context.fresh("loud"), context.fresh("quiet")
    with context.raw_smtp(login=own) as smtp:
        for box, notify in ((quiet, "NEVER"), (loud, "SUCCESS")):
            smtp.expect(f"MAIL FROM:<{own}> RET=HDRS ENVID=env-{context.tag}", 250)
            smtp.expect(f"RCPT TO:<{box}> NOTIFY={notify} ORCPT=rfc822;{box}", 250)
            smtp.expect("DATA", 354)
            smtp.say(context.message(own, box) + b".\r\n")
            expect(smtp.reply()[0] == 250, "the message was refused")
            context.mailbox(box, 1)
    with context.imap(own, way="imaps") as imap:
        found = imap.wait(timeout=30)
        reports = [imap.fetch(one.uid) for one in found]
    expect(all(quiet.encode() not in report for report in reports), "a report came in spite of NOTIFY=NEVER")
    expect(any(b"report-type=delivery-status" in report and f"env-{context.tag}".encode() in report for report in reports), "the report is none (RFC 3464)")


@scenario(feature="B1", over=("way_in",))
def one_message_cannot_hide_in_another(context: Context) -> None:
    """SMTP smuggling (CVE-2023-51764): only CRLF.CRLF ends a message, whatever looks like it."""
    own, box, hidden = context.sender(), context.fresh("seen"), context.fresh("hidden")
    inner = f"MAIL FROM:<{own}>\r\nRCPT TO:<{hidden}>\r\nDATA\r\nSubject: smuggled\r\n\r\nHello.\r\n.\r\n".encode()
    for ending in (b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n\0.\r\n"):
        with context.raw_smtp(login=None if context.case.way_in == "smtp" else own) as smtp:
            smtp.expect(f"MAIL FROM:<{own}>", 250)
            smtp.expect(f"RCPT TO:<{box}>", 250)
            smtp.expect("DATA", 354)
            smtp.say(context.message(own, box, body=b"outer") + ending + inner)
            codes = [smtp.reply()[0]]
            if codes[0] == 250:
                codes.append(smtp.ask("NOOP")[0])
                expect(codes == [250, 250], f"{ending!r}: the replies are {codes}: more than one message was seen")
    context.send(hidden, context.message(own, hidden, "marker"))
    expect(b"Subject: marker" in context.mailbox(hidden, 1, way="imaps")[0], "a smuggled message arrived")


@scenario(feature="C7", over=("way_in",))
def the_greeting_names_the_host(context: Context) -> None:
    """RFC 5321 4.2: 220 and the host name that the certificate carries; EHLO says the same name."""
    with context.raw_smtp() as smtp:
        name = context.endpoints["tls_name"]
        expect(smtp.greeting[0] == 220 and re.match(rf"{re.escape(name)} ESMTP\b", smtp.greeting[1]), f"the greeting is {smtp.greeting}")
        expect(smtp.ehlo[1].split("\n")[0].split(" ")[0] == name, f"EHLO is answered by {smtp.ehlo[1]}")
