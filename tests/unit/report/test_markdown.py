"""Markdown for GitHub's job summaries: what a reader of CommonMark with tables makes of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from support.evidence_samples import BOCHS, evidence_of
from support.evidence_strategies import RUNS

from kvmtest.evidence import Evidence, Required, Result, load
from kvmtest.judge import Verdict, claim, control, measure
from kvmtest.report.markdown import markdown, markdown_of_runs

RECORDED = sorted((Path(__file__).parents[2] / "recorded").glob("*.json"))
# What GitHub's Markdown has besides CommonMark, and a reason could hold.
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
#: What a summary may be made of; no link, no picture, no code that nobody marked as such.
TOKENS = {
    "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "fence",
    "table_open", "thead_open", "tr_open", "th_open", "th_close", "tr_close", "thead_close",
    "tbody_open", "td_open", "td_close", "tbody_close", "table_close",
    "bullet_list_open", "list_item_open", "list_item_close", "bullet_list_close",
    "html_block", "text", "code_inline", "softbreak", "html_inline", "text_special",
}  # fmt: skip
HTML = {"</details>", "<br>"}
LIMIT = 1 << 20


def tokens(text: str) -> Iterator[Token]:
    for token in READER.parse(text):
        yield token
        yield from token.children or ()


def check(text: str) -> list[Token]:
    """Return the tokens of a summary, each of which is of a kind that belongs there."""
    found = list(tokens(text))
    assert {token.type for token in found} <= TOKENS
    for token in found:
        if token.type in ("html_block", "html_inline"):
            html = token.content.strip()
            assert html in HTML or html.startswith("<details><summary>"), html
    assert len(text.encode()) < LIMIT
    assert text.endswith("\n")
    return found


def cells(text: str) -> list[list[str]]:
    """Return the rows of all tables, as text."""
    rows: list[list[str]] = []
    found = READER.parse(text)
    for at, token in enumerate(found):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            rows[-1].append(shown(found[at + 1]))
    return rows


def shown(token: Token) -> str:
    return "".join(child.content for child in token.children or ())


def heading(text: str) -> str:
    found = READER.parse(text)
    (at,) = (at for at, token in enumerate(found) if token.type == "heading_open")
    return shown(found[at + 1])


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_run_says_how_it_ended_and_names_each_property(path: Path) -> None:
    run = load(path)
    text = markdown(run)
    check(text)
    word = heading(text).partition(":")[0]
    assert (word == "PASS") == (run.exit_status == 0)
    assert f"exit {run.exit_status}: " in text
    assert all(f"`{result.id}`" in text for result in run.results)
    assert ("EMULATED" in text) == (run.machine.kind == "lab")


def test_what_fails_comes_before_what_is_known_and_what_passed() -> None:
    verdicts = {
        "any.soak": Verdict.PASS,
        "any.no-warnings": Verdict.INCONCLUSIVE,
        "vmx.entry.fresh": Verdict.ERROR,
        "vmx.entry.toggled": Verdict.FAIL,
        "host.hotplug": Verdict.SKIP,
    }
    results = [Result(name, verdict, "because") for name, verdict in verdicts.items()]
    known = Result("vmx.entry.migrated", Verdict.FAIL, "known", known_defect="docs/findings/x.md")
    text = markdown(evidence_of([*results, known], 1))
    assert "<summary>1 property decided</summary>" in text
    assert "<summary>1 not decided</summary>" in text
    rows = cells(text)
    told = [(row[0], row[1]) for row in rows if row[0] != "verdict"]
    assert told == [
        ("FAIL", "vmx.entry.toggled"),
        ("ERROR", "vmx.entry.fresh"),
        ("INCONCLUSIVE", "any.no-warnings"),
        ("KNOWN", "vmx.entry.migrated"),
        ("PASS", "any.soak"),
    ]


def test_a_failure_has_its_reason_and_readings_as_they_are() -> None:
    readings = [control("vmcs", "the host's bit", 1, 1, "set it"), claim("vmcs", "bit *14*", 0, 1)]
    failed = Result("any.soak", Verdict.FAIL, "it said <b>", readings=readings, detail="```\n<i>")
    (fence,) = (token for token in tokens(markdown(evidence_of([failed]))) if token.type == "fence")
    assert fence.content.splitlines() == [
        "any.soak: it said <b>",
        "vmcs claim: bit *14*: 0, expected 1",
        "vmcs control: the host's bit: 1",
        "```",
        "<i>",
    ]


def test_a_problem_of_the_run_and_an_unmet_requirement_are_named() -> None:
    required = [Required("any.soak", True), Required("feature:nested", False, "nested=N")]
    run = evidence_of([], 3, problems=["can't write *it*"], requirements=required)
    found = [shown(token) for token in READER.parse(markdown(run)) if token.type == "inline"]
    assert "can't write *it*" in found
    assert "--require feature:nested is not met: nested=N" in found
    assert not any("--require any.soak" in text for text in found)


def test_a_host_that_is_not_as_it_was_is_named() -> None:
    run = evidence_of([], 3)
    failed = replace(run, journal=replace(run.journal, failures=["the knob is 1, was 0"]))
    assert "* not undone: the knob is 1, was 0\n" in markdown(failed)


def test_passes_of_the_leak_experiment_say_what_they_would_have_missed() -> None:
    figure = measure("leak", "smallest leak of a", 0.375, least_percent_of_smis=16.1)
    seen = "would be seen: a 0.38 % leak in every SMI; a whole leak in 16 % of SMIs or more"
    for verdict, is_said in ((Verdict.PASS, True), (Verdict.MEASURED, False)):
        decided = Result("vmx.leak.host-events", verdict, "because", readings=[figure])
        found = [shown(t) for t in READER.parse(markdown(evidence_of([decided]))) if t.children]
        assert (seen in found) == is_said


@given(RUNS)
def test_nothing_in_evidence_is_markup(run: Evidence) -> None:
    check(markdown(run))
    check(markdown_of_runs([("a|b <b>[x](y) *z*", run)]))


@given(st.text())
def test_text_in_a_table_is_shown_as_it_is(name: str) -> None:
    rows = cells(markdown_of_runs([(name, evidence_of())]))
    expected = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(name.split()))
    assert rows[1][2] == expected.strip()


@pytest.mark.parametrize(
    "hostile",
    ["![x](http://a/b.png)", "<img src=x>", "[x](y)", "`x`", "**x**", "_x_", "| x |", "~~x~~",
     "&amp;", "http://a.b/c", "www.a.b", "a@b.c", "$x$", "- x", "+ x", "1. x", "# x", "=", "---"],
)  # fmt: skip
def test_markup_in_a_reason_is_text(hostile: str) -> None:
    run = evidence_of([Result("any.soak", Verdict.SKIP, hostile)], problems=[hostile])
    found = [shown(token) for token in READER.parse(markdown(run)) if token.type == "inline"]
    assert hostile in found
    assert f"any.soak: {hostile}" in found
    check(markdown(run))
    # GitHub makes links of these after it has read the Markdown.
    for address in ("http://", "www.", "a@b"):
        assert address not in markdown(run)


def test_a_huge_run_is_cut_and_says_so() -> None:
    results = [Result("any.soak", Verdict.FAIL, "r" * 5000, detail="x\n" * 5000)] * 300
    text = markdown(evidence_of(results, 1))
    check(text)
    assert "more: see the evidence" in text
    assert heading(text).startswith("FAIL: ")


def test_a_long_name_is_cut_to_a_line() -> None:
    (name,) = (row[2] for row in cells(markdown_of_runs([("n" * 5000, evidence_of())]))[1:])
    assert (len(name), name[-2:]) == (1000, "n…")


def test_several_runs_are_a_table_whose_failures_come_first() -> None:
    passed = evidence_of([Result("any.soak", Verdict.PASS, "r")])
    failed = evidence_of([Result("any.soak", Verdict.FAIL, "r")], 1, lab=BOCHS)
    text = markdown_of_runs([("a/one", passed), ("b/two", failed), ("c", failed)])
    check(text)
    assert heading(text) == "1 of 3 runs ended with 0"
    told: Sequence[str] = [row[2] for row in cells(text)[1:]]
    assert told == ["b/two", "c", "a/one"]
    assert "* FAIL `any.soak` in 2 runs: b/two, c\n" in text
    assert "EMULATED" in cells(text)[1][4]


def test_ten_thousand_runs_fit() -> None:
    run = evidence_of([Result("any.soak", Verdict.FAIL, "r")], 1)
    text = markdown_of_runs((f"host{number}/6.12/1", run) for number in range(10_000))
    assert len(text.encode()) < LIMIT
    assert "in 10000 runs: host0/6.12/1, " in text
    assert ", host7/6.12/1 and 9992 more\n" in text
    assert "more: see the evidence" in text
