"""A mark is a verdict's, but for a known FAIL that the exit status ignores."""

import pytest
from support.evidence_samples import evidence_of

from kvmtest.evidence import Result
from kvmtest.judge import Verdict
from kvmtest.report.marks import NAMES, mark_of, mark_of_run, mark_of_verdict, marks_of


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_has_a_mark_with_its_name(verdict: Verdict) -> None:
    mark = mark_of(Result("any.soak", verdict, "r"), strict=False)
    assert NAMES[mark] == verdict.value


def test_only_a_fail_is_known() -> None:
    known = Result("any.soak", Verdict.FAIL, "r", known_defect="docs/findings/x.md")
    assert mark_of(known, strict=False) == "known"
    assert mark_of(known, strict=True) == "fail"
    assert mark_of_verdict("PASS", is_known=True) == "pass"
    assert mark_of_verdict("of another version", is_known=True) == "none"
    assert marks_of(evidence_of([known])) == {"any.soak": "known"}


@pytest.mark.parametrize(
    ("status", "mark"),
    [(0, "pass"), (1, "fail"), (3, "error"), (4, "inconclusive"), (130, "inconclusive")],
)
def test_a_run_has_the_mark_of_its_exit_status(status: int, mark: str) -> None:
    assert mark_of_run(evidence_of([], status)) == mark
