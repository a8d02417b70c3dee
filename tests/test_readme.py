"""What README says: its stack.yaml loads, its files exist, and the map of docs/design.md names every module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stackctl.errors import BadStack
from stackctl.load import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs/design.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


@pytest.mark.feature("A2")
def test_its_stack_is_one(tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    stack = parse(example, "README.md", tmp_path)
    assert [store.backend for store in stack.stores] == ["dovecot", "dovecot", "courier"]
    with pytest.raises(BadStack, match="did you mean"):
        parse(example.replace("stores:", "stroe:"), "README.md", tmp_path)


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_make_targets_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake (up|test|bench)\b", README))
    assert named == {"up", "test", "bench"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_the_map_names_every_module_and_nothing_else() -> None:
    there = {path.name for path in (ROOT / "stackctl").glob("*.py") if not path.name.startswith("__")}
    named = set(re.findall(r"`(?:stackctl/)?(\w+\.py)`", DESIGN))
    assert named == there


def test_the_page_about_mtas_says_what_their_backends_say() -> None:
    """What it is to hold is in the message of a failure."""
    from stackctl.backends import all_backends

    mtas = [backend for backend in all_backends().values() if backend.role == "mta"]
    rows = [["", *(mta.family for mta in mtas)], ["---"] * (len(mtas) + 1)]
    for key in dict.fromkeys(name for mta in mtas for name in mta.provides):
        rows.append([key, *("yes" if key in mta.provides else f"no: {mta.lacks[key]}" for mta in mtas)])
    for title, key in (("ways to deliver", "delivers"), ("SASL mechanisms", "mechanisms"), ("accounts", "accounts"), ("verbs", "verbs")):
        rows.append([title, *(", ".join(getattr(mta, key)) for mta in mtas)])
    rows.append(["capabilities", *(", ".join(mta.container.capabilities) or "none" for mta in mtas)])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    assert table in (ROOT / "docs/mtas.md").read_text(encoding="utf-8"), table


def test_the_capabilities_in_the_design_are_those_of_the_backends() -> None:
    from stackctl.backends import all_backends

    rows = {name.strip(): words.strip() for names, words in re.findall(r"^\| ([a-z0-9., -]+) \| ([A-Z_ ]+|none) \|", DESIGN, re.MULTILINE) for name in names.split(",")}
    assert rows == {name: " ".join(backend.container.capabilities) or "none" for name, backend in all_backends().items()}
