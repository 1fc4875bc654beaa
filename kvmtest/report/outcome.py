"""Outcome
=======

What the exit status of a run says that no property's verdict does. KTAP and JUnit have no exit
status: without it their readers would call a run passed that decided nothing, that was interrupted,
or that could not put the host back.
"""

from kvmtest.evidence import Evidence
from kvmtest.judge import Verdict

__all__ = ["RUN", "run_problem"]

RUN = "kvmtest.run"
"""The name of the test that stands for the run itself, where there is something to say of it."""

_NOTHING_DECIDED = 4


def run_problem(evidence: Evidence) -> str:
    """Return what was wrong with the run itself; "" where the verdicts say all that there is.

    Never of a run whose exit status is 0; always of another in which no property fails by a
    verdict that counts.
    """
    status = evidence.exit_status
    if status == 0:
        return ""
    problems = [f"not undone: {line}" for line in evidence.journal.get("failures", ())]
    problems += evidence.kvmtest.get("problems", ())
    if evidence.kvmtest.get("interrupted"):
        problems.append("the run was interrupted: verdicts after that are missing")
    if not problems and not any(_counts(evidence)):
        problems.append(_unexplained(evidence))
    return f"exit status {status}: {'; '.join(problems)}" if problems else ""


def _counts(evidence: Evidence) -> list[bool]:
    """Return of each result whether it keeps the run from passing."""
    return [
        result.verdict in (Verdict.FAIL, Verdict.ERROR)
        and (evidence.strict or not result.is_known_failure)
        for result in evidence.results
    ]


def _unexplained(evidence: Evidence) -> str:
    if evidence.exit_status != _NOTHING_DECIDED:
        return "no verdict says why; see what the run wrote to stderr"
    known = sum(result.is_known_failure for result in evidence.results)
    besides = f" but {known} known defect{'s' * (known > 1)}, which does not count" if known else ""
    return f"nothing was decided{besides}"
