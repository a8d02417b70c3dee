"""HTML as its reader sees it: links with their words, and text. It knows nothing of mail."""

# ruff: noqa: D102  the standard library calls them

from __future__ import annotations

from html.parser import HTMLParser

_UNSEEN = ("style", "script", "head", "title")  # elements whose text nobody reads
_BREAKS = ("p", "br", "div", "td", "th", "li", "tr", "h1", "h2", "h3")


class Seen(HTMLParser):
    """What a reader of HTML gets. `links`: each <a href> with the words that can be clicked, those of a picture too."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.text = ""
        self._unseen = 0
        self._open = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "a" and (href := found.get("href")):
            self.links.append((href.strip(), ""))
            self._open = True
        if tag == "img" and (words := found.get("alt")):
            self._said(words)
        self._unseen += tag in _UNSEEN
        self.text += "\n" if tag in _BREAKS else ""

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN and self._unseen > 0
        self._open = self._open and tag != "a"

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.text += data
            self._said(data)

    def _said(self, words: str) -> None:
        if self._open:
            href, before = self.links[-1]
            self.links[-1] = href, " ".join(f"{before} {words}".split())
