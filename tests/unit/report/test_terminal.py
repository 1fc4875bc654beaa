"""What a person sees: colour on a terminal alone, and never half an id."""

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence_samples import BOCHS, in_lab
from support.evidence_strategies import EVIDENCE, RESULTS
from support.pseudo_terminal import terminal

from kvmtest.evidence import CpuRecord, Evidence, Result
from kvmtest.judge import Verdict, measure
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES
from kvmtest.report.terminal import (
    console,
    grouped,
    missing_table,
    properties_table,
    show_evidence,
    show_results,
    summary,
)

pytestmark = pytest.mark.usefixtures("plain_environment")

COLOUR = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-7]|9[0-7]|4[0-7])m")

RESULTS_OF_ALL_KINDS = [
    Result(prop.id, verdict, f"reason of {prop.id} " * 5)
    for prop, verdict in zip(PROPERTIES, list(Verdict) * 10, strict=False)
]


def shown(results: list[Result]) -> str:
    stream = io.StringIO()
    show_results(console(stream), results)
    return stream.getvalue()


# Colour


def test_what_is_no_terminal_gets_no_escapes() -> None:
    stream = io.StringIO()
    screen = console(stream)
    show_results(screen, RESULTS_OF_ALL_KINDS)
    screen.print(properties_table())
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_colour() -> None:
    with terminal() as term:
        show_results(console(term.stream), RESULTS_OF_ALL_KINDS[:1])
        assert COLOUR.search(term.text())


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal() as term:
        show_results(console(term.stream), RESULTS_OF_ALL_KINDS[:1])
        assert not COLOUR.search(term.text())


def test_a_dumb_terminal_gets_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with terminal() as term:
        show_results(console(term.stream), RESULTS_OF_ALL_KINDS[:1])
        assert "\x1b" not in term.text()


# Width


def words(text: str) -> set[str]:
    return set(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).split())


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_ids_are_whole_at_any_usual_width(width: int) -> None:
    with terminal(width) as term:
        screen = console(term.stream)
        show_results(screen, RESULTS_OF_ALL_KINDS)
        found = words(term.text())
        assert {r.id for r in RESULTS_OF_ALL_KINDS} <= found
        assert set(Verdict) <= found
        screen.print(properties_table())
        assert {p.id for p in PROPERTIES} <= words(term.text())


@pytest.mark.parametrize("width", [1, 5, 20])
def test_a_sliver_of_a_terminal_does_not_crash(width: int) -> None:
    with terminal(width) as term:
        show_results(console(term.stream), RESULTS_OF_ALL_KINDS)
        assert term.text()


def test_lines_fit_the_width_and_lose_nothing() -> None:
    text = shown([Result("any.soak", Verdict.FAIL, "x" * 400)])
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("x") == 400


# Results


def test_what_failed_comes_first_and_what_was_skipped_last() -> None:
    verdicts = [line.split()[0] for line in shown(RESULTS_OF_ALL_KINDS).splitlines() if line]
    seen = [verdict for verdict in dict.fromkeys(verdicts) if verdict in set(Verdict)]
    assert seen == ["FAIL", "ERROR", "PASS", "INCONCLUSIVE", "MEASURED", "SKIP"]


def test_equal_reasons_share_a_row() -> None:
    gone = [Missing("there is no knob", "run on Intel"), Missing("no PMU")]
    ids = ["host.hotplug", "any.soak"]
    text = shown([Result(i, Verdict.SKIP, "a; b", missing=gone) for i in ids])
    assert text.count("SKIP") == 1
    assert text.split("missing here")[1].split().count("2") == 2


def test_a_required_skip_says_that_it_was_required() -> None:
    gone = [Missing("there is no knob", "run on Intel"), Missing("no PMU")]
    reason = "--require any.soak, but SKIP: there is no knob"
    assert "--require any.soak" in shown([Result("any.soak", Verdict.FAIL, reason, missing=gone)])


def test_reasons_are_no_markup() -> None:
    text = shown([Result("any.soak", Verdict.ERROR, "[bold]a[/] b[/nothing] [red")])
    assert "[bold]a[/] b[/nothing] [red" in text


@settings(max_examples=20)
@given(st.lists(RESULTS, max_size=4))
def test_any_results_are_shown(results: list[Result]) -> None:
    assert {r.id for r in results} <= words(shown(results))


def test_control_characters_of_a_reason_do_not_reach_the_terminal() -> None:
    with terminal() as term:
        show_results(console(term.stream), [Result("any.soak", Verdict.SKIP, "a\x1b]0;b\x07\rc")])
        assert not re.search(r"\x1b\]|\x07", term.text())


@settings(max_examples=20)
@given(EVIDENCE)
def test_any_evidence_is_shown(evidence: Evidence) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stream := io.StringIO())
        show_evidence(evidence)
    assert ("interrupted" in stream.getvalue().splitlines()[-1]) == evidence.kvmtest.interrupted


def emulated(evidence: Evidence, hostname: str | None) -> str:
    """Return what is shown of evidence had in the lab."""
    made = in_lab(evidence, BOCHS)
    cpu = CpuRecord("intel", model_name="Intel(R) Core(TM) i7-7800X")
    machine = replace(made.machine, cpu=cpu, hostname=hostname)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stream := io.StringIO())
        show_evidence(replace(made, machine=machine))
    return stream.getvalue()


@settings(max_examples=5)
@given(EVIDENCE)
def test_an_emulated_machine_says_so_before_its_cpu_is_named(evidence: Evidence) -> None:
    text = " ".join(emulated(evidence, None).split())
    said, _, after = text.partition("corei7_skylake_x, which calls itself Intel(R) Core(TM) i7")
    assert "EMULATED Intel (Bochs 2.7, 1 CPU): proves the kernel's code, not hardware" in said
    assert "emulated on" not in after
    assert "i7-7800X, emulated on runner17" in " ".join(emulated(evidence, "runner17").split())


def test_a_pass_says_what_it_would_have_missed() -> None:
    figure = measure("leak", "smallest leak", 0.41, least_percent_of_smis=18.94)
    text = shown([Result("vmx.leak.guest-pmu", Verdict.PASS, "r", readings=[figure])])
    assert (
        "would be seen: a 0.41 % leak in every SMI; a whole leak in 19 % of SMIs or more"
        in " ".join(text.split())
    )


@settings(max_examples=5)
@given(EVIDENCE)
def test_what_was_wrong_with_the_run_is_shown(evidence: Evidence) -> None:
    run = replace(evidence.kvmtest, problems=["pytest broke"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stream := io.StringIO())
        show_evidence(replace(evidence, kvmtest=run, exit_status=3))
    assert "pytest broke" in " ".join(stream.getvalue().split())


def test_the_summary_counts_in_the_order_of_the_table() -> None:
    verdicts = [Verdict.SKIP, Verdict.PASS, Verdict.SKIP, Verdict.FAIL]
    results = [Result("any.soak", verdict, "r") for verdict in verdicts]
    assert summary(results) == "1 FAIL, 1 PASS, 2 SKIP"
    assert summary([]) == "nothing was decided"


def test_what_is_missing_is_told_once_with_its_remedy() -> None:
    stream = io.StringIO()
    knob = Missing("there is no knob", "run on Intel")
    console(stream).print(missing_table([knob, Missing("no PMU"), knob]))
    _, first, second = stream.getvalue().splitlines()
    assert first.split() == ["there", "is", "no", "knob", "run", "on", "Intel", "2"]
    assert second.split() == ["no", "PMU", "1"]


def test_names_are_grouped_in_their_order() -> None:
    assert grouped({"a": 1, "b": 2, "c": 1}) == {1: ["a", "c"], 2: ["b"]}


def test_a_known_defect_is_shown_with_its_finding_whether_it_shows_or_not() -> None:
    known = Result("any.soak", Verdict.FAIL, "because", known_defect="docs/x.md")
    mended = Result("svm.flag-never", Verdict.PASS, "because", known_defect="docs/y.md")
    text = shown([known, mended])
    assert "known defect, see docs/x.md; because" in text
    assert "a known defect does not show: see docs/y.md; because" in text
    assert summary([known, mended]) == "1 FAIL (1 known), 1 PASS"
    other = Result("any.no-warnings", Verdict.FAIL, "because")
    assert summary([known, other]) == "2 FAIL (1 known)"
