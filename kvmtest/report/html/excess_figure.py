"""The figure of a run
===================

Events counted per SMI, a row a property, with freeze off and on, on one scale: from the evidence
alone. The template draws it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvmtest.evidence import Result
from kvmtest.evidence.statements import PerSmi, SmmCount, events, statements

from .scale import Scale, scale_words

__all__ = ["ExcessFigure", "ExcessRow", "Mark", "excess_figure"]

#: No counter counts so much: they have 48 bits.
_MOST = 1e18


@dataclass(frozen=True, slots=True)
class Mark:
    """A mean with its interval, at its place and in words."""

    at: float
    low: float
    high: float
    words: str
    half: str

    def __str__(self) -> str:
        return f"{self.words} ±{self.half}"


@dataclass(frozen=True, slots=True)
class ExcessRow:
    """Events per SMI of one property, with freeze off and on; None where nothing was counted."""

    result: Result
    state: str
    off: Mark | None
    on: Mark | None
    holds: bool | None


@dataclass(frozen=True, slots=True)
class ExcessFigure:
    """The rows, the scale that they share, and the counters in them."""

    rows: Sequence[ExcessRow]
    least: str
    most: str
    counters: Sequence[str]


def excess_figure(results: Iterable[Result]) -> ExcessFigure | None:
    """Return the figure of all results whose counters counted SMM with freeze off; None for none.

    A row is the excess that decided the property.
    """
    found = [
        (result, excess)
        for result in results
        for statement in statements(result)
        if (excess := statement.worst) is not None and _counts_smm(excess)
    ]
    if not found:
        return None
    counts = [count for _, excess in found for count in _sides(excess) if count]
    scale = Scale(
        min(0.0, *(count.mean for count in counts)),
        max(count.mean for count in counts),
    )
    rows = []
    for result, excess in found:
        off, on = (_mark(scale, count, excess.reference.mean) for count in _sides(excess))
        rows.append(ExcessRow(result, excess.state, off, on, excess.holds))
    names = dict.fromkeys(excess.counter for _, excess in found)
    return ExcessFigure(rows, scale_words(scale.low), scale_words(scale.high), list(names))


def _sides(excess: SmmCount) -> tuple[PerSmi | None, PerSmi | None]:
    return excess.off or excess.reference, excess.on


def _counts_smm(excess: SmmCount) -> bool:
    counts = [excess.reference, excess.off or excess.reference, excess.on or excess.reference]
    are_counts = all(max(abs(each.mean), abs(each.half)) < _MOST for each in counts)
    return are_counts and excess.reference.mean > excess.reference.half >= 0


def _mark(scale: Scale, count: PerSmi | None, whole: float) -> Mark | None:
    if count is None:
        return None
    low, high = scale.percent(count.mean - count.half), scale.percent(count.mean + count.half)
    words = events(count.mean, whole)
    return Mark(scale.percent(count.mean), low, high, words, f"{count.half:.2g}")
