"""Telling readings
================

The few of a result's hundreds of readings that its reader must see, in lines: the readings against
the claim, their controls, and the smallest leak that a PASS excludes.
"""

from collections.abc import Sequence

from kvmtest.evidence import Result
from kvmtest.evidence.statements import power as power_of
from kvmtest.judge import Reading, Role, Verdict, readings_against

__all__ = ["RUN", "line", "telling", "would_be_seen"]

RUN = "kvmtest.run"
"""The name of the test that stands for the run itself, if the run had a problem."""

#: The most lines of one kind; the rest is only counted.
_SHOWN = 8


def telling(result: Result) -> list[str]:
    """Return the readings behind a FAIL or an INCONCLUSIVE, as lines; none for other verdicts."""
    readings = result.readings
    controls = [r for r in readings if r.role is Role.CONTROL]
    if result.verdict is Verdict.FAIL:
        against = readings_against(readings)
        witnesses = {r.witness for r in against}
        behind = [r for r in controls if r.witness in witnesses]
        return [*_lines(against), *_lines(behind if against else _broken(controls))]
    if result.verdict is Verdict.INCONCLUSIVE:
        return _lines(_broken(controls))
    return []


def would_be_seen(result: Result) -> str:
    """Return which leaks a PASS excludes, in words; "" if the check looks for no leak."""
    if result.verdict is not Verdict.PASS:
        return ""
    power = power_of([result])
    return f"would be seen: {power}" if power else ""


def line(reading: Reading) -> str:
    """Return a reading on a line of its own."""
    return f"{reading.witness} {reading.role}: {reading}"


def _broken(controls: Sequence[Reading]) -> list[Reading]:
    return [r for r in controls if not r.agrees]


def _lines(readings: Sequence[Reading]) -> list[str]:
    # The same reading may have been taken many times.
    lines = list(dict.fromkeys(f"{line(r)}{_remedy(r)}" for r in readings))
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"and {more} more, in evidence.json"] if more > 0 else [])]


def _remedy(reading: Reading) -> str:
    return f" ({reading.remedy})" if reading.remedy and not reading.agrees else ""
