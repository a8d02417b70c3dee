"""This machine's Debian package sources, read and turned into those of another release. Never asks a mirror, never writes.

A site without a way to the public mirrors has its own one in /etc/apt; so what is fetched is fetched from there.
Formats: sources.list(5), apt_preferences(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)")
# How far a source is trusted holds for its other suites too; where its key lies does not hold in an image.
_KEPT = ("trusted", "check-valid-until", "check-date", "allow-insecure")
_SUITES = ("", "-updates", "-security")


@dataclass(frozen=True)
class Source:
    """Where binary packages come from. `options` has its names in lower case, as sources.list(5) spells them between brackets."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)


def read(folder: Path = Path("/etc/apt"), without: str = "") -> tuple[Source, ...]:
    """Every source that apt uses, but those in the file called `without`; () where there is no apt. A file that cannot be read is left out."""
    found: list[Source] = []
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if path.name == without:
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            found += parse_stanzas(text)
        elif path.suffix == ".list":
            found += parse_lines(text)
    return tuple(found)


def parse_lines(text: str) -> tuple[Source, ...]:
    """Sources in the one-line format: `deb [option=value] uri suite component …`."""
    found = []
    for line in text.splitlines():
        if match := _ONE_LINE.fullmatch(line.partition("#")[0].strip()):
            options = dict(_pair(word) for word in (match["options"] or "").split())
            found.append(Source((match["uri"],), (match["suite"],), tuple(match["components"].split()), options))
    return tuple(found)


def parse_stanzas(text: str) -> tuple[Source, ...]:
    """Sources in the deb822 format: `Types: deb`, `URIs: …`, `Suites: …`, `Components: …`."""
    found = []
    for fields in _stanzas(text):
        disabled = fields.get("enabled", "yes").lower() in ("no", "false", "0")
        if "deb" in fields.get("types", "").split() and not disabled:
            options = {name: value for name, value in fields.items() if name == "signed-by" or name in _KEPT}
            uris, suites, components = (tuple(fields.get(name, "").split()) for name in ("uris", "suites", "components"))
            found.append(Source(uris, suites, components, options))
    return tuple(found)


def archive(sources: Iterable[Source], suite: str) -> Source | None:
    """The first source that a network serves and that has the section main of a suite."""
    for source in sources:
        served = tuple(uri for uri in source.uris if urlsplit(uri).scheme in ("http", "https", "ftp"))
        if served and suite in source.suites and "main" in source.components:
            return Source(served, source.suites, source.components, source.options)
    return None


def offers(sources: Iterable[Source], suite: str) -> bool:
    """Whether any source has a suite."""
    return any(suite in source.suites for source in sources)


def stanza(source: Source, suite: str) -> str:
    """A deb822 source for another suite of the same archive."""
    lines = ["Types: deb", f"URIs: {' '.join(source.uris)}", f"Suites: {suite}", "Components: main"]
    # A key that is written out belongs to one suite; a keyring file holds those of all releases.
    if (keyring := source.options.get("signed-by", "")).startswith("/"):
        lines.append(f"Signed-By: {keyring}")
    lines += [f"{name.title()}: {source.options[name]}" for name in _KEPT if name in source.options]
    return "\n".join(lines) + "\n"


def pin(suite: str, packages: Sequence[str], rest: bool) -> str:
    """Preferences that take these packages from a suite; with `rest`, every other package of it only where nothing else has it."""
    chosen = f"Package: {' '.join(packages)}\nPin: release n={suite}\nPin-Priority: 990\n"
    return (f"Package: *\nPin: release n={suite}\nPin-Priority: 50\n\n" if rest else "") + chosen


def lines_for(sources: Sequence[Source], host: str, release: str) -> tuple[str, ...]:
    """One-line sources for a release, out of those for this machine's own release `host`: main, updates and security, as far as it has them.

    () where the machine has no such source, or only one that an image could not reach (loopback).
    """
    found = []
    for suffix in _SUITES[:1] if release in ("sid", "unstable") else _SUITES:
        source = archive(sources, host + suffix)
        if source is None or urlsplit(source.uris[0]).hostname in ("localhost", "127.0.0.1", "::1"):
            if not suffix:
                return ()
            continue
        options = " ".join(f"{name}={source.options[name]}" for name in _KEPT if name in source.options)
        found.append(f"deb {f'[{options}] ' if options else ''}{source.uris[0]} {release}{suffix} main")
    return tuple(found)


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name.lower(), value


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            fields[name] = f"{fields.get(name, '')}\n{line.strip()}".lstrip("\n")
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
