"""kvmtest/report/matrix_run.py: what is kept of a run is bounded, whatever its evidence says."""

from dataclasses import replace

import pytest
from hypothesis import given
from support.evidence_samples import evidence_of
from support.evidence_strategies import RUNS

from kvmtest.evidence import Evidence, Result
from kvmtest.judge import Verdict
from kvmtest.report.matrix_run import (
    LONGEST_LINE,
    LONGEST_NAME,
    MatrixRun,
    cut,
    of_evidence,
    shared,
    unreadable,
)

FRESH, SOAK = "vmx.entry.fresh", "any.soak"
HUGE = "\x1b[31m\u202e<b>" + "x" * 1_000_000


def test_names_and_lines_of_any_length_are_cut() -> None:
    results = [Result(f"a.b{n}", Verdict.FAIL, HUGE) for n in range(1000)]
    evidence = evidence_of(results, 1, hostname=HUGE, release=HUGE, started=HUGE)
    cpu = replace(evidence.machine.cpu, model_name=HUGE)  # type: ignore[type-var]
    run = of_evidence("a", replace(evidence, machine=replace(evidence.machine, cpu=cpu)), "l")
    names = (run.kernel, run.machine, run.model, run.started)
    assert max(map(len, names)) <= LONGEST_NAME
    assert len(run.marks) <= 32
    assert 0 < len(run.wrong) <= 8
    assert all(len(line) <= LONGEST_LINE for line in run.wrong)
    assert all(text.isprintable() for text in (*names, *run.wrong))
    assert len(unreadable("a", HUGE).failure) <= LONGEST_LINE


def test_properties_of_the_table_are_kept_whatever_else_there_is() -> None:
    unknown = {f"a.b{n}": "pass" for n in range(1000)} | {"z." + "z" * 100: "pass"}
    kept = shared({**unknown, SOAK: "fail", FRESH: "pass"})
    assert list(kept)[:2] == [FRESH, SOAK]
    assert len(kept) == 2 + 32
    assert all(len(name) < 100 for name in kept)


def test_equal_marks_are_one_object() -> None:
    assert shared({SOAK: "pass", FRESH: "fail"}) is shared({FRESH: "fail", SOAK: "pass"})


def test_cut_text_is_one_line() -> None:
    assert cut(" a\n\tb  c ", 9) == "a b c"
    assert cut("abcdefgh", 6) == "abc..."


@pytest.mark.parametrize(
    ("mark", "marks", "failure", "fails", "is_wrong"),
    [
        ("pass", {SOAK: "pass", FRESH: "skip"}, "", False, False),
        ("pass", {SOAK: "pass", FRESH: "known"}, "", False, False),
        ("pass", {SOAK: "pass", FRESH: "inconclusive"}, "", False, True),
        ("inconclusive", {FRESH: "skip"}, "", True, True),
        ("pass", {}, "not JSON", True, True),
        # An exit status that its own verdicts deny.
        ("pass", {SOAK: "fail"}, "", True, True),
    ],
)
def test_a_run_fails_by_its_exit_status_and_by_its_verdicts(
    mark: str, marks: dict[str, str], failure: str, fails: bool, is_wrong: bool
) -> None:
    run = MatrixRun("a", "6.12", "m", mark, marks, failure=failure)
    assert (run.fails, run.is_wrong) == (fails, is_wrong)


@given(RUNS)
def test_lines_are_about_what_is_not_good_and_come_where_something_is(evidence: Evidence) -> None:
    run = of_evidence("a", evidence, "l")
    if run.wrong:
        assert run.is_wrong
    if evidence.exit_status:
        assert run.fails
        assert run.wrong
