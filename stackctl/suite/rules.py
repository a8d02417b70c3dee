"""Who may send what to whom, and where it arrives: unknown users, relaying, senders, aliases, the catch-all. It changes no rule."""

from __future__ import annotations

import re

from stackctl import addresses
from stackctl.clients.smtp import Refused
from stackctl.scenario import Context, RawSmtp, Skipped, expect, scenario
from stackctl.suite.declared import declared

FOREIGN = "somebody@foreign.example"
AUTHENTICATED = ("submission", "submissions")


def _session(context: Context, login: str | None = None) -> tuple[RawSmtp, str]:
    """A dialogue by the case's way in, with MAIL said."""
    sender = login or context.sender()
    smtp = context.raw_smtp(login=None if context.case.way_in == "smtp" else sender)
    smtp.expect(f"MAIL FROM:<{sender}>", 250)
    return smtp, sender


@scenario(feature=("B7", "B1"), over=("way_in",))
def mail_to_an_unknown_user_is_refused_at_rcpt(context: Context) -> None:
    """550 5.1.1 in the strict domain, at once; a user beside it is taken."""
    smtp, _ = _session(context)
    with smtp:
        text = smtp.expect(f"RCPT TO:<nobody-{context.tag}@{context.domain}>", 550)
        expect(context.has_status(text, "5.1.1"), f"the enhanced status is not 5.1.1: {text}")
        smtp.expect(f"RCPT TO:<nobody-{context.tag}+detail@{context.domain}>", 550)
        smtp.expect(f"RCPT TO:<{context.user}>", 250)


@scenario(feature="B1", over=("way_in",), ways_in=("smtp",))
def port_25_relays_for_nobody(context: Context) -> None:
    """554 5.7.1 for a foreign domain, however it is written; a recipient of this stack is taken."""
    smtp, _ = _session(context)
    user, _, domain = context.user.partition("@")
    with smtp:
        text = smtp.expect(f"RCPT TO:<{FOREIGN}>", 554)
        expect(context.has_status(text, "5.7.1"), f"the enhanced status is not 5.7.1: {text}")
        for tricky in (
            f"@{domain}:{FOREIGN}",  # RFC 5321 4.1.2: a source route is ignored, and its target is foreign
            FOREIGN.replace("@", "%") + f"@{domain}",
            f'"{FOREIGN}"@{domain}',
            FOREIGN.replace("@", "%") + "@[127.0.0.1]",
            f"foreign.example!somebody@{domain}",
            f"{FOREIGN}@{domain}",
            f"{user}@{domain}.invalid",
            f"{user}@sub.{domain}",
        ):
            code, text = smtp.ask(f"RCPT TO:<{tricky}>")
            expect(500 <= code < 600, f"{tricky} was taken: {code} {text}")
        smtp.expect(f"RCPT TO:<{context.user}>", 250)


@scenario(feature="B1", over=("way_in",), ways_in=AUTHENTICATED)
def nobody_sends_under_another_ones_address(context: Context) -> None:
    """553 5.7.1 for every sender that is not the login's; one's own, and one's sub-address, is taken."""
    own, other = context.fresh("own"), context.fresh("other")
    for login, senders in ((own, (other, context.user, FOREIGN)), (context.user, (own, f"postmaster@{context.domain}", *context.users[1:2]))):
        with context.raw_smtp(login=login) as smtp:
            for sender in senders:
                # Some servers answer to MAIL, some to RCPT: only there do they know to whom.
                code, text = smtp.ask(f"MAIL FROM:<{sender}>")
                if code == 250:
                    code, text = smtp.ask(f"RCPT TO:<{context.user}>")
                expect(code == 553 and context.has_status(text, "5.7.1"), f"{login} as {sender}: {code} {text}, expected 553 5.7.1")
                smtp.expect("RSET", 250)
            smtp.expect(f"MAIL FROM:<{login}>", 250)
            smtp.expect(f"RCPT TO:<{context.user}>", 250)


@scenario(feature="B7", over=("store", "way_in"))
def mail_to_a_user_arrives_in_the_inbox(context: Context) -> None:
    """A user of the strict domain, and under no address but the user's own."""
    user = context.user
    message = context.message(context.sender(), user)
    context.send(user, message)
    octets = context.take(user, "message", context.store)
    expect(octets.endswith(message), "the message was changed on its way")


@scenario(feature=("B7", "B6"), over=("store",))
def mail_to_an_alias_reaches_its_owners(context: Context) -> None:
    """Every alias of stack.yaml that stands for users."""
    stack = declared(context, "an alias is declared", lambda stack: stack.aliases or any(user.aliases for user in stack.users))
    aliases = {alias: (user.address,) for user in stack.users for alias in user.aliases} | stack.aliases
    own = {alias: targets for alias, targets in aliases.items() if set(targets) <= set(context.users)}
    if not own:
        raise Skipped("no alias of the stack stands for users alone")
    for number, (alias, targets) in enumerate(own.items()):
        context.send(alias, context.message(context.sender(), alias, f"alias{number}"))
        for target in targets:
            context.take(target, f"alias{number}", context.store)


@scenario(feature="B7", over=("store",))
def mail_to_a_sub_address_arrives_in_the_inbox(context: Context) -> None:
    """RFC 5233: what follows the + is a detail; in the strict and in the disposable domain."""
    local, _, domain = context.user.partition("@")
    context.send(f"{local}+lists@{domain}", context.message(context.sender(), f"{local}+lists@{domain}"))
    context.take(context.user, "message", context.store)
    box = context.fresh()
    context.send(box.replace("@", "+detail@"), context.message(context.sender(), box))
    context.mailbox(box, 1)


@scenario(feature="B7", over=("store",))
def mail_to_postmaster_and_abuse_arrives(context: Context) -> None:
    """RFC 5321 4.5.1 and RFC 2142: these addresses exist wherever mail is taken, in any case of letters."""
    stack = declared(context)
    for number, address in enumerate((f"postmaster@{context.domain}", f"abuse@{context.domain}", f"PostMaster@{context.domain}")):
        context.send(address, context.message(context.sender("smtp"), address, f"role{number}"), way="smtp")
        for target in addresses.people(stack, address.lower()):
            context.take(target, f"role{number}", context.store)


@scenario(feature="A9", over=("store", "way_in"), ways_in=AUTHENTICATED)
def mail_for_a_foreign_domain_ends_in_the_catch_all_mailbox(context: Context) -> None:
    """And says there for whom it was. Nothing leaves the machine."""
    declared(context, "there is no relayhost", lambda stack: not stack.relayhost)
    message = context.message(context.sender(), FOREIGN)
    context.send(FOREIGN, message)
    octets = context.take(context.catch_all, "message", context.store)
    expect(octets.endswith(message), "the message was changed on its way")
    trace = octets[: -len(message)].decode()
    local, _, domain = context.catch_all.partition("@")
    detail = f"{local}+{FOREIGN.replace('@', '=')}@{domain}"
    found = re.findall(r"^(?:Delivered-To|X-Original-To): *<?([^>\r\n]+)", trace, re.MULTILINE)
    expect(any(address.startswith(detail) for address in found), f"for whom it was is not in its trace headers: {found}, expected {detail}")


@scenario(feature="A9", over=("store",))
def mail_for_a_known_domain_stays_out_of_the_catch_all_mailbox(context: Context) -> None:
    """The negative twin: only what is foreign goes there."""
    box = context.fresh()
    context.send(box, context.message(context.sender(), box, "twin"))
    context.mailbox(box, 1)
    context.send(FOREIGN, context.message(context.sender(), FOREIGN, "foreign"))
    context.take(context.catch_all, "foreign", context.store)
    with context.imap(context.catch_all, way="imaps") as imap:
        imap.select(readonly=True)
        expect(not imap.uids("SUBJECT", f"twin {context.tag}"), "the catch-all mailbox holds mail for the disposable domain")


@scenario(feature="B1", over=("store",))
def a_blind_copy_is_in_no_header(context: Context) -> None:
    """The hidden recipient gets the message, and the others cannot see it."""
    to, hidden = context.fresh("to"), context.fresh("hidden")
    message = context.message(context.sender(), to)
    context.send([to, hidden], message)
    expect(context.mailbox(hidden, 1)[0].endswith(message), "the blind copy is another message")
    expect(hidden.encode() not in context.mailbox(to, 1)[0], "the copy of the others names the hidden recipient")


@scenario(feature="B8", over=("way_in",))
def a_message_that_says_it_is_too_large_is_refused_at_mail(context: Context) -> None:
    """552 5.3.4 to SIZE= (RFC 1870); the largest allowed size is taken."""
    own = context.sender()
    with context.raw_smtp(login=None if context.case.way_in == "smtp" else own) as smtp:
        limit = size_limit(context, smtp)
        code, text = smtp.ask(f"MAIL FROM:<{own}> SIZE={limit + 1}")
        # RFC 1870 6.1; 534 is what some make of the status 5.3.4.
        expect(code in (552, 534) and context.has_status(text, "5.3.4"), f"SIZE={limit + 1}: {code} {text}, expected 552 5.3.4")
        smtp.expect(f"MAIL FROM:<{own}> SIZE={limit}", 250)


@scenario(feature="B8")
def a_message_that_turns_out_too_large_is_refused_after_data(context: Context) -> None:
    """552 5.3.4 at its end, and nothing of it arrives; the session goes on."""
    own, box = context.sender(), context.fresh()
    with context.raw_smtp(login=own) as smtp:
        limit = size_limit(context, smtp)
        if limit > 64 * 1024**2:
            raise Skipped(f"the limit of {limit} octets is too much to send for a test")
        for line, code in ((f"MAIL FROM:<{own}>", 250), (f"RCPT TO:<{box}>", 250), ("DATA", 354)):
            smtp.expect(line, code)
        block = (b"x" * 98 + b"\r\n") * 10_000
        smtp.say(context.message(own, box, "large") + block * (limit // len(block) + 1) + b".\r\n")
        code, text = smtp.reply()
        expect(code == 552 and context.has_status(text, "5.3.4"), f"more than {limit} octets: {code} {text}, expected 552 5.3.4")
    context.send(box, context.message(own, box, "small"), sender=own)
    expect(b"Subject: small" in context.mailbox(box, 1)[0], "the message that is too large arrived")


def size_limit(context: Context, smtp: RawSmtp) -> int:
    """The largest message in octets: what EHLO says, or stack.yaml where EHLO names no number (RFC 1870 4). Raises Skipped where there is no limit."""
    found = re.search(r"^SIZE(?: (\d+))?$", smtp.ehlo[1], re.MULTILINE)
    if not found or found[1] == "0":
        raise Skipped("the MTA has no size limit")
    limit = int(found[1] or declared(context).message_size_limit)
    if not limit:
        raise Skipped("the MTA has no size limit")
    return limit


@scenario(feature="B1", over=("way_in",))
def a_refused_recipient_leaves_the_others_alone(context: Context) -> None:
    """One unknown user among two recipients: the other one gets the mail."""
    own, box = context.sender(), context.fresh()
    unknown = f"nobody-{context.tag}@{context.domain}"
    message = context.message(own, box)
    with context.smtp(login=None if context.case.way_in == "smtp" else own) as smtp:
        refused = smtp.send(own, [unknown, box], message)
        expect(list(refused) == [unknown] and refused[unknown][0] == 550, f"refused were {refused}, expected {unknown} with 550")
        try:
            smtp.send(own, [unknown], message)
            expect(False, "a message for nobody was taken")
        except Refused as why:
            expect(why.code == 550, f"a message for nobody: {why.message}")
    context.mailbox(box, 1)
