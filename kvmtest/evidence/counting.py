"""What counts
===========

From a run's results, problems and interruption to its exit status: the one place that says which
FAILs count, what decides nothing, and what a run's exit status says that no verdict does.
"""

from collections.abc import Iterable, Iterator, Sequence

from kvmtest.judge import Verdict
from kvmtest.judge.requirements import Requirement

from .model import Evidence, Required, Result

__all__ = [
    "bisect_status",
    "fails",
    "is_excused",
    "run_problem",
    "run_status",
    "unanswered",
    "verdict_status",
]

PASSED, FAILED, BROKEN, UNDECIDED = 0, 1, 3, 4
#: "Skip this commit" of git bisect run, which stops at 128 and above.
BISECT_SKIP = 125
SIGNALLED = 128


def is_excused(result: Result, *, strict: bool) -> bool:
    """Whether the result is a FAIL that does not count: a known defect in a run not ``strict``."""
    return result.is_known_failure and not strict


def fails(result: Result, *, strict: bool) -> bool:
    """Whether the result alone keeps the run from passing."""
    return result.verdict in (Verdict.FAIL, Verdict.ERROR) and not is_excused(result, strict=strict)


def verdict_status(verdicts: Iterable[Verdict]) -> int:
    """Return 1 for some FAIL, else 3 for some ERROR, else 4 where nothing was decided, else 0.

    INCONCLUSIVE, SKIP and MEASURED decide nothing.
    """
    seen = set(verdicts)
    if Verdict.FAIL in seen:
        return FAILED
    if Verdict.ERROR in seen:
        return BROKEN
    return PASSED if Verdict.PASS in seen else UNDECIDED


def run_status(
    results: Sequence[Result],
    problems: Sequence[str] = (),
    *,
    strict: bool = False,
    dry_run: bool = False,
    signal: int = 0,
) -> int:
    """Return the exit status of a run.

    ``problems`` are what went wrong besides verdicts: what was not undone, not written or, though
    required, not run. ``signal`` is the number of the signal that ended the run, 0 for none. A dry
    run decides nothing, but must have tried some property.
    """
    if signal:
        return SIGNALLED + signal
    if dry_run:
        status = PASSED if results else UNDECIDED
    else:
        status = verdict_status(r.verdict for r in results if not is_excused(r, strict=strict))
    return BROKEN if problems and status != FAILED else status


def bisect_status(status: int, required: Iterable[Required]) -> int:
    """Return what git bisect run is told: 0 good, 1 bad, 125 where the run can't say.

    A run with an unmet requirement can't say; one that a signal ended stops the bisection.
    """
    if status >= SIGNALLED:
        return status
    is_decided = status in (PASSED, FAILED) and all(each.met for each in required)
    return status if is_decided else BISECT_SKIP


def unanswered(
    required: Iterable[Required], wanted: Iterable[Requirement], results: Iterable[Result]
) -> Iterator[str]:
    """Give a problem for each requirement of whose properties none was run.

    ``required`` says what became of ``wanted``, in the same order.
    """
    run = {result.id for result in results}
    for became, requirement in zip(required, wanted, strict=True):
        if not became.met and not requirement.properties & run:
            yield f"--require {became.text}: {became.reason}"


def run_problem(evidence: Evidence) -> str:
    """Return what was wrong with the run itself; "" where the verdicts say all that there is.

    KTAP and JUnit have no exit status: without this their readers would call a run passed that
    decided nothing, was interrupted, or could not put the host back. It is never "" for a run whose
    exit status is not 0 and in which no property fails by a verdict that counts.
    """
    status = evidence.exit_status
    if status == PASSED:
        return ""
    problems = [f"not undone: {line}" for line in evidence.journal.failures]
    problems += evidence.kvmtest.problems or ()
    if evidence.kvmtest.interrupted:
        problems.append("the run was interrupted: verdicts after that are missing")
    if not problems and not any(fails(r, strict=evidence.strict) for r in evidence.results):
        problems.append(_unexplained(evidence))
    return f"exit status {status}: {'; '.join(problems)}" if problems else ""


def _unexplained(evidence: Evidence) -> str:
    if evidence.exit_status != UNDECIDED:
        return "no verdict says why; see what the run wrote to stderr"
    known = sum(result.is_known_failure for result in evidence.results)
    besides = f" but {known} known defect{'s' * (known > 1)}, which does not count" if known else ""
    return f"nothing was decided{besides}"
