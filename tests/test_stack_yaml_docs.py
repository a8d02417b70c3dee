"""What is written about stack.yaml: the table, the examples, the commented file and the JSON Schema say what the model says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stackctl import schema
from stackctl.backends import all_backends, choices
from stackctl.errors import BadStack
from stackctl.load import parse
from stackctl.model import Stack

DOCS = Path(__file__).parent.parent / "docs" / "stack-yaml.md"
GOOD = sorted((Path(__file__).parent / "good_stacks").glob("*.yaml"))
pytestmark = pytest.mark.feature("A2")


def model_keys(model: type[BaseModel] = Stack, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The model's keys, found without the help of schema.py."""
    for name, info in model.model_fields.items():
        yield f"{prefix}{name}", info
        inner = () if get_origin(info.annotation) is dict else get_args(info.annotation)  # what is below a mapping's own keys is described elsewhere
        below = [a for a in (info.annotation, *inner) if isinstance(a, type) and issubclass(a, BaseModel)]
        if below:
            yield from model_keys(below[0], f"{prefix}{name}{'[]' if get_origin(info.annotation) is tuple else ''}.")


def documented() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len({key for key, _ in rows}), "a key twice"
    return {key: rest.split(" | ") for key, rest in rows}


DEFAULT = Stack.model_validate({"stores": [{"backend": "dovecot", "auth": {}}], "host": {}, "webmail": {}})
LEADS = {"stores[]": {"backend": "dovecot"}, "users[]": {"name": "alice"}}  # what an item must have


def below(key: str, value: Any) -> dict[str, Any]:
    """A stack.yaml with one value set."""
    for part in reversed(key.split(".")):
        value = {part: value} if not part.endswith("[]") else {part.removesuffix("[]"): [{**LEADS[part], **value}]}
    assert isinstance(value, dict)
    return value


def at(stack: Any, key: str) -> Any:
    for part in key.split("."):
        stack = getattr(stack, part.removesuffix("[]"))
        stack = stack[0] if part.endswith("[]") else stack
    return stack


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    assert list(documented()) == [key for key, _ in model_keys()]


@pytest.mark.parametrize(("key", "info"), [pytest.param(k, i, id=k) for k, i in model_keys()])
def test_the_table_says_what_the_model_says(key: str, info: FieldInfo) -> None:
    kind, default, meaning = documented()[key]
    assert meaning == info.description and len(meaning) > 10
    assert kind
    if info.is_required():
        assert default == "required"
    elif default:  # what is written there is the default
        assert at(parse(yaml.safe_dump(below(key, yaml.safe_load(default.strip("`")))), key, DOCS.parent), key) == at(
            Stack() if key == "stores" else DEFAULT, key
        )
    else:
        value = info.get_default(call_default_factory=True)
        assert value is None or value in ((), {}) or isinstance(value, BaseModel)


def test_the_table_is_the_generated_one(request: pytest.FixtureRequest) -> None:
    text = DOCS.read_text(encoding="utf-8")
    if request.config.getoption("--update-golden", default=False):
        text = re.sub(r"\| Key \|.*?\n(?!\|)", lambda _: schema.table(), text, count=1, flags=re.DOTALL)
        DOCS.write_text(text, encoding="utf-8")
    assert schema.table() in text
    assert [k.name for k in schema.all_keys()] == [key for key, _ in model_keys()]


EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_documentation_loads_and_is_not_the_demo_stack(text: str) -> None:
    assert parse(text, "stack-yaml.md", DOCS.parent) != Stack()


def test_there_are_examples_of_stacks_and_of_a_message() -> None:
    assert len(EXAMPLES) >= 4
    (message,) = re.findall(r"^```text\n(.*?)\n```$", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    with pytest.raises(BadStack) as caught:
        parse("name: demo\nstroe: dovecot\n", "stack.yaml", DOCS.parent)
    assert caught.value.message == message


# -- the commented file


def uncommented(text: str) -> str:
    """What `stackctl init` writes, with every key active: `#key` and `#  key`, but not `# prose`."""
    return re.sub(r"^( *)#(?! \S|$)", r"\1", text, flags=re.MULTILINE)


def test_the_commented_file_is_the_demo_stack() -> None:
    assert parse(schema.commented(), "stack.yaml", DOCS.parent) == Stack()


def test_the_commented_file_holds_every_key_with_its_description(tmp_path: Path) -> None:
    text = schema.commented()
    (tmp_path / "bob.password").write_text("secret\n", encoding="utf-8")
    (tmp_path / "relay-ca.pem").write_text("-----BEGIN CERTIFICATE-----\n", encoding="utf-8")
    for key, name in schema.EXAMPLES.items():
        if "filters." in key:
            (tmp_path / str(name)).write_text("# a script\n", encoding="utf-8")
    active = uncommented(text)
    stack = parse(active, "stack.yaml", tmp_path)
    assert stack != Stack() and stack.users[1].password == "secret"
    tree = yaml.safe_load(active)
    for key, info in model_keys():
        assert f"# {info.description}\n" in text
        if key in schema.APART:
            assert f"#{key.rpartition('.')[2]}: " in text
            continue
        found = [tree]
        for part in key.split("."):
            found = [f[part.removesuffix("[]")] for f in found if part.removesuffix("[]") in f]
            found = [item for f in found for item in f] if part.endswith("[]") else found
        assert found, f"{key} is not in the commented file"


def test_each_commented_key_can_be_set_alone(tmp_path: Path) -> None:
    (tmp_path / "bob.password").write_text("secret\n", encoding="utf-8")
    (tmp_path / "relay-ca.pem").write_text("-----BEGIN CERTIFICATE-----\n", encoding="utf-8")
    for key, name in schema.EXAMPLES.items():
        if "filters." in key:
            (tmp_path / str(name)).write_text("# a script\n", encoding="utf-8")
    lines = schema.commented().splitlines()
    commented = [n for n, line in enumerate(lines) if re.match(r" *#[a-z]", line)]
    assert len(commented) > 12
    for number in commented:
        changed = [*lines]
        changed[number] = uncommented(lines[number])
        parse("\n".join(changed), f"with line {number + 1}", tmp_path)


def test_every_key_without_a_default_has_an_example() -> None:
    keys = dict(model_keys())
    assert set(schema.EXAMPLES) <= set(keys)


# -- the JSON Schema


def test_the_json_schema_describes_every_key_and_names_the_backends() -> None:
    made = schema.json_schema()
    assert made["$schema"].endswith("2020-12/schema") and made["title"] == "stack.yaml"
    assert set(made["properties"]) == set(Stack.model_fields)
    assert made["additionalProperties"] is False
    assert made["$defs"]["Mta"]["properties"]["backend"]["enum"] == list(choices("mta"))
    assert made["$defs"]["Store"]["properties"]["backend"]["enum"] == list(choices("store"))
    versions = made["$defs"]["Store"]["properties"]["version"]["anyOf"][0]["enum"]
    assert versions.count(None) == 1 and {b.version for b in all_backends().values() if b.version} <= set(versions)
    for properties in (made["properties"], *(d["properties"] for d in made["$defs"].values())):
        assert all(p.get("description") for p in properties.values())


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_the_json_schema_knows_the_keys_of_every_good_stack(path: Path) -> None:
    made = schema.json_schema()

    def look(value: Any, shape: dict[str, Any]) -> None:
        shape = made["$defs"][shape["$ref"].rpartition("/")[2]] if "$ref" in shape else shape
        if isinstance(value, dict) and "properties" in shape:
            assert set(value) <= set(shape["properties"])
            for key, inner in value.items():
                look(inner, shape["properties"][key])
        elif isinstance(value, list) and "items" in shape:
            for item in value:
                look(item, shape["items"])

    look(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, made)
