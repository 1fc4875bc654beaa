"""Marks
=====

The word by which pages name what became of a property, or of a run: its class in the stylesheet.
"""

from collections.abc import Mapping

from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.counting import BROKEN, FAILED, PASSED, is_excused
from kvmtest.judge import Verdict

__all__ = ["NAMES", "mark_of", "mark_of_run", "mark_of_verdict", "marks_of"]

#: What a property is called by its mark: the verdict, unless its FAIL is known and excused.
NAMES = {verdict.value.lower(): verdict.value for verdict in Verdict} | {"known": "known FAIL"}


def mark_of(result: Result, *, strict: bool) -> str:
    """Return the mark of a result."""
    return mark_of_verdict(result.verdict, is_known=is_excused(result, strict=strict))


def mark_of_verdict(verdict: str, *, is_known: bool) -> str:
    """Return the mark of a verdict; ``is_known``: if it is FAIL, it is known and excused."""
    mark = verdict.lower()
    if mark not in NAMES:
        return "none"
    return "known" if is_known and mark == "fail" else mark


def marks_of(evidence: Evidence) -> Mapping[str, str]:
    """Return the marks of a run's properties."""
    return {each.id: mark_of(each, strict=evidence.strict) for each in evidence.results}


def mark_of_run(evidence: Evidence) -> str:
    """Return the mark of a run, by its exit status."""
    known = {PASSED: "pass", FAILED: "fail", BROKEN: "error"}
    return known.get(evidence.exit_status, "inconclusive")
