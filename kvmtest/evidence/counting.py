"""What counts
===========

The exit status that follows from a run's results, problems and interruption. Only this module says
which FAILs count, which verdicts decide nothing, and what the exit status adds to the verdicts.
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
    "runs_status",
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
    """Return 1 for any FAIL, else 3 for any ERROR, else 4 if nothing was decided, else 0.

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

    ``problems`` went wrong besides verdicts: a change not undone, a file not written, a required
    property not run. ``signal`` is the number of the signal that ended the run, 0 for none. A dry
    run decides nothing, but must have tried some property.
    """
    if signal:
        return SIGNALLED + signal
    if dry_run:
        status = PASSED if results else UNDECIDED
    else:
        status = verdict_status(r.verdict for r in results if not is_excused(r, strict=strict))
    return BROKEN if problems and status != FAILED else status


def runs_status(statuses: Iterable[int], *, is_whole: bool) -> int:
    """Return the exit status of several runs by those of each, in the sense of a single run's.

    1 if any FAILs; else 3 if any broke, or was interrupted, or has no evidence (not ``is_whole``);
    else 4 if none decided anything; else 0.
    """
    seen = set(statuses)
    if FAILED in seen:
        return FAILED
    if seen - {PASSED, UNDECIDED} or not is_whole:
        return BROKEN
    return PASSED if PASSED in seen else UNDECIDED


def bisect_status(status: int, required: Iterable[Required]) -> int:
    """Return the status for git bisect run: 0 good, 1 bad, 125 skip.

    A run with an unmet requirement is skipped; one that a signal ended stops the bisection.
    """
    if status >= SIGNALLED:
        return status
    is_decided = status in (PASSED, FAILED) and all(each.met for each in required)
    return status if is_decided else BISECT_SKIP


def unanswered(
    required: Iterable[Required], wanted: Iterable[Requirement], results: Iterable[Result]
) -> Iterator[str]:
    """Give a problem for each requirement none of whose properties was run.

    ``required`` says what became of ``wanted``, in the same order.
    """
    run = {result.id for result in results}
    for became, requirement in zip(required, wanted, strict=True):
        if not became.met and not requirement.properties & run:
            yield f"--require {became.text}: {became.reason}"


def run_problem(evidence: Evidence) -> str:
    """Return the problem of the run itself; "" if the verdicts say everything.

    KTAP and JUnit have no exit status. Without this text a run would look passed that decided
    nothing, was interrupted, or could not restore the host. The text is never "" if the
    exit status is not 0 and no FAIL or ERROR counts.
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
