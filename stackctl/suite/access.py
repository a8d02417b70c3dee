"""Who gets in, and who is kept out: logins, certificates, plain text. It changes no account."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from stackctl.clients.failure import AuthRefused, TlsFailed
from stackctl.errors import StackctlError
from stackctl.scenario import WAYS_IN, Context, expect, plain, scenario
from stackctl.suite.declared import declared

AUTHENTICATED = ("submission", "submissions")
WRONG = "not-the-password"


def refused(kind: type[Exception] | tuple[type[Exception], ...], call: Callable[[], object], what: str, saying: str = "") -> None:
    """Fails unless `call` raises this kind of error, saying this."""
    try:
        call()
    except kind as why:
        expect(saying in str(why), f"{what}: refused, but not with {saying!r}: {why}")
        return
    expect(False, f"{what}: nothing refused it")


def all_refused(kind: type[StackctlError], tries: Mapping[str, Callable[[], object]], saying: str = "") -> None:
    """As `refused`, for several at once: servers take seconds to say no, so that guessing is slow."""
    with ThreadPoolExecutor(len(tries)) as pool:
        for done in [pool.submit(refused, kind, call, what, saying) for what, call in tries.items()]:
            done.result()


def _smtp_login(context: Context, address: str, password: str) -> None:
    with context.smtp() as smtp:
        smtp.login(address, password)


# --- On the way in


@scenario(feature="B1", over=("way_in",), ways_in=AUTHENTICATED)
def a_login_with_the_right_password_may_send(context: Context) -> None:
    """Users of both kinds of domain."""
    for address in (context.fresh(), context.user):
        _smtp_login(context, address, context.password(address))


@scenario(feature="B1", over=("way_in",), ways_in=AUTHENTICATED)
def a_wrong_password_does_not_let_send(context: Context) -> None:
    """535, for users of both kinds of domain; one wrong letter is enough."""
    tries = {
        f"wrong password {number} of {address}": partial(_smtp_login, context, address, wrong)
        for address in (context.fresh(), context.user)
        for number, wrong in enumerate((WRONG, context.password(address)[:-1], context.password(address).swapcase()))
    }
    all_refused(AuthRefused, tries, "535")


@scenario(feature="B1", over=("way_in",), ways_in=AUTHENTICATED)
def an_unknown_user_may_not_send(context: Context) -> None:
    """Neither with a made-up password nor with one that is good elsewhere."""
    passwords = {"a made-up": WRONG, "a user's": context.password(context.user), "the disposable": context.password(context.fresh())}
    all_refused(AuthRefused, {f"nobody with {what} password": partial(_smtp_login, context, f"nobody@{context.domain}", p) for what, p in passwords.items()}, "535")


@scenario(feature="B1", over=("way_in",), ways_in=AUTHENTICATED)
def an_empty_password_does_not_let_send(context: Context) -> None:
    """An empty password is a wrong one, not none."""
    for address in (context.fresh(), context.user):
        refused(AuthRefused, partial(_smtp_login, context, address, ""), f"an empty password of {address}")


@scenario(feature="B1", over=("way_in",), ways_in=AUTHENTICATED)
def the_disposable_password_does_not_let_send_as_a_user(context: Context) -> None:
    """It is known to every test of a stack, so it must open nothing but disposable mailboxes."""
    refused(AuthRefused, lambda: _smtp_login(context, context.user, context.password(context.fresh())), f"the disposable password for {context.user}", "535")


@scenario(feature="B1", over=("way_in",), ways_in=("smtp", "submission"))
def no_login_before_tls(context: Context) -> None:
    """AUTH with the right password in plain text gets no further than with a wrong one."""
    address = context.fresh()
    with context.raw_smtp(tls="none") as smtp:
        answer = smtp.ask(f"AUTH PLAIN {plain(address, context.password(address))}")
        expect(answer[0] in (502, 503, 530, 535, 538), f"AUTH in plain text: {answer}")
        expect(smtp.ask(f"AUTH PLAIN {plain(address, WRONG)}") == answer, f"AUTH in plain text tells the right password from a wrong one: {answer}")
        code, text = smtp.ask(f"MAIL FROM:<{address}>")
        expect(code in (530, 535) or context.case.way_in == "smtp", f"MAIL without TLS on the submission port: {code} {text}")


@scenario(feature="B1", over=("way_in",), ways_in=AUTHENTICATED)
def no_mail_without_a_login_on_the_submission_ports(context: Context) -> None:
    """Not even to a user of this stack."""
    with context.raw_smtp() as smtp:
        code, text = smtp.ask(f"MAIL FROM:<{context.fresh()}>")
        if code == 250:
            code, text = smtp.ask(f"RCPT TO:<{context.user}>")
        expect(500 <= code < 600, f"mail without a login: {code} {text}")


# --- TLS: the name and the chain are verified, or nothing goes on


@scenario(feature=("A3", "D4"), over=("way_in",), ways_in=WAYS_IN)
def sending_verifies_the_certificate(context: Context) -> None:
    """It is good with the stack's CA, and no good for the system's roots or under another name."""
    context.smtp().close()
    refused(TlsFailed, lambda: context.smtp(ca=None), "a certificate of a CA that nobody knows", "does not verify")
    refused(TlsFailed, lambda: context.smtp(name="wrong.example.org"), "a certificate for another name", "does not verify")


@scenario(feature=("A3", "D4"), over=("store", "way_out"))
def reading_verifies_the_certificate(context: Context) -> None:
    """It is good with the stack's CA, and no good for the system's roots or under another name."""
    address = context.fresh()
    password = context.password(address)
    context.log_in(address, password)
    context.log_in(address, password, name="localhost")
    refused(TlsFailed, lambda: context.log_in(address, password, ca=None), "a certificate of a CA that nobody knows", "does not verify")
    refused(TlsFailed, lambda: context.log_in(address, password, name="wrong.example.org"), "a certificate for another name", "does not verify")


# --- On the way out


@scenario(feature=("D1", "D2", "D7"), over=("store", "way_out"))
def a_login_with_the_right_password_may_read(context: Context) -> None:
    """Users of both kinds of domain; a disposable mailbox needs no set-up, and its name no certain case."""
    for address in (context.fresh(), context.user):
        context.log_in(address, context.password(address))
    context.mailbox(context.fresh("never-used"), 0)


@scenario(feature=("D1", "D2", "D7"), over=("store", "way_out"))
def a_wrong_password_does_not_let_read(context: Context) -> None:
    """For users of both kinds of domain; one missing letter is enough."""
    tries = {
        f"wrong password {number} of {address}": partial(context.log_in, address, wrong)
        for address in (context.fresh(), context.user)
        for number, wrong in enumerate((WRONG, context.password(address)[:-1]))
    }
    all_refused(AuthRefused, tries)


@scenario(feature=("D1", "D2", "D7"), over=("store", "way_out"))
def an_empty_password_does_not_let_read(context: Context) -> None:
    """An empty password is a wrong one, not none."""
    all_refused(StackctlError, {address: partial(context.log_in, address, "") for address in (context.fresh(), context.user)})


@scenario(feature=("D1", "D2", "D7"), over=("store", "way_out"))
def an_unknown_user_may_not_read(context: Context) -> None:
    """Neither with a made-up password nor with one that is good elsewhere."""
    passwords = {"a made-up": WRONG, "a user's": context.password(context.user), "the disposable": context.password(context.fresh())}
    all_refused(AuthRefused, {f"nobody with {what} password": partial(context.log_in, f"nobody@{context.domain}", p) for what, p in passwords.items()})


@scenario(feature=("D1", "D2", "D7"), over=("store", "way_out"))
def the_disposable_password_opens_no_mailbox_of_a_user(context: Context) -> None:
    """It is known to every test of a stack, so it must open nothing but disposable mailboxes."""
    refused(AuthRefused, lambda: context.log_in(context.user, context.password(context.fresh())), f"the disposable password for {context.user}")


@scenario(feature=("D4", "D5"), over=("store", "way_out"), ways_out=("imap", "pop3"))
def no_password_is_taken_in_plain_text(context: Context) -> None:
    """The right password without TLS is refused; with STARTTLS on the same port it is taken."""
    declared(context, "logins need TLS", lambda stack: stack.tls.require)
    address = context.fresh()
    refused(AuthRefused, lambda: context.log_in(address, context.password(address), tls="none"), "a login in plain text")
    context.log_in(address, context.password(address))


@scenario(feature=("D7", "D2"), over=("store", "way_out"))
def the_name_of_a_mailbox_cannot_lead_into_another(context: Context) -> None:
    """A disposable address whose local part looks like a path opens nobody else's mail."""
    user = context.user
    local = user.partition("@")[0]
    message = context.message(context.sender("smtp"), user, "path")
    context.send(user, message, way="smtp")
    names = (f"../{context.domain}/{local}", f"x/../../{context.domain}/{local}")
    with ThreadPoolExecutor(len(names)) as pool:
        for name, seen in zip(names, pool.map(lambda name: _seen(context, f"{name}@{context.disposable}"), names), strict=True):
            expect(not any(message in octets for octets in seen), f"{name}@{context.disposable} reads the mail of {user}")
    context.take(user, "path", context.store)


def _seen(context: Context, address: str) -> list[bytes]:
    """What an address reads; nothing where its login is refused, which is the best answer."""
    with contextlib.suppress(AuthRefused):
        return context.look(address)
    return []
