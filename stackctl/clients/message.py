"""Messages as people write them to octets, and octets to what a list shows. It sends nothing."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_string, policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path

from stackctl.errors import UsageError


@dataclass(frozen=True)
class Summary:
    """What a list shows of a message; `size` in octets, `uid` 0 where it has none."""

    uid: int
    sender: str
    subject: str
    date: str
    size: int
    message_id: str


def compose(sender: str, to: Sequence[str], cc: Sequence[str], subject: str, body: str, attachments: Sequence[Path]) -> bytes:
    """A message with CRLF line ends; a text, and the attached files. Blind copies have no place in it.

    Raises UsageError for an address, a subject or a file that cannot be taken.
    """
    # A local part beyond ASCII has no encoded form; such a message needs SMTPUTF8 (RFC 6532).
    plain = "".join([sender, *to, *cc]).isascii()
    message = EmailMessage(policy=policy.SMTP if plain else policy.SMTPUTF8)
    try:
        message["From"] = _address(sender)
        if to:
            message["To"] = [_address(one) for one in to]
        if cc:
            message["Cc"] = [_address(one) for one in cc]
        message["Subject"] = subject
    except (ValueError, IndexError) as why:
        raise UsageError(f"a header cannot be written: {why}", "addresses are like alice@example.test, a subject is one line") from why
    message["Date"] = formatdate(localtime=False)
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message.set_content(body)
    for path in attachments:
        kind = (mimetypes.guess_type(path.name)[0] or "application/octet-stream").split("/")
        if kind[0] in ("message", "multipart"):  # RFC 2046 5.2.1: these take no base64, and must stay as they are
            kind = ["application", "octet-stream"]
        try:
            data = path.read_bytes()
        except OSError as why:
            raise UsageError(f"{path}: cannot be attached: {why.strerror}", "name a readable file") from why
        message.add_attachment(data, maintype=kind[0], subtype=kind[1], filename=path.name)
    return message.as_bytes()


def _address(text: str) -> Address:
    if not text:
        raise ValueError("an address is empty")
    if text.isascii():
        return Address(addr_spec=text)
    local, _, domain = text.rpartition("@")  # RFC 6531: UTF-8 in both parts, of which the standard parser takes none
    if not local or re.search(r"[\s<>()\[\]:;@\\,\"]", local + domain):
        raise ValueError(f"{text!r} is no address")
    return Address(username=local, domain=domain)


def summary(header: bytes, uid: int = 0, size: int = 0) -> Summary:
    """What a list shows of a message, from its header's octets; damaged headers give what can be read of them."""
    message = message_from_string(header.decode("utf-8", "replace"), policy=policy.default)  # RFC 6532: a header may be raw UTF-8

    def text(name: str) -> str:
        try:
            return str(message.get(name, "")).replace("\n", " ").replace("\r", "")
        except (ValueError, IndexError, AttributeError, TypeError, LookupError):  # the standard parser's own faults on damaged headers
            return ""

    return Summary(uid, text("From"), text("Subject"), text("Date"), size, text("Message-ID"))
