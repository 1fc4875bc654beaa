"""Scales
======

Where values lie along the width of a figure, in per cent of it: a page is 400 pixels wide, or 1280.
"""

from typing import NamedTuple

from kvmtest.evidence.statements import events

__all__ = ["Scale", "scale_words"]


class Scale(NamedTuple):
    """A linear scale from ``low`` to ``high``."""

    low: float
    high: float

    def percent(self, value: float) -> float:
        """Return the place of a value, at an end if it lies beyond."""
        span = (self.high - self.low) or 1.0
        return round(100 * min(max((value - self.low) / span, 0.0), 1.0), 2)


def scale_words(value: float) -> str:
    """Return a value of a scale in words."""
    return events(value) if value else "0"
