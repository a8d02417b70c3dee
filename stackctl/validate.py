"""A tree to the model, with what the model refuses put in plain words. Looks at each key by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stackctl.backends import all_backends, choices
from stackctl.model import MailingList, NextHop, Stack
from stackctl.problems import Place, Report, shown
from stackctl.tree import Listing, Mapping, Node, Scalar, walk, worded

CONTROL = re.compile("[\x00-\x1f\x7f]")


@cache
def _keys(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """The keys of a model, each with the model of what is below it."""

    def inner(annotation: Any) -> type[BaseModel] | None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        return next((found for part in get_args(annotation) if (found := inner(part))), None)

    return {key: inner(info.annotation) for key, info in model.model_fields.items()}


def _model_at(place: Place) -> type[BaseModel] | None:
    """The model whose keys are valid at a place."""
    model: type[BaseModel] | None = Stack
    for part in place:
        if model and isinstance(part, str) and not (part not in _keys(model) and model in (NextHop, MailingList)):  # its name, in a mapping of them
            model = _keys(model).get(part)
    return model


def dotted(place: Place) -> str:
    """A place as people write it: `stores[0].backend`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{shown(p)}" for p in place).removeprefix(".")


def validate(tree: Mapping, report: Report) -> Stack:
    """The model of what is good in the tree; what is bad is reported and taken out. Raises BadStack when nothing useful is left."""
    _settings(tree, report)
    _empty_passwords(tree, report)
    _sizes(tree)
    for _attempt in range(4):  # the second time all is well, unless a validator sees only now what another hid
        for key, (_, node) in list(tree.entries.items()):
            if _prune(node, _keys(Stack).get(key)) or node.bad:
                report.broken.add(key)
        _prune(tree, Stack)
        try:
            return Stack.model_validate(_plain(tree, Stack), strict=True)
        except ValidationError as why:
            last = why
            errors = why.errors(include_url=False)
            misspelt = _misspelt(errors, report)
            for error in errors:
                _translate(error, tree, report, quiet=error["type"] == "missing" and error["loc"] in misspelt)
    report.finish()
    raise last  # pydantic found what was put down to no key: a bug of ours, with its traceback


def _prune(node: Node, model: type[BaseModel] | None) -> bool:
    """Take the bad nodes out; a mapping without a key that it must have, and a list that became empty, are bad themselves."""
    removed = False
    if isinstance(node, Listing):
        removed = any([_prune(item, model) for item in node.items])
        good = [item for item in node.items if not item.bad]
        node.bad |= not good and bool(node.items)
        removed |= len(good) < len(node.items)
        node.items = good
    elif isinstance(node, Mapping):
        below = _keys(model) if model else {}
        for key, (_, child) in list(node.entries.items()):
            removed |= _prune(child, below.get(key))
            if child.bad:
                removed = True
                del node.entries[key]
                node.bad |= model is not None and key in below and model.model_fields[key].is_required()
    return removed


def _plain(node: Node, model: type[BaseModel] | None) -> object:
    """A node as the model takes it: tuples for lists, no key that is there without a value."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Listing):
        return tuple(_plain(item, model) for item in node.items)
    below = _keys(model) if model else {}
    plain: dict[str, object] = {}
    for key, (_, child) in node.entries.items():
        if key in below and isinstance(child, Scalar):
            if child.value is None:
                continue  # `tls:` with everything below it commented out
            # 2.3 is a number to YAML, but as it is written there is no doubt which version is meant
            plain[key] = child.text if key == "version" and type(child.value) in (int, float) else child.value
        else:
            plain[key] = _native(child) if key == "settings" and key in below else _plain(child, below.get(key))
    return plain


def _native(node: Node) -> object:
    """Pass-through settings: as they were written, where Python would change the spelling (2.30, YES, on)."""
    if isinstance(node, Listing):
        return [_native(item) for item in node.items]
    if isinstance(node, Mapping):
        return {key: _native(child) for key, (_, child) in node.entries.items()}
    if isinstance(node.value, bool):
        return node.value if node.text.lower() in ("true", "false") else node.text
    return node.text if isinstance(node.value, int | float) and str(node.value) != node.text else node.value


def _settings(tree: Mapping, report: Report) -> None:
    """Problems inside of pass-through settings, which the model does not know in detail."""

    def look(node: Node, place: Place, line: int) -> None:
        if node.bad:
            return
        if isinstance(node, Scalar) and node.value is None:
            report.add(line, f"{dotted(place)}: has no value", 'write "" for an empty one')
            node.bad = True
        elif isinstance(node, Scalar) and CONTROL.search(node.text):
            hint = "a long value is folded with `>-`" if "\n" in node.text else "remove it"
            report.add(line, f"{dotted(place)}: holds a control character: a line end would start another setting", hint)
            node.bad = True
        elif isinstance(node, Listing):
            for number, item in enumerate(node.items):
                look(item, (*place, number), item.line)
        elif isinstance(node, Mapping):
            for key, (key_line, child) in node.entries.items():
                if not key or CONTROL.search(key):
                    report.add(key_line, f"{dotted((*place, key))}: a key that is empty or holds a control character", "write the setting's name")
                    child.bad = True
                else:
                    look(child, (*place, key), key_line)

    stores, _, found = walk(tree, ("stores",))
    owners: list[Place] = [("mta",), *(("stores", n) for n in range(len(stores.items) if found and isinstance(stores, Listing) else 0))]
    for place in owners:
        settings, _, steps = walk(tree, (*place, "settings"))
        if steps == len(place) + 1 and isinstance(settings, Mapping):
            for key, (line, child) in list(settings.entries.items()):
                if isinstance(child, Scalar) and child.value is None:
                    del settings.entries[key]  # everything below it is commented out
                else:
                    look(child, (*place, "settings", key), line)


def _empty_passwords(tree: Mapping, report: Report) -> None:
    """A password key without a value: elsewhere that means the default, but here something was lost, such as `#…` or `&…`."""
    lists = [walk(tree, place) for place in (("users",), ("host", "users"))]
    for user in [user for users, _, found in lists if found and isinstance(users, Listing) for user in users.items]:
        for key, (line, child) in user.entries.items() if isinstance(user, Mapping) else ():
            if key in ("password", "password_file") and isinstance(child, Scalar) and child.value is None and not child.bad:
                report.add(line, f"{key} has no value", "put it in quotes (a plain # begins a comment, a plain & an anchor), or remove the key")
                child.bad = True


def _sizes(tree: Mapping) -> None:
    """A quota that is a size alone, as the mapping that it stands for."""
    users, _, found = walk(tree, ("users",))
    for user in users.items if found and isinstance(users, Listing) else ():
        if isinstance(user, Mapping) and "quota" in user.entries:
            line, node = user.entries["quota"]
            if isinstance(node, Scalar) and node.value is not None and not node.bad:
                user.entries["quota"] = (line, Mapping(line, {"storage": (line, node)}))


def _misspelt(errors: Sequence[ErrorDetails], report: Report) -> set[Place]:
    """The keys that are missing only because they are misspelt: the unknown key says it all."""
    unknown: dict[Place, list[str]] = {}
    for error in errors:
        if error["type"] == "extra_forbidden":
            unknown.setdefault(error["loc"][:-1], []).append(str(error["loc"][-1]))
    missing = {error["loc"] for error in errors if error["type"] == "missing"}
    return {m for m in missing if any(f"'{m[-1]}'" in report.guess(key, [str(m[-1])]) for key in unknown.get(m[:-1], ())[:8])}


def _translate(error: ErrorDetails, tree: Mapping, report: Report, *, quiet: bool) -> None:
    """One of pydantic's findings as a problem in plain words, unless `quiet`, and its node made bad."""
    at_key = error["loc"][-1:] == ("[key]",)
    place = error["loc"][:-1] if at_key else error["loc"]
    node, key_line, steps = walk(tree, place)
    if steps == 0 or (steps < len(place) and error["type"] != "missing"):
        return  # made from something else that is bad and has its own problem
    line = key_line if at_key or error["type"] == "extra_forbidden" or not isinstance(node, Scalar) else node.line
    if error["type"] == "too_short" and isinstance(node, Listing) and node.items:
        return  # pydantic counts what is good of it
    if not node.bad and not quiet:
        message, hint = ("", "") if report.full else _words(error, place, node, report)
        report.add(line, message, hint)
    node.bad = True


# What stands below a key, for those that do not hold a single value.
_EXAMPLES: dict[int | str, str] = {
    "domains": "- example.org",
    "mta": "backend: …",
    "stores": "- backend: …",
    "users": "- address: alice@example.test",
    "aliases": "team@example.test: [alice@example.test]",
    "lists": "team@example.test: {owner: alice@example.test}",
    "system_aliases": "ops: [alice@example.test]",
    "domain_catch_all": "example.org: alice@example.test",
    "filters": "sieve: default.sieve",
    "mydestination": "- localhost",
    "greetings": "smtp: ready when you are",
    "host": "motd: Welcome.",
    "webmail": "backend: …",
    "relayhost": "host: relay.example.net",
    "routes": "other.test: {stack: other}",
    "mynetworks": "- 192.0.2.0/24",
    "tls": "minimum_version: TLSv1.3",
    "ports": "fixed: {mta.smtp: 2525}",
    "debian": "release: trixie",
    "limits": "memory: 256M",
    "accounts": "backend: file",
    "auth": "mechanisms: [PLAIN, SCRAM-SHA-256]",
}


def _secret(place: Place) -> bool:
    """Whether a value at this place might be a password, which no message repeats."""
    return place[-1:] == ("password",) or (place[:1] == ("users",) and place[-1] not in ("address", "quota", "storage", "messages") and "aliases" not in place)


def _words(error: ErrorDetails, place: Place, node: Node, report: Report) -> tuple[str, str]:
    """What is wrong at a place, and what to write instead."""
    name, bound, secret = dotted(place), error.get("ctx", {}), _secret(place)
    written = "…" if secret else node.text if isinstance(node, Scalar) else ""
    found = worded(node, secret=secret)
    match error["type"]:
        case "extra_forbidden" if not place[-1]:
            return "an empty key", "remove it"
        case "extra_forbidden":
            return f"unknown key '{shown(str(place[-1]))}'", _belongs(str(place[-1]), place[:-1], report)
        case "missing":
            owner, key = dotted(place[:-1]), str(place[-1])
            examples = {"backend": f"there are: {', '.join(choices('store'))}", "address": "as in `- address: alice@example.test`"}
            return f"{owner} has no '{key}'", examples.get(key, f"add `{key}: …`")
        case "string_type":
            hint = f'put it in quotes: "{shown(written)}"' if isinstance(node, Scalar) else "write a single value"
            if isinstance(node, Scalar) and isinstance(node.value, bool) and not secret:
                hint = f'YAML reads {written} as {str(node.value).lower()}; put it in quotes: "{written}"'
            return f"{name}: expected a text, found {found}", hint
        case "int_type" | "float_type":
            kind = "a whole number" if error["type"] == "int_type" else "a number"
            hint = "write it in decimal, without quotes, separators or unit"
            if place[:2] == ("ports", "fixed") and isinstance(node, Mapping):
                listener, (_, port) = next(iter(node.entries.items()), ("smtp", (0, node)))
                hint = f"write `{shown(str(place[-1]))}.{shown(listener)}: {shown(port.text) if isinstance(port, Scalar) else 2525}`"
            return f"{name}: expected {kind}, found {found}", hint
        case "bool_type":
            return f"{name}: expected true or false, found {found}", "write true or false, without quotes"
        case "tuple_type":
            items = isinstance(node, Scalar) and node.value is not None and not _model_at(place)
            return (
                f"{name}: expected a list, found {found}",
                f"write [{shown(written)}]" if items else f"each item in its own line: `{_EXAMPLES[place[0]]}`",
            )
        case "dict_type" | "model_type":
            return _no_mapping(place, node, name, found, report)
        case "literal_error":
            model = _model_at(place[:-1])
            options = [str(o) for o in _options(model.model_fields[str(place[-1])].annotation)] if model else []
            return f"{name}: {found} is none of {', '.join(options)}", report.guess(written, options) if len(written) > 3 else ""
        case "greater_than_equal" | "less_than_equal":
            low = "ge" in bound
            most = int(bound["ge" if low else "le"])
            return f"{name}: {shown(written)} is too {'small' if low else 'large'}", f"at {'least' if low else 'most'} {most}"
        case "string_too_short" | "too_short":
            return f"{name}: is empty", "give one, or remove the key"
        case "string_too_long" | "too_long":
            return f"{name}: is longer than {bound['max_length']} characters", "shorten it"
    return f"{name}: {bound.get('error', 'is not valid here')}", "" if secret or written.isascii() else "write it in ASCII; a domain as `xn--…`"


def _no_mapping(place: Place, node: Node, name: str, found: str, report: Report) -> tuple[str, str]:
    """A value where keys are expected."""
    if place == ("mta",) and isinstance(node, Listing):
        return f"mta: expected one MTA, found a list of {len(node.items)}", "a stack has one; another stack can run beside it under another `name:`"
    if "settings" in place:
        role = "mta" if place[0] == "mta" else "store"
        files = dict.fromkeys(file for backend in all_backends().values() if backend.role == role for file in backend.settings)
        return f"{name}: expected settings by file, found {found}", f"the file comes first: {', '.join(f'`{file}: {{…}}`' for file in files)}"
    if place[-1] == "quota":
        return f"{name}: expected a size or keys with values, found {found}", "such as `quota: 100M` or `quota: {storage: 100M, messages: 1000}`"
    return f"{name}: expected keys with values, found {found}", f"such as `{_EXAMPLES[place[0]].removeprefix('- ')}`"


def _belongs(key: str, place: Place, report: Report) -> str:
    """A hint for an unknown key: where it would be right, or which was meant."""
    model = _model_at(place)
    homes = [f"{owner}" for owner, inner in _keys(Stack).items() if inner and inner is not model and key in _keys(inner)]
    here = _keys(model) if model else {}
    guess = report.guess(key, here)
    if key in _keys(Stack) and model is not Stack:
        return f"'{key}' is a key of the top level: indent it less"
    return f"'{key}' is a key of {' and '.join(homes)}" if homes else guess


def _options(annotation: Any) -> Iterator[object]:
    """The values of a Literal, wherever it is in an annotation."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        yield from chain.from_iterable(_options(part) for part in get_args(annotation))
