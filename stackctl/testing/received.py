"""A message that arrived, as a test looks at it: text, links, codes, attachments. It asks no server; its octets come from whoever made it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.message import Message as Fields
from email.utils import parsedate_to_datetime
from functools import cached_property
from html.parser import HTMLParser
from typing import cast

from stackctl.clients.message import Summary

_URL = re.compile(r"https?://[^\s<>\"'`{}|\\^]+")
_AFTER = ".,;:!?"  # what ends a sentence ends no link
# Digits that stand alone: not the part of a longer number, a date, a price, an address or a file name.
_CODE = re.compile(r"(?<![\w.,:/#&?=%+@-])(?:[0-9]{4,8}|[0-9]{3}[ -][0-9]{3})(?![\w/@-]|[.,:][0-9])")
_UNSEEN = ("style", "script", "head", "title")  # elements whose text nobody reads
_BREAKS = ("p", "br", "div", "td", "th", "li", "tr", "h1", "h2", "h3")


@dataclass(frozen=True)
class Attachment:
    """A file that came with a message."""

    name: str
    content_type: str
    content: bytes


class Message:
    """A message in a mailbox. Its octets are fetched when something asks for them first: a subject alone needs none."""

    def __init__(self, listed: Summary, fetch: Callable[[], bytes]) -> None:
        self.listed, self._fetch = listed, fetch
        self.uid, self.subject, self.sender, self.message_id = listed.uid, listed.subject, listed.sender, listed.message_id

    def __repr__(self) -> str:
        return f"<Message {self.subject!r} from {self.sender}>"

    @cached_property
    def raw(self) -> bytes:
        """Its octets as the store has them. Raises StackctlError when it was deleted before anything asked for them."""
        return self._fetch()

    @cached_property
    def email(self) -> EmailMessage:
        """It as the standard library's parser sees it: header fields, parts."""
        return message_from_bytes(self.raw, policy=policy.default)

    @property
    def arrived(self) -> datetime | None:
        """When the last server took it, from its topmost Received field (RFC 5321 4.4); None where that cannot be read."""
        received = str(message_from_bytes(self.raw)["Received"] or "")  # the older parser, which takes damaged fields as they are
        try:
            return parsedate_to_datetime(received.rpartition(";")[2].strip())
        except ValueError:
            return None

    @property
    def text(self) -> str:
        """Its text/plain part, "" without one."""
        return self._part("plain")

    @property
    def html(self) -> str:
        """Its text/html part, "" without one."""
        return self._part("html")

    @property
    def attachments(self) -> list[Attachment]:
        """The files that came with it."""
        return [
            Attachment(part.get_filename() or "", part.get_content_type(), _octets(part))  # a forwarded message is one too
            for part in self.email.iter_attachments()
        ]

    def links(self) -> list[str]:
        """The http and https links, each once, in the order in which they stand: of <a href> in its HTML, then of its text."""
        found = [one for one in self._page.links if _URL.match(one)]
        for url in _URL.findall(self.text):
            url = url.rstrip(_AFTER)
            found.append(url.rstrip(")") if "(" not in url else url)  # "(see https://example.test/)"
        return list(dict.fromkeys(found))

    def codes(self) -> list[str]:
        """What may be one-time codes, in its subject and text: numbers of 4 to 8 digits that stand alone, and "123 456" as 123456. Years too."""
        said = [self.subject, _URL.sub(" ", self.text or self._page.text)]
        return list(dict.fromkeys(re.sub("[ -]", "", one) for text in said for one in _CODE.findall(text)))

    def _part(self, kind: str) -> str:
        part = self.email.get_body((kind,))
        if part is None:
            return ""
        try:
            text = str(part.get_content())
        except LookupError:  # a charset that nobody knows
            text = _octets(part).decode("latin-1")
        return text.replace("\r\n", "\n")

    @cached_property
    def _page(self) -> _Page:
        page = _Page()
        page.feed(self.html)
        page.close()
        return page


def _octets(part: Fields) -> bytes:
    """The content of a part; of a message, the message."""
    if part.is_multipart():
        return b"".join(inner.as_bytes() for inner in cast(list[Fields], part.get_payload()))
    return cast(bytes, part.get_payload(decode=True))


class _Page(HTMLParser):
    """What a reader of HTML gets: links, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value.strip() for key, value in attrs if tag == "a" and key == "href" and value]
        self._unseen += tag in _UNSEEN
        self.text += "\n" if tag in _BREAKS else ""

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN and self._unseen > 0

    def handle_data(self, data: str) -> None:
        self.text += "" if self._unseen else data
