"""What stack.yaml may say, for editors and people: JSON Schema, the commented example and the table of keys. Never reads a stack.

All three come from the model's own descriptions and defaults, so that none of them can lag behind.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stackctl.backends import account_kinds, all_backends, choices, find, versions
from stackctl.model import NextHop, Quota, Stack

_PLAIN = re.compile(r"[A-Za-z0-9](?=.*[A-Za-z])([A-Za-z0-9@._/+-]|:(?! |$)| (?=[A-Za-z0-9]))*|[A-Za-z]")  # a text that YAML takes for one without quotes
ACTIVE = ("name", "domain", "stores", "users")  # what `stackctl init` leaves uncommented
# What a key may look like, where its default is "none" or empty; everything else is shown with its default.
EXAMPLES: dict[str, object] = {
    "domains": ["example.org"],
    "disposable_domain": "inbox.example.test",
    "stores[].mailbox": "maildir",
    "stores[].listeners": ["imaps", "pop3s"],
    "stores[].auth.mechanisms": ["PLAIN", "SCRAM-SHA-256"],
    "users[].password": "correct horse",
    "users[].password_file": "bob.password",
    "users[].aliases": ["a.liddell@example.test"],
    "users[].filters.sieve": "bob.sieve",
    "users[].filters.procmail": "bob.procmailrc",
    "users[].filters.maildrop": "bob.mailfilter",
    "users[].filters.instructions": "bob.instructions",
    "filters.sieve": "default.sieve",
    "filters.sieve_before": "before.sieve",
    "filters.procmail": "procmailrc",
    "filters.maildrop": "mailfilter",
    "filters.perl": "judge.pl",
    "users[].quota": {"storage": "100M", "messages": 1000},
    "users[].quota.storage": "100M",
    "users[].quota.messages": 1000,
    "mailbox_size_limit": "1G",
    "aliases": {"team@example.test": ["alice@example.test", "bob@example.test"]},
    "system_aliases": {"ops": ["root", "bob@example.test"], "root": ["alice@example.test"]},
    "domain_catch_all": {"example.test": "alice@example.test"},
    "catch_all": "alice@example.test",
    "myorigin": "hub.example.test",
    "mydestination": ["hub.example.test"],
    "relayhost.host": "relay.example.net",
    "relayhost.stack": "other",
    "relayhost.port": 587,
    "relayhost.mx": False,
    "relayhost.username": "joe@example.net",
    "relayhost.password": "correct horse",
    "relayhost.password_file": "relay.password",
    "relayhost.tls": "verify",
    "relayhost.ca_file": "relay-ca.pem",
    "routes": {"other.test": {"stack": "other"}},
    "greetings.smtp": "ready when you are",
    "greetings.imap": "mail for example.test",
    "greetings.pop3": "mail for example.test",
    "host.users[].name": "carol",
    "host.users[].password": "correct horse",
    "host.users[].password_file": "carol.password",
    "host.users[].full_name": "Carol",
    "host.motd": "Welcome.",
    "host.issue": "The login host",
    "host.issue_net": "The login host, from elsewhere",
    "tls.ciphers": "ECDHE+AESGCM:ECDHE+CHACHA20",
    "tls.names": ["imap.example.test"],
    "tls.sni": ["imap.example.org"],
    "debian.mirror": "http://mirror.example/debian",
    "debian.release": "trixie",
    "limits.memory": "256M",
}
# Keys that exclude another one of their section.
APART = ("relayhost.password_file", "host.users[].password_file")


@dataclass(frozen=True)
class Key:
    """One key of stack.yaml: `name` as in `stores[].backend`; `type` and `default` as people write them."""

    name: str
    type: str
    default: str
    description: str


def all_keys() -> tuple[Key, ...]:
    """Every key, sections included, in the order of the model."""
    return tuple(_keys(Stack, ""))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, info in model.model_fields.items():
        inner, many = _below(info.annotation)
        full = f"{prefix}{name}"
        yield Key(full, _type(info), _default(info, inner), info.description or "")
        if inner:
            yield from _keys(inner, f"{full}[]." if many else f"{full}.")


def _below(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model below a key, and whether the key holds a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is tuple:
        return _below(get_args(annotation)[0])[0], True
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for part in get_args(annotation) if (found := _below(part))[0]), (None, False))
    return None, False


def _type(info: FieldInfo) -> str:
    """The type of a key in words."""

    def words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return words(args[0], args[1:])
        if origin in (Union, types.UnionType):
            return " or ".join(words(a, metadata) for a in args if a is not type(None))
        if origin is Literal:
            return " or ".join(f"`{a}`" for a in args)
        if origin is tuple:
            return f"list of {_plural(words(args[0]))}"
        if origin is dict:
            return "mapping" if get_origin(args[1]) is dict else f"mapping of {_plural(words(args[0]))} to {_plural(words(args[1]))}"
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return {NextHop: "text or mapping", Quota: "size or mapping"}.get(annotation, "mapping")
        named = [getattr(getattr(m, "func", None), "__name__", "") for m in metadata]
        kinds = {"domain": "domain", "octets": "size", "alias_target": "target"}
        kinds |= dict.fromkeys(("address", "mailbox"), "address") | dict.fromkeys(("name", "alias_name", "login_name"), "name")
        known = next((kinds[n] for n in named if n in kinds), None)
        bounds = [m for field in metadata for m in getattr(field, "metadata", [field])]
        if annotation is int and any(getattr(m, "le", None) == 65535 for m in bounds):
            return "port"
        return known or {str: "text", int: "number", float: "number", bool: "true or false"}[annotation]

    return words(info.annotation, tuple(info.metadata))


def _plural(word: str) -> str:
    return word if word.startswith("list of ") else f"{word}es" if word.endswith("ss") else f"{word}s"


def _default(info: FieldInfo, inner: type[BaseModel] | None) -> str:
    """The default as it would be written; "" where there is none, or where the keys below have their own."""
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return f"`{_flow([item.model_dump(exclude_defaults=True) for item in value])}`"
    return "" if value is None or isinstance(value, BaseModel) or value in ((), {}) else f"`{_flow(value, sized='size' in _type(info))}`"


def table() -> str:
    """All keys as a table in Markdown."""
    rows = [("Key", "Type", "Default", "Meaning"), ("---",) * 4, *((f"`{k.name}`", k.type, k.default, k.description) for k in all_keys())]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


# ---------------------------------------------------------------------------------------- JSON Schema


def json_schema() -> dict[str, Any]:
    """The JSON Schema of stack.yaml, with the backends that this installation has."""
    made = Stack.model_json_schema()
    definitions = made["$defs"]
    for key, info in Stack.model_fields.items():  # pydantic leaves out what a definition below says too
        made["properties"][key].setdefault("description", info.description)
    for definition, role in (("Mta", "mta"), ("Store", "store")):
        known = choices(role)
        properties = definitions[definition]["properties"]
        properties["backend"]["enum"] = list(known)
        there = [v for family in known for v in versions(family)]
        # As in 2.3 without quotes, which stack.yaml takes for the text "2.3".
        properties["version"]["anyOf"] = [{"enum": [*there, *(float(v) for v in there if v.replace(".", "", 1).isdigit()), None]}]
        files = [file for b in all_backends().values() if b.role == role for file in b.settings]
        properties["settings"]["propertyNames"] = {"enum": list(dict.fromkeys(files))}
    definitions["Accounts"]["properties"]["backend"]["enum"] = list(account_kinds())
    ways = dict.fromkeys(way for b in all_backends().values() for way in b.delivery)
    definitions["Store"]["properties"]["delivery"]["anyOf"] = [{"enum": [*ways, None]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "stack.yaml", "description": "A mail system for stackctl"}


# ---------------------------------------------------------------------------------------- the commented example


def commented() -> str:
    """The stack.yaml that `stackctl init` writes: the demo stack, and every other key commented out with its default."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield "# stack.yaml: the mail system that `stackctl up` starts. Every key is optional; an empty file is the demo stack."
    yield "# A line that begins with `#` and a key is a key that is not set; it shows the default, or an example where there is none."
    yield "# For completion in an editor: `stackctl schema > stack.schema.json`, and then this line without its first `# `:"
    yield "# # yaml-language-server: $schema=stack.schema.json"
    for key, info in Stack.model_fields.items():
        yield ""
        yield f"# {info.description}"
        inner, many = _below(info.annotation)
        if key in ACTIVE and many and inner:
            yield f"{key}:"
            yield from _items(key, inner)
        elif inner and not many:
            yield f"#{key}:"
            yield from (f"#  {line}" for line in _section(key, inner))
        else:
            yield f"{'' if key in ACTIVE else '#'}{key}: {_shown(key, info)}"


def _section(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    """Every key of a section, explained; of a list one item."""
    for name, info in model.model_fields.items():
        key = f"{prefix}.{name}"
        yield f"# {info.description}"
        inner, many = _below(info.annotation)
        if inner and many:
            about, lead, *rest = _section(f"{key}[]", inner)
            yield from (f"{name}:", f"  {about}", f"  - {lead}", *(f"    {line}" for line in rest))
        else:
            yield f"{'#' if key in APART else ''}{name}: {_shown(key, info)}"


def _items(key: str, model: type[BaseModel]) -> Iterator[str]:
    """The items of `stores` and `users`; every other key of them is explained once."""
    first, second = (_written(item) for item in getattr(Stack(), key))
    lead = next(iter(first))
    explained: list[tuple[str, FieldInfo]] = [(name, info) for name, info in model.model_fields.items() if name not in first]
    # A password and a file with one exclude each other: one for each of the two users.
    apart = [entry for entry in explained if entry[0].endswith("_file")]
    for item, below in ((first, [e for e in explained if e not in apart]), (second, apart)):
        if item is first:
            yield f"  # {model.model_fields[lead].description}"
        yield f"  - {lead}: {_flow(item[lead])}"
        for name, info in below:
            yield f"    # {info.description}"
            if (section := _below(info.annotation)) and section[0] and not section[1]:
                yield f"    #{name}:"
                for deeper, what in section[0].model_fields.items():
                    yield f"    #  # {what.description}"
                    yield f"    #  {deeper}: {_shown(f'{key}[].{name}.{deeper}', what)}"
                continue
            yield f"    #{name}: {_shown(f'{key}[].{name}', info, str(item[lead]))}"


def _written(item: BaseModel) -> dict[str, object]:
    return item.model_dump(exclude_defaults=True)


def _shown(name: str, info: FieldInfo, backend: str = "") -> str:
    """What stands after a key: an example, what the backend has, or the default."""
    from_backends: dict[str, Callable[[], object]] = {
        "mta.version": lambda: next(iter(versions(Stack().mta.backend)), None),
        "mta.settings": lambda: {find("mta", Stack().mta.backend).settings[0]: {}},
        "stores[].name": lambda: backend,
        "stores[].version": lambda: next(iter(versions(backend)), None),
        "stores[].delivery": lambda: next(iter(find("store", backend).delivery)),
        "stores[].settings": lambda: {find("store", backend).settings[0]: {}},
        "webmail.store": lambda: Stack().stores[0].backend,
        "ports.fixed": lambda: {f"mta.{next(iter(find('mta', Stack().mta.backend).listeners))}": 2525},
    }
    if name in from_backends:
        return _flow(from_backends[name]())
    if name in EXAMPLES:
        return _flow(EXAMPLES[name])
    return _flow(info.get_default(call_default_factory=True), sized="size" in _type(info))


def _flow(value: object, *, sized: bool = False) -> str:
    """A value as one writes it in one line of YAML; with `sized`, octets as 50M."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if sized and isinstance(value, int):
        unit, factor = next(((u, f) for u, f in (("G", 1024**3), ("M", 1024**2), ("K", 1024)) if value % f == 0), ("", 1))
        return f"{value // factor}{unit}"
    if isinstance(value, BaseModel):
        return _flow(_written(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    text = str(value)
    plain = _PLAIN.fullmatch(text) and text.lower() not in ("true", "false", "yes", "no", "on", "off", "null")
    return text if plain or isinstance(value, int | float) else json.dumps(text)
