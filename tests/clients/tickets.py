"""Logs in with the ticket that is there (klist): each argument is an attempt, PROTOCOL:PORT:MECHANISM:NAME. Prints a line for each: what the server said.

The container has no library for SASL; python3-gssapi makes the tokens, and the rest is RFC 4752 3.1.
"""

import base64
import imaplib
import poplib
import smtplib
import ssl
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gssapi  # type: ignore[import-not-found]

CA = "/home/person/ca.pem"
OIDS = {"GSSAPI": gssapi.MechType.kerberos, "GSS-SPNEGO": gssapi.OID.from_int_seq("1.3.6.1.5.5.2")}


Answer = Callable[[bytes], bytes]


def client(service: str, mechanism: str, name: str) -> Answer:
    """A client's side: an answer to each challenge, the first of which is empty. Raises GSSError where there is no ticket."""
    target = gssapi.Name(f"{service}@localhost", gssapi.NameType.hostbased_service)
    context = gssapi.SecurityContext(name=target, mech=OIDS[mechanism], usage="initiate")
    first = context.step()

    def answer(challenge: bytes) -> bytes:
        if not challenge:
            return bytes(first)
        if not context.complete:
            return bytes(context.step(challenge) or b"")
        offered = context.unwrap(challenge).message
        assert len(offered) == 4 and offered[0] & 1, offered  # no security layer: TLS is there
        return bytes(context.wrap(b"\1\0\0\0" + name.encode(), False).message)

    return answer


def imap(port: int, mechanism: str, answer: Answer, tls: ssl.SSLContext) -> str:
    with imaplib.IMAP4_SSL("localhost", port, ssl_context=tls) as session:
        session.authenticate(mechanism, answer)
        return session.select()[0]


def pop3(port: int, mechanism: str, answer: Answer, tls: ssl.SSLContext) -> str:
    session = poplib.POP3_SSL("localhost", port, context=tls)
    try:
        said = session._shortcmd(f"AUTH {mechanism}")  # type: ignore[attr-defined]
        while said.startswith(b"+ "):
            said = session._shortcmd(base64.b64encode(answer(base64.b64decode(said[2:]))).decode())  # type: ignore[attr-defined]
        session.stat()
        return "OK"
    finally:
        session.close()


def smtp(port: int, mechanism: str, answer: Answer, tls: ssl.SSLContext) -> str:
    with smtplib.SMTP("localhost", port) as session:
        session.starttls(context=tls)
        session.ehlo()
        code, said = session.docmd(f"AUTH {mechanism}")
        while code == 334:
            code, said = session.docmd(base64.b64encode(answer(base64.b64decode(said))).decode())
        return "OK" if code == 235 else f"{code} {said.decode()}"


WAYS = {"imap": (imap, "imap"), "pop3": (pop3, "pop"), "smtp": (smtp, "smtp")}


def outcome(attempt: str) -> str:
    protocol, port, mechanism, name = attempt.split(":")
    way, service = WAYS[protocol]
    try:
        return way(int(port), mechanism, client(service, mechanism, name), ssl.create_default_context(cafile=CA))
    except (gssapi.exceptions.GSSError, imaplib.IMAP4.error, poplib.error_proto) as why:
        return f"{type(why).__name__}: {' '.join(str(why).split())}"


with ThreadPoolExecutor(4) as pool:
    print(*pool.map(outcome, sys.argv[1:]), sep="\n")
