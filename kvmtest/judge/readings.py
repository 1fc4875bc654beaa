"""Readings
========

What a check hands to the judge: readings by witnesses, and the absence of a witness.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kvmtest.missing import Missing

__all__ = ["Absence", "Reading", "Role", "Scalar", "Verdict", "claim", "control", "measure"]

Scalar = bool | int | float | str | None


class Verdict(StrEnum):
    """The verdict on a property; docs/verdicts.md has the rules."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    SKIP = "SKIP"
    ERROR = "ERROR"
    MEASURED = "MEASURED"


class Role(StrEnum):
    """A reading's part in the verdict."""

    CLAIM = "claim"
    CONTROL = "control"
    MEASURE = "measure"
    SAMPLE = "sample"  # statistics derive claims and controls from it


@dataclass(frozen=True, slots=True)
class Reading:
    """One raw observation by a witness, with its expectation.

    ``what`` names the thing observed, e.g. "guest RDMSR 0x1d9, bit 14". ``time`` is seconds since
    the epoch. ``raw`` lets a reader check the observation (the whole MSR, a log line).
    ``remedy`` says what would make a control hold.
    """

    witness: str
    role: Role
    what: str
    observed: Scalar
    expected: Scalar
    time: float = field(default_factory=time.time)
    raw: Mapping[str, Scalar] = field(default_factory=dict)
    remedy: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the observation is the expected one; a bool never equals a number."""
        same_kind = isinstance(self.observed, bool) == isinstance(self.expected, bool)
        return same_kind and self.observed == self.expected

    def __str__(self) -> str:
        agrees = self.agrees or self.role in (Role.MEASURE, Role.SAMPLE)
        relation = "" if agrees else f", expected {_word(self.expected)}"
        return f"{self.what}: {_word(self.observed)}{relation}"


@dataclass(frozen=True, slots=True)
class Absence:
    """A witness that could not look, and why."""

    witness: str
    missing: Missing


def claim(witness: str, what: str, observed: Scalar, expected: Scalar, **raw: Scalar) -> Reading:
    """Return a reading that speaks for or against the property's claim."""
    return Reading(witness, Role.CLAIM, what, observed, expected, raw=raw)


def control(
    witness: str, what: str, observed: Scalar, expected: Scalar, remedy: str, **raw: Scalar
) -> Reading:
    """Return a reading that must agree; otherwise the witness proves nothing."""
    return Reading(witness, Role.CONTROL, what, observed, expected, raw=raw, remedy=remedy)


def measure(witness: str, what: str, observed: Scalar, **raw: Scalar) -> Reading:
    """Return a figure with no claim."""
    return Reading(witness, Role.MEASURE, what, observed, None, raw=raw)


def _word(value: Scalar) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nothing" if value is None else str(value)
