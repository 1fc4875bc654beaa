"""Replay
======

The readings of a recorded run judged again, by this version's rules: so a reader checks a verdict.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kvmtest.checks.demands import requirement
from kvmtest.evidence import Evidence, EvidenceUnreadable, Result
from kvmtest.judge import Verdict, judge, skip
from kvmtest.judge.leak import conclude_again
from kvmtest.judge.requirements import Demand, Kind, enforce

__all__ = ["replay"]


def replay(evidence: Evidence) -> Iterator[Result]:
    """Give each result that was judged, with verdict and reason as they are by today's rules.

    A SKIP or ERROR was not judged. Raises KeyError, ValueError or, of
    numbers that no float holds, ArithmeticError where a sample is broken.
    """
    is_recorded = evidence.requirements is not None
    demands_on = _recorded if is_recorded else _by_command(evidence.kvmtest.command)
    for result in evidence.results:
        if result.verdict not in (Verdict.SKIP, Verdict.ERROR):
            readings = conclude_again(result.readings)
            judgement = (
                skip(map(str, result.missing))
                if result.missing
                else judge(readings, result.absences)
            )
            now = enforce(judgement, demands_on(result), readings, result.absences)
            yield replace(result, verdict=now.verdict, reason=now.reason)


def _recorded(result: Result) -> Sequence[Demand]:
    return result.demands or ()


def _by_command(command: Sequence[str]) -> Callable[[Result], Sequence[Demand]]:
    """Return the demands of a run that did not record them, by its command.

    All that a requirement concerned was to be decided then. Raises EvidenceUnreadable.
    """
    required = [requirement(text) for text in _required(command)]

    def demands_on(result: Result) -> Sequence[Demand]:
        concerned = (r.text for r in required if result.id in r.properties)
        return [Demand(text, Kind.PROPERTY, text) for text in concerned]

    return demands_on


def _required(command: Sequence[str]) -> list[str]:
    """Return what a command required; a bisection asks for it in another way.

    What follows "--" was for pytest. Raises EvidenceUnreadable. Not by argparse, which would obey a
    recorded --help, and exit where something is missing.
    """
    required = []
    words = iter(command)
    for word in words:
        option, equals, text = word.partition("=")
        if word == "--":
            break
        if word == "--bisect":
            return []
        if option == "--require":
            text = text if equals else next(words, "")
            if not text:
                raise EvidenceUnreadable(
                    "the recorded command has --require without its ID; copy it again, or run again"
                )
            required.append(text)
    return required
