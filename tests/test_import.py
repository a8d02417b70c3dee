"""A server's own files to a stack.yaml: one folder a case, with the stack that comes out and all that is not in it."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path

import pytest
import yaml

from stackctl import preview
from stackctl.backends import all_backends
from stackctl.cli.app import run
from stackctl.conversion import _recipe, convert
from stackctl.errors import UsageError
from stackctl.foreign import Line, Tree, aliases, assignments, expanded
from stackctl.load import load

pytestmark = pytest.mark.feature("B3", "A2")
HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in (HERE / "imports").glob("*/main.cf"))


def copied(case: str, folder: Path) -> Path:
    """The case in a folder of its own, where no file of this machine is found by a name that its configuration has."""
    return Path(shutil.copytree(HERE / "imports" / case, folder / "conf"))


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_becomes_a_stack_and_a_list_of_what_is_not_in_it(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    made = convert(copied(case, tmp_path))
    told = "".join(f"{one.place}: {one.what}: {one.why}\n" for one in made.lost)
    for name, text in {"expected.yaml": made.text, "expected-report": told}.items():
        path = HERE / "imports" / case / name
        if request.config.getoption("--update-golden", default=False):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{case}/{name}: `--update-golden`, then read the difference"


@pytest.mark.parametrize("case", CASES)
def test_every_line_of_a_report_names_a_line_of_a_file(case: str) -> None:
    folder = HERE / "imports" / case
    for line in (folder / "expected-report").read_text(encoding="utf-8").splitlines():
        found = re.match(r"([\w.-]+)(?::(\d+))?: .+: .+", line)
        assert found and (folder / found[1]).is_file(), line
        if found[2]:
            assert (folder / found[1]).read_text(encoding="utf-8").splitlines()[int(found[2]) - 1].strip(), line


@pytest.mark.e2e
@pytest.mark.feature("B4")
@pytest.mark.parametrize("case", CASES)
def test_the_real_server_is_content_with_it(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKCTL_STATE", str(tmp_path / "state"))
    path = tmp_path / "stack.yaml"
    text = (HERE / "imports" / case / "expected.yaml").read_text(encoding="utf-8")
    path.write_text(f"name: import-{case[:2]}\nstores: [{{backend: dovecot}}]\n{text}", encoding="utf-8")
    assert load(path).stack.stores[0].backend == "dovecot"
    for service, (content, said) in preview.check(path).items():
        assert content, f"{service}: {said}"


def test_no_setting_disappears_without_a_word(tmp_path: Path) -> None:
    """Each name of each main file is in the stack, in the report, or among what the recipe drops without a reason."""
    recipe = next(filter(None, map(_recipe, all_backends().values())))
    silent = [pattern for pattern, why in recipe.dropped.items() if not why]
    for case in CASES:
        folder = HERE / "imports" / case
        made = yaml.safe_load((folder / "expected.yaml").read_text(encoding="utf-8"))
        native = made.get("mta", {}).get("settings", {}).get("main_cf", {})
        report = (folder / "expected-report").read_text(encoding="utf-8")
        settings, _ = assignments(Tree(folder).lines(folder / "main.cf"))
        for name, setting in settings.items():
            told = f"{setting.place}: " in report or f"'{name}'" in report
            assert name in native or told or name in recipe.becomes or not setting.value or any(re.fullmatch(one, name) for one in silent), f"{case}: {name}"


# --- The command


def test_the_command_writes_the_file_and_tells_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copied("02-satellite", tmp_path)
    assert run(["import", "mta", str(folder), "--output", "new.yaml", "--name", "shop"]) == 0
    out = capsys.readouterr().out
    assert "main.cf:10: inet_interfaces = loopback-only: not carried over: " in out and "new.yaml written" in out
    stack = load(Path("new.yaml")).stack
    assert stack.name == "shop" and stack.relayhost and stack.relayhost.password == "not a real password"
    assert stat.S_IMODE(Path("new.yaml").stat().st_mode) == 0o600 and "not a real password" not in out
    assert run(["import", "mta", str(folder / "main.cf"), "-o", "new.yaml"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["import", "mta", str(copied("01-debian", tmp_path / "x")), "-o", "new.yaml", "--force", "--json"]) == 0
    assert {"place", "what", "why"} <= set(json.loads(capsys.readouterr().out)["lost"][0])
    assert load(Path("new.yaml")).stack.relayhost is None


def test_what_is_no_configuration_is_refused_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["import", "mta", str(tmp_path)]) == 2 and "without main.cf" in capsys.readouterr().err
    assert run(["import", "mta", str(tmp_path / "none")]) == 2
    assert not Path("stack.yaml").exists()
    with pytest.raises(UsageError, match="larger"):
        (tmp_path / "main.cf").write_bytes(b"#" * (4 * 1024**2 + 1))
        convert(tmp_path)


# --- Reading


def lines(text: str, folder: Path) -> list[Line]:
    (folder / "x").write_text(text, encoding="utf-8")
    return Tree(folder).lines(folder / "x")


def test_a_line_goes_on_after_white_space_and_over_comments(tmp_path: Path) -> None:
    found = lines("a = 1,\n  2\n# no\n\n\t3\nb=4\n", tmp_path)
    assert found == [Line("x:1", "a = 1, 2 3"), Line("x:6", "b=4")]


def test_of_two_assignments_the_last_counts(tmp_path: Path) -> None:
    found, lost = assignments(lines("a = 1\nb = 2\na = 3\nnothing\n", tmp_path))
    assert [(name, one.value, one.place) for name, one in found.items()] == [("b", "2", "x:2"), ("a", "3", "x:3")]
    assert [(one.place, one.why) for one in lost] == [("x:1", "given again at x:3, which counts"), ("x:4", "no line `name = value`")]


def test_names_are_filled_in_and_a_ring_ends() -> None:
    known = {"a": "1", "b": "$a.${a}.$(a)", "c": "$d", "d": "$c"}
    assert expanded("x $b $$ $none ${a?yes}", known) == "x 1.1.1 $$ $none ${a?yes}"
    assert "$" in expanded("$c", known)


def test_targets_of_aliases_keep_what_is_in_quotes(tmp_path: Path) -> None:
    assert list(aliases(lines('list: "|/bin/x a,b", joe,\n  ann\n', tmp_path))) == [("x:1", "list", ("|/bin/x a,b", "joe", "ann"))]


def test_files_are_found_in_the_tree_that_was_copied_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "postfix"
    folder.mkdir(parents=True)
    (tmp_path / "etc" / "aliases").write_text("")
    assert Tree(folder).find("/etc/aliases") == tmp_path / "etc/aliases"
    assert Tree(folder).find("/etc/passwd") is None
