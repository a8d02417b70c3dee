"""A message that arrived, as a test looks at it: text, links, codes, attachments. It asks no server; its octets come from whoever made it."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.message import Message as Fields
from email.utils import getaddresses, parsedate_to_datetime
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, cast

from stackctl.clients.message import Summary
from stackctl.testing.seen import Seen

_URL = re.compile(r"https?://[^\s<>\"'`{}|\\^]+")
_AFTER = ".,;:!?"  # what ends a sentence ends no link
# Digits that stand alone: not the part of a longer number, a date, a price, an address or a file name.
_CODE = re.compile(r"(?<![\w.,:/#&?=%+@-])(?:[0-9]{4,8}|[0-9]{3}[ -][0-9]{3})(?![\w/@-]|[.,:][0-9])")
# What a line near a one-time code says of it.
_SAYS_CODE = re.compile(r"(?i)\b(?:code|otp|pin|passcode|verification|verify|token|one-time|kód|код)\b")
_ONE_CLICK = "List-Unsubscribe=One-Click"  # RFC 8058 3.1


@dataclass(frozen=True)
class Attachment:
    """A file that came with a message. `content_id`: the name by which its HTML shows it, "" for what it does not."""

    name: str
    content_type: str
    content: bytes
    content_id: str = ""

    def __str__(self) -> str:
        return f"{self.name or 'without a name'} ({self.content_type}, {len(self.content)} octets)"


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
    def to(self) -> list[str]:
        """The addresses of To, without names."""
        return self._addresses("To")

    @property
    def cc(self) -> list[str]:
        """The addresses of Cc."""
        return self._addresses("Cc")

    @property
    def reply_to(self) -> list[str]:
        """The addresses of Reply-To."""
        return self._addresses("Reply-To")

    @property
    def attachments(self) -> list[Attachment]:
        """The files that came with it."""
        return [_attachment(part) for part in self.email.iter_attachments()]  # a forwarded message is one too

    @property
    def inline(self) -> list[Attachment]:
        """What its HTML shows: parts with a Content-ID (RFC 2392)."""
        return [_attachment(part) for part in self.email.walk() if part["Content-ID"] and not part.is_multipart()]

    def attachment(self, name: str = "*", content_type: str = "*", inline: bool = False) -> Attachment:
        """The one file with this name and type, both with `*` and `?`, in either case; `inline`: of those that its HTML shows too. Raises AssertionError."""
        __tracebackhide__ = True
        here = list(dict.fromkeys([*self.attachments, *(self.inline if inline else ())]))
        found = [one for one in here if fnmatchcase(one.name.lower(), name.lower()) and fnmatchcase(one.content_type, content_type.lower())]
        return cast(Attachment, self._one(found, f"attachment with name {name!r} and type {content_type!r}", here))

    def links(self, part: str = "") -> list[str]:
        """The http and https links that have `part` in them, each once, in the order in which they stand: of <a href> in its HTML, then of its text."""
        return [url for url, _ in self._links if part in url]

    def link(self, part: str = "", *, text: str | None = None, pattern: str | None = None) -> str:
        """The one link with `part` in it, with `text` in the words that can be clicked, and that the regular expression `pattern` finds. Raises AssertionError."""
        __tracebackhide__ = True
        found = [
            url for url, words in self._links if part in url and (text is None or any(text in one for one in words)) and (pattern is None or re.search(pattern, url))
        ]
        said = [f"{key} {value!r}" for key, value in (("part", part or None), ("text", text), ("pattern", pattern)) if value is not None]
        here = [f"{url}  {' | '.join(filter(None, words))}".rstrip() for url, words in self._links]
        return str(self._one(found, f"link{' with ' + ' and '.join(said) if said else ''}", here))

    def codes(self, pattern: str | None = None) -> list[str]:
        """What may be one-time codes, in its subject and text: numbers of 4 to 8 digits that stand alone, and "123 456" as 123456. Years too.

        With `pattern`, whatever this regular expression finds instead, its first group where it has one.
        """
        if pattern is not None:
            return list(dict.fromkeys(one[1] if one.re.groups else one[0] for text in self._said for one in re.finditer(pattern, text)))
        return list(dict.fromkeys(_bare(one) for text in self._said for one in _CODE.findall(text)))

    def code(self, pattern: str | None = None) -> str:
        """The one code that there is; of several, the one on a line that speaks of a code, or after or before one. Raises AssertionError."""
        __tracebackhide__ = True
        found = self.codes(pattern)
        if pattern is None and len(found) > 1:
            lines = [line for text in self._said for line in text.splitlines() if line.strip()]
            for shift in (0, 1, -1):  # on such a line, after one, before one
                near = [line for number, line in enumerate(lines) if 0 <= number - shift < len(lines) and _SAYS_CODE.search(lines[number - shift])]
                if likely := list(dict.fromkeys(_bare(one) for line in near for one in _CODE.findall(line))):
                    found = likely
                    break
        return str(self._one(found, "code" + (f" with pattern {pattern!r}" if pattern else ""), self.codes(pattern) if pattern is None else self._said))

    def unsubscribe_link(self, one_click: bool = False) -> str:
        """The http(s) link of List-Unsubscribe (RFC 2369); `one_click`: as large mail services ask for, https and List-Unsubscribe-Post (RFC 8058).

        Raises AssertionError where it is not there.
        """
        __tracebackhide__ = True
        field, post = str(self.email["List-Unsubscribe"] or ""), str(self.email["List-Unsubscribe-Post"] or "")
        found = [one.strip() for one in re.findall(r"<([^>]*)>", field) if _URL.fullmatch(one.strip())]
        here = [f"List-Unsubscribe: {field}" if field else "no List-Unsubscribe", f"List-Unsubscribe-Post: {post}" if post else "no List-Unsubscribe-Post"]
        if one_click:
            found = [one for one in found if one.startswith("https://") and post.strip() == _ONE_CLICK]
        return str(self._one(found[:1], "link to unsubscribe" + (" with one click" if one_click else ""), here))

    def open(self, page: Any) -> None:
        """Shows it in a browser's page as its reader sees it, pictures of its own included: a Playwright Page, a Selenium WebDriver, or what has `goto` or `get`."""
        shown = self.html or f"<pre>{html.escape(self.text)}</pre>"
        for one in self.inline:
            shown = shown.replace(f"cid:{one.content_id}", f"data:{one.content_type};base64,{base64.b64encode(one.content).decode()}")
        url = f"data:text/html;charset=utf-8;base64,{base64.b64encode(shown.encode()).decode()}"
        (page.goto if hasattr(page, "goto") else page.get)(url)

    @cached_property
    def _links(self) -> list[tuple[str, list[str]]]:
        """Each link with the words of every place where it can be clicked; of plain text, with none."""
        found: dict[str, list[str]] = {}
        for url, words in self._seen.links:
            if _URL.match(url):
                found.setdefault(url, []).append(words)
        for url in _URL.findall(self.text):
            url = url.rstrip(_AFTER)
            found.setdefault(url.rstrip(")") if "(" not in url else url, [])  # "(see https://example.test/)"
        return list(found.items())

    @property
    def _said(self) -> list[str]:
        """Its subject, and its text without links."""
        return [self.subject, _URL.sub(" ", self.text or self._seen.text)]

    def _addresses(self, field: str) -> list[str]:
        return [address for _, address in getaddresses([str(one) for one in self.email.get_all(field, [])]) if address]

    def _one(self, found: Sequence[object], what: str, here: Sequence[object]) -> object:
        """The only one of them. Raises AssertionError, saying what there is instead."""
        __tracebackhide__ = True
        if len(found) != 1:
            there = "\n".join(["there is:", *(f"  {one}" for one in here)]) if here else "there is nothing of the kind"
            raise AssertionError(f"one {what} was expected in {self.subject!r} from {self.sender}, not {len(found)}; {there}")
        return found[0]

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
    def _seen(self) -> Seen:
        return Seen(self.html)


def _bare(code: str) -> str:
    return re.sub("[ -]", "", code)


def _attachment(part: Fields) -> Attachment:
    return Attachment(part.get_filename() or "", part.get_content_type(), _octets(part), str(part["Content-ID"] or "").strip().strip("<>"))


def _octets(part: Fields) -> bytes:
    """The content of a part; of a message, the message."""
    if part.is_multipart():
        return b"".join(inner.as_bytes() for inner in cast(list[Fields], part.get_payload()))
    return cast(bytes, part.get_payload(decode=True))
