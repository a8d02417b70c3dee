"""stack.yaml in, Stack or problems out: one folder per bad file, with the text that the person sees."""

from __future__ import annotations

import re
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackctl import tree as loading
from stackctl.backends import all_backends
from stackctl.errors import BadStack, UsageError
from stackctl.load import Loaded, load, parse
from stackctl.model import Quota, Stack
from stackctl.problems import MAX_PROBLEMS

HERE = Path(__file__).parent
BAD = sorted(p.name for p in (HERE / "bad_stacks").iterdir())
GOOD = sorted((HERE / "good_stacks").glob("*.yaml"))
pytestmark = pytest.mark.feature("A2")


def problems(text: str, folder: Path = HERE) -> str:
    with pytest.raises(BadStack) as caught:
        parse(text, "stack.yaml", folder)
    return caught.value.message


# -- folders


@pytest.mark.parametrize("case", BAD)
def test_a_bad_stack_is_refused_with_every_problem(case: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = HERE / "bad_stacks" / case
    monkeypatch.chdir(folder)
    began = time.perf_counter()
    with pytest.raises(BadStack) as caught:
        load(Path("stack.yaml"))
    assert time.perf_counter() - began < 20, "a bomb would take for ever"
    said = f"{caught.value.message}\n{caught.value.hint}\n"
    if request.config.getoption("--update-golden", default=False):
        (folder / "expected-error").write_text(said, encoding="utf-8")
    assert said == (folder / "expected-error").read_text(encoding="utf-8")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("case", BAD)
def test_what_is_said_of_a_bad_stack_is_fit_for_a_terminal_and_gives_no_password_away(case: str) -> None:
    said = (HERE / "bad_stacks" / case / "expected-error").read_text(encoding="utf-8")
    assert "hunter" not in said  # every password in these files
    assert not re.search(r"[^\n\x20-\x7e\xa0-\uffff]", said)
    assert not re.search(r"Input should|valid string|pydantic|Traceback", said)
    lines = [int(found[1]) for found in re.finditer(r"^stack\.yaml:(\d+): ", said, re.MULTILINE)]
    assert lines == sorted(lines) and len(lines) == len(said.splitlines()) - 1


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_a_good_stack_loads(path: Path) -> None:
    loaded = load(path)
    assert loaded.path == path and loaded.source == path.read_bytes()
    assert parse(path.read_text(encoding="utf-8"), "again", HERE) == loaded.stack


def test_there_are_enough_cases() -> None:
    assert len(BAD) >= 40
    numbers = [name.partition("-")[0] for name in BAD]
    assert all(map(str.isdecimal, numbers)) and len({*numbers}) == len(numbers)


# -- where a stack comes from


def test_without_a_file_it_is_the_demo_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None) == Loaded(Stack(), None, b"")
    (tmp_path / "stack.yaml").write_text("name: here\n", encoding="utf-8")
    loaded = load(None)
    assert (loaded.stack.name, loaded.path, loaded.source) == ("here", Path("stack.yaml"), b"name: here\n")


def test_an_empty_file_is_the_demo_stack() -> None:
    assert parse("", "stack.yaml", HERE) == parse("\ufeff# nothing\n", "stack.yaml", HERE) == parse("---\n...\n", "stack.yaml", HERE) == Stack()


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml: no such file") as caught:
        load(tmp_path / "nowhere.yaml")
    assert not isinstance(caught.value, BadStack) and caught.value.hint


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_a_file_over_one_mebibyte_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    path.write_bytes(b"#" * loading.MAX_OCTETS + b"\n")
    with pytest.raises(BadStack, match="larger than 1 MiB"):
        load(path)
    assert "larger than 1 MiB" in problems("#" * (loading.MAX_OCTETS + 1))
    path.write_bytes(b"#" * (loading.MAX_OCTETS - 1) + b"\n")
    assert load(path).stack == Stack()


# -- what is in it


def test_a_password_file_is_read_from_the_folder_of_the_stack(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "alice").write_bytes("pässword with spaces \r\nsecond line\n".encode())
    text = "users: [{address: alice@example.test, password_file: secrets/alice}, {address: bob@example.test, password: x}]"
    stack = parse(text, "stack.yaml", tmp_path)
    assert [u.password for u in stack.users] == ["pässword with spaces ", "x"]
    assert "ssword with" not in repr(stack)


def test_a_password_file_that_is_not_readable_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "pipe.d").mkdir()
    text = "users: [{address: alice@example.test, password_file: pipe.d/%s/x}]" % ("n" * 300)
    assert "File name too long" in problems(text, tmp_path)


def test_yaml_is_read_as_people_mean_it() -> None:
    stack = load(HERE / "good_stacks" / "everything.yaml").stack
    new, old, courier = stack.stores
    assert (new.version, old.version, courier.version) == ("2.4", "2.3", None)
    assert new.settings == {"dovecot_conf": {"mail_debug": True, "service imap-login": {"process_min_avail": 2, "client_limit": "2.50"}}}
    assert courier.settings["imapd"] == {"MAXDAEMONS": 60, "IMAP_IDLE_TIMEOUT": 30, "IMAPDSTART": "YES"}
    assert stack.mta.settings["main_cf"]["smtpd_sasl_auth_enable"] == "yes"
    assert stack.users[0].address == "alice@example.test"
    assert stack.users[0].aliases == ("a.liddell@example.org", "alice@example.net")
    assert [user.quota for user in stack.users] == [Quota(storage=100 * 1024**2), Quota(storage=1048576), None]
    assert stack.message_size_limit == 20 * 1024**2
    assert stack.aliases["everybody@example.test"] == ("team@example.test", "carol@example.org", "scratch@throwaway.example.test")
    assert stack.tls.plaintext_listeners is True
    assert stack.limits.auth_failure_delay == 0


@pytest.mark.parametrize("word", ["0x1F", "010", "1_000", "22:30", "2024-01-01", "1e3", ".inf", "+1", "=", "12e", "0o7", "-"])
def test_yaml_1_1_makes_no_other_value_of_a_text_in_settings(word: str) -> None:
    stack = parse(f"mta: {{settings: {{main_cf: {{smtpd_banner: {word}}}}}}}" if word != "-" else "mta: {settings: {main_cf: {smtpd_banner: '-'}}}", "stack.yaml", HERE)
    assert stack.mta.settings["main_cf"]["smtpd_banner"] == word


def test_merge_keys_and_aliases_are_copies() -> None:
    stores = load(HERE / "good_stacks" / "anchors.yaml").stack.stores
    assert [s.name for s in stores] == ["first", "second", "third"]
    assert len({str(s.settings) for s in stores}) == 1 and stores[0].settings == {"dovecot_conf": {"auth_verbose": "no"}}
    # a problem in what an anchor names is one problem of one line, wherever it is used
    said = problems("stores:\n  - &a {backend: courier, mailbx: x}\n  - {<<: *a, name: b}\n")
    assert said == "stack.yaml:2: unknown key 'mailbx' (did you mean 'mailbox'?)"


def test_alice_and_bob_live_in_the_domain_of_the_stack() -> None:
    assert [u.address for u in parse("domain: Example.ORG", "s", HERE).users] == ["alice@example.org", "bob@example.org"]
    assert parse("users: []", "s", HERE).users == ()


def test_a_way_of_delivery_that_the_mta_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mute = {name: b.model_copy(update={"delivers": ("smtp",)}) if b.role == "mta" else b for name, b in all_backends().items()}
    monkeypatch.setattr("stackctl.backends.all_backends", lambda: mute)
    assert f"stack.yaml:2: {Stack().mta.backend} delivers no mail by 'lmtp'" in problems("stores:\n  - backend: dovecot\n")


def test_what_builds_on_a_bad_key_is_not_reported_again() -> None:
    # the domain is wrong, so nothing is said of the users in it
    assert problems("domain: exam ple\nusers: [{address: alice@exam.ple}]").count("\n") == 0
    # a bad user is not missed by an alias
    assert (
        problems("users: [{address: alice@example.test, quota: 1X}, {address: b ob@example.test}]\naliases: {a@example.test: [bob@example.test]}").count("\n")
        == 1
    )


def test_more_problems_than_anybody_reads_are_counted() -> None:
    said = problems("".join(f"k{n}: 1\n" for n in range(300))).splitlines()
    assert len(said) == MAX_PROBLEMS + 1 and said[-1].startswith("stack.yaml: and 200 more problems")


def test_a_normal_stack_loads_in_a_few_milliseconds() -> None:
    path = HERE / "good_stacks" / "everything.yaml"
    load(path)
    best = min(_seconds(lambda: load(path)) for _ in range(5))
    assert best < 0.015


def _seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# -- what nobody would write


HOSTILE = {
    "brackets": "[" * 200_000,
    "braces": "{" * 200_000,
    "dashes": "- " * 200_000,
    "questions": "? " * 200_000,
    "a long key": "k" * 1_000_000 + ": 1",
    "a long text": "name: " + "x" * 1_000_000,
    "a long address": "users: [{address: " + "a." * 400_000 + "@example.test}]",
    "a long size": "message_size_limit: " + "9" * 900_000,
    "a long size in text": "message_size_limit: '" + "9" * 900_000 + "'",
    "many unknown keys": "".join(f"key{n}: 1\n" for n in range(40_000)),
    "many bad users": "users:\n" + "".join(f"- {{adress: a{n}@x}}\n" for n in range(20_000)),
    "many misspelt targets": "aliases:\n" + "".join(f"  a{n}@example.test: [alcie{n}@example.test]\n" for n in range(15_000)),
    "a long ring": "aliases:\n" + "".join(f"  a{n}@example.test: [a{(n + 1) % 9000}@example.test]\n" for n in range(9_000)),
    "many rings": "aliases:\n" + "".join(f"  a{n}@example.test: [a{n}@example.test]\n" for n in range(9_000)),
    "many anchors": "".join(f"k{n}: &a{n} x\n" for n in range(30_000)),
    "a chain of anchors": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3_000)),
    "squared anchors": "a: &a [" + "x," * 5_000 + "]\nb: [" + "*a," * 5_000 + "]",
    "merged anchors": "a: &a {" + ",".join(f"k{n}: 1" for n in range(5_000)) + "}\nb: {<<: [" + "*a," * 5_000 + "]}",
    "a directive": "%YAML 9.9\n---\nname: x\n",
    "surrogates": "name: \ud800",
    "line separators": "name: demo\u2028domain: x\u0085y: z",
    "a long comment line": "#" * 1_000_000,
    "tags without end": "!" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_in_bounded_time(name: str) -> None:
    began = time.perf_counter()
    try:
        parse(HOSTILE[name], "stack.yaml", HERE)
    except BadStack as why:
        assert len(why.message) < 100_000
    assert time.perf_counter() - began < 60  # far beyond what a loaded machine needs; a walk that explodes takes hours


def words() -> Iterator[str]:
    yield from Stack.model_fields
    for path in GOOD:
        yield from re.findall(r"[\w@.+-]+", path.read_text(encoding="utf-8"))


WORDS = sorted(set(words()))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.sampled_from(WORDS))
trees = st.recursive(
    scalars,
    lambda t: st.one_of(st.lists(t, max_size=4), st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), t, max_size=5)),
    max_leaves=25,
)
FUZZ = settings(max_examples=250, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


def refused_or_a_stack(text: str) -> None:
    try:
        assert isinstance(parse(text, "stack.yaml", HERE), Stack)
    except BadStack as why:
        assert why.problems and all(re.fullmatch(r"stack\.yaml(:\d+)?", p.where) and p.message for p in why.problems)
        assert "is not valid here" not in why.message, "a kind of problem that has no words yet"
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", why.message)


@FUZZ
@given(st.one_of(st.text(max_size=300), st.text(alphabet="abc:-[]{}&*!|>'\"%#@`, \n\t?<~=019.", max_size=200)))
def test_any_text_is_refused_or_a_stack(text: str) -> None:
    refused_or_a_stack(text)


@FUZZ
@given(trees)
def test_any_tree_is_refused_or_a_stack(tree: Any) -> None:
    refused_or_a_stack(yaml.safe_dump(tree, allow_unicode=True))


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(Stack.model_fields)), trees, max_size=5))
def test_any_values_of_known_keys_are_refused_or_a_stack(tree: Any) -> None:
    refused_or_a_stack(yaml.safe_dump(tree))


@FUZZ
@given(st.data())
def test_a_mutated_good_stack_is_refused_or_a_stack(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(GOOD)).read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 30)))
        put = data.draw(st.one_of(st.text(alphabet=string.printable, max_size=6), st.sampled_from(WORDS), st.just("")))
        text = text[:start] + put + text[end:]
    refused_or_a_stack(text)


@FUZZ
@given(st.binary(max_size=200))
def test_any_octets_are_refused_or_a_stack(tmp_path_factory: pytest.TempPathFactory, octets: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(octets)
    try:
        load(path)
    except BadStack as why:
        assert why.problems
