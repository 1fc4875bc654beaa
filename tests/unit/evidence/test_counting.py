"""What counts of a run, against the words of docs/verdicts.md, over every case."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evidence_strategies import RESULTS, RUNS

from kvmtest.evidence import Evidence, Required, Result
from kvmtest.evidence.counting import (
    bisect_status,
    fails,
    is_excused,
    run_problem,
    run_status,
    runs_status,
    unanswered,
    verdict_status,
)
from kvmtest.judge import Verdict
from kvmtest.judge.requirements import Kind, Requirement

EVERY_MULTISET = [
    combination
    for size in range(4)
    for combination in itertools.combinations_with_replacement(Verdict, size)
]
PASSED = Result("any.soak", Verdict.PASS, "r")
FAILED = Result("any.no-warnings", Verdict.FAIL, "r")
KNOWN = Result("vmx.guest.rtm-debug", Verdict.FAIL, "r", known_defect="docs/findings/x.md")
BROKE = Result("vmx.entry.fresh", Verdict.ERROR, "r")
MET, UNMET = Required("any.soak", met=True), Required("any.soak", met=False, reason="no CPU")


@pytest.mark.parametrize("verdicts", EVERY_MULTISET, ids="+".join)
def test_the_status_tells_the_worst_verdict(verdicts: tuple[Verdict, ...]) -> None:
    fails, errors = verdicts.count(Verdict.FAIL), verdicts.count(Verdict.ERROR)
    passes = verdicts.count(Verdict.PASS)
    expected = {
        1: fails > 0,
        3: fails == 0 and errors > 0,
        4: fails == errors == passes == 0,
        0: fails == errors == 0 and passes > 0,
    }
    assert [status for status, holds in expected.items() if holds] == [verdict_status(verdicts)]


@given(st.lists(st.sampled_from(Verdict)))
def test_the_status_depends_on_which_verdicts_there_are_alone(verdicts: list[Verdict]) -> None:
    reordered = (verdict_status(each) for each in (reversed(verdicts), set(verdicts)))
    assert {*reordered} == {verdict_status(verdicts)}


@given(RESULTS, st.booleans())
def test_a_result_fails_a_run_by_its_verdict_unless_it_is_excused(
    result: Result, strict: bool
) -> None:
    excused = is_excused(result, strict=strict)
    assert excused == (result.verdict is Verdict.FAIL and bool(result.known_defect) and not strict)
    bad = result.verdict in (Verdict.FAIL, Verdict.ERROR)
    assert fails(result, strict=strict) == (bad and not excused)


@pytest.mark.parametrize(
    ("results", "status", "strict"),
    [
        ([PASSED, KNOWN], 0, 1),
        ([KNOWN], 4, 1),
        ([KNOWN, BROKE], 3, 1),
        ([KNOWN, FAILED], 1, 1),
        ([PASSED], 0, 0),
        ([], 4, 4),
    ],
)
def test_a_known_defect_counts_only_where_the_run_is_strict(
    results: Sequence[Result], status: int, strict: int
) -> None:
    assert (run_status(results), run_status(results, strict=True)) == (status, strict)


@pytest.mark.parametrize(
    ("results", "status"), [([PASSED], 3), ([FAILED], 1), ([BROKE], 3), ([], 3), ([KNOWN], 3)]
)
def test_a_problem_fails_any_run_that_no_fail_does(results: Sequence[Result], status: int) -> None:
    assert run_status(results, ["not undone: write 1 to /sys/x"]) == status


@pytest.mark.parametrize("results", [[PASSED], [FAILED], []])
def test_a_signal_is_told_whatever_was_decided(results: Sequence[Result]) -> None:
    assert run_status(results, ["broke"], signal=15) == 143
    assert run_status(results, dry_run=True, signal=2) == 130


def test_a_dry_run_must_have_tried_something() -> None:
    skipped = Result("any.soak", Verdict.SKIP, "r")
    statuses = [run_status(results, dry_run=True) for results in ([skipped], [FAILED], [])]
    assert statuses == [0, 0, 4]
    assert run_status([skipped], ["it broke"], dry_run=True) == 3


@pytest.mark.parametrize(
    ("status", "required", "told"),
    [
        (0, [], 0),
        (1, [MET], 1),
        (0, [MET, UNMET], 125),
        (1, [UNMET], 125),
        (3, [], 125),
        (4, [MET], 125),
        (130, [UNMET], 130),
    ],
)
def test_a_bisection_is_told_good_bad_skip_or_stop(
    status: int, required: Sequence[Required], told: int
) -> None:
    assert bisect_status(status, required) == told


@pytest.mark.parametrize(
    ("became", "results", "said"),
    [
        (UNMET, [FAILED], ["--require any.soak: no CPU"]),
        (UNMET, [PASSED], []),
        (MET, [FAILED], []),
    ],
)
def test_a_requirement_is_unanswered_where_nothing_of_its_was_run(
    became: Required, results: Sequence[Result], said: list[str]
) -> None:
    wanted = Requirement("any.soak", Kind.PROPERTY, "any.soak", frozenset({"any.soak"}))
    assert list(unanswered([became], [wanted], results)) == said


@given(RUNS)
def test_a_run_s_status_is_always_explained(run: Evidence) -> None:
    by_verdict = any(fails(result, strict=run.strict) for result in run.results)
    assert (by_verdict or bool(run_problem(run))) == (run.exit_status != 0)


@pytest.mark.parametrize(
    ("statuses", "is_whole", "status"),
    [
        ([0, 0], True, 0),
        ([0, 4], True, 0),
        ([4, 4], True, 4),
        ([], True, 4),
        ([0, 3, 1], True, 1),
        ([0, 1], False, 1),
        ([0, 3], True, 3),
        ([0, 130], True, 3),
        ([0], False, 3),
        ([], False, 3),
    ],
)
def test_several_runs_have_the_status_that_one_would_have(
    statuses: list[int], is_whole: bool, status: int
) -> None:
    assert runs_status(statuses, is_whole=is_whole) == status
