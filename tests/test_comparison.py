"""What follows from a comparison of stores: who is ahead, what is too noisy, what became worse. Figures are made up here, the real ones in e2e/test_comparing.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stackctl.backends import all_backends
from stackctl.cli import app
from stackctl.comparison import Comparison, Fact, Measure, read
from stackctl.errors import UsageError
from stackctl.observing import contest
from stackctl.page import html

pytestmark = pytest.mark.feature("A7")


def measure(a: tuple[float, ...], b: tuple[float, ...], better: str = "less", size: int = 0) -> Measure:
    return Measure.model_validate({"section": "Speed", "what": "work", "unit": "ms", "better": better, "size": size, "runs": {"a": a, "b": b}})


def fact(topic: str, a: str, b: str, section: str = "Capabilities") -> Fact:
    return Fact(section=section, topic=topic, values={"a": a, "b": b}, evidence={"a": "<said>", "b": "& said"})


def comparison(*measures: Measure, facts: tuple[Fact, ...] = ()) -> Comparison:
    about = {"made": "2026-01-01", "quick": True, "machine": {"processors": "2"}, "role": "store", "beside": "All behind one MTA"}
    return Comparison.model_validate({**about, "servers": {"a": "a 1", "b": "b 2"}, "facts": facts, "measures": measures})


@pytest.mark.parametrize(
    ("a", "b", "better", "best"),
    [
        ((1, 1, 1.1), (2, 2, 2.1), "less", "a"),
        ((1, 1, 1.1), (2, 2, 2.1), "more", "b"),
        ((1, 2, 3), (2, 3, 4), "less", None),
        ((1,), (2,), "less", "a"),
        ((1, 1), (1, 1), "less", None),
    ],
)
def test_a_store_is_ahead_only_where_the_spreads_do_not_meet(a: tuple[float, ...], b: tuple[float, ...], better: str, best: str | None) -> None:
    assert measure(a, b, better).best == best


def test_runs_that_differ_too_much_are_told() -> None:
    assert comparison(measure((1, 1, 1), (2, 2, 2))).warnings == []
    [warning] = comparison(measure((1, 5, 20), (2, 2, 2))).warnings
    assert "work" in warning


def test_the_verdict_names_what_one_has_alone_and_how_far_it_is_ahead() -> None:
    found = comparison(measure((1, 1), (2, 2)), facts=(fact("IMAP: X", "yes", "no"), fact("IMAP before login: Y", "yes", "no"), fact("IMAP: Z", "yes", "yes")))
    assert (found.only("a"), found.only("b"), found.lacking("b")) == (["IMAP: X"], [], ["IMAP: X"])
    assert found.ahead("b") == []
    assert found.ahead("a") == ["work: 1 ms (1 to 1), 2.0 times as good as the next"]
    page = found.markdown()
    assert "| IMAP: X | yes | no |" in page and "The same, yes: IMAP: Z" in page and "| work | ms | 1 (1–1) | 2 (2–2) |" in page


def test_what_became_worse_is_found_and_what_did_not_is_not() -> None:
    before = comparison(measure((1, 1), (2, 2)), facts=(fact("IMAP: X", "yes", "no"), fact("mail flows", "passed", "passed", "Behaviours")))
    assert before.regressions(before, 1.0) == []
    now = comparison(measure((2, 2), (2.1, 2.1)), facts=(fact("IMAP: X", "no", "yes"), fact("mail flows", "passed", "failed: it does not", "Behaviours")))
    assert now.regressions(before, 1.5) == [
        "a: work: 2 ms, was 1: 2.00 times as bad",
        "a: IMAP: X: no, was yes",
        "b: mail flows: failed: it does not, was passed",
    ]
    assert len(now.regressions(before, 3.0)) == 2


@pytest.mark.parametrize(("text", "words"), [("{", "no comparison"), ("{}", "made"), ("[1]", "no comparison")])
def test_what_is_no_comparison_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(text, "old.json")


def test_a_comparison_is_read_as_it_was_written_and_another_schema_is_not() -> None:
    found = comparison(measure((1, 1), (2, 2)), facts=(fact("IMAP: X", "yes", "no"),))
    assert read(found.model_dump_json(), "old.json") == found
    with pytest.raises(UsageError, match="schema 3"):
        read(found.model_copy(update={"schema_version": 3}).model_dump_json(), "old.json")


def test_evidence_cannot_break_the_page() -> None:
    page = html(comparison(measure((1, 1), (2, 2), size=10), measure((3, 3), (4, 4), size=1000), facts=(fact("</script>", "yes", "no"),)))
    assert "&lt;said&gt;" in page and "&amp; said" in page and page.count("</script>") == 1
    assert "as the mailbox grows" in page and "<polyline" in page


def test_what_is_on_several_ports_is_named_once() -> None:
    facts = [fact(f"{port}: {word}", "yes", "no") for port in ("smtp", "submission", "smtp before TLS") for word in ("HELP", "LIMITS")]
    assert comparison(facts=(*facts, fact("smtp: X", "yes", "no"))).only("a") == ["smtp, submission: HELP, LIMITS", "smtp: X"]


def test_a_figure_of_several_sizes_is_one_line_of_the_verdict() -> None:
    found = comparison(measure((1, 1), (3, 3), size=100), measure((2, 2), (4, 4), size=10_000), measure((5, 5), (5, 5), size=100_000))
    assert found.ahead("a") == ["work (100 to 10,000 messages): 2 ms with 10,000 (2 to 2), 2.0 to 3.0 times as good as the next"]


# --- How it is looked


@pytest.mark.parametrize(("most", "words"), [(1000, "about 1,000"), (7, "7"), (0, "0"), (5000, "at least 4,096")])
def test_a_limit_is_found_by_trying(most: int, words: str) -> None:
    tried: list[int] = []

    def taken(size: int) -> str:
        tried.append(size)
        return "" if size <= most else f"{size} is too large"

    found, said = contest.limit(taken, 4096)
    assert (int(found.removeprefix("about ").replace(",", "")) in range(most - most // 100, most + 1)) if "least" not in words else found == words
    assert ("is too large" in said) == (most < 4096) and len(tried) < 30


def test_a_refusal_that_is_not_repeated_is_no_limit() -> None:
    answers = iter(["", "busy", "", "too large", "too large", *["too large"] * 20])
    assert contest.limit(lambda size: next(answers), 16, 4)[0] == "8"


def test_a_setting_has_its_lines_with_it() -> None:
    text = "# what\na = 1\nb {\n  # why\n  c = 2\n  d {\n    e = 3\n  }\n}\nsmtp inet\n  -o x=y\n\nf = {$g}\n"
    assert list(contest.settings(text)) == ["a = 1", "b {\n  c = 2\n  d {\n    e = 3\n  }\n}", "smtp inet\n  -o x=y", "f = {$g}"]


def test_the_topics_of_every_server_are_found_in_what_is_rendered() -> None:
    """Of those in images/ that say what their settings are about; each topic of theirs has some in one of the golden files."""
    golden = Path(__file__).parent / "golden"
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in golden.rglob("*") if path.is_file()}
    told = {name: backend for name, backend in all_backends().items() if backend.topics}
    assert {"mta", "store"} == {backend.role for backend in told.values()}
    for name, backend in told.items():
        files = {file.path for file in backend.files}
        settings = [one for path, text in texts.items() if path.name in files for one in contest.settings(text)]
        for topic, begins in backend.topics.items():
            assert any(re.match(begins, one) for one in settings), f"{name}: nothing is about {topic}"


@pytest.mark.parametrize("sizes", ["", "x", "0", "100,,5", "10000000", "-5"])
def test_sizes_that_are_none_are_refused(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["compare", "--sizes", sizes]) == 2
    assert "numbers from 1 to 1,000,000" in capsys.readouterr().err
