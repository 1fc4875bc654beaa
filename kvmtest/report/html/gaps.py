"""Gaps in the guest's time
========================

The gaps of an experiment by their cause, and the bars of their lengths.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, floor, log10
from statistics import median
from typing import NamedTuple

from kvmtest.judge.samples import Gap, Samples, Window

__all__ = ["Bar", "Gaps", "Kind", "gaps_of"]

#: Pixels: the tallest bar.
HEIGHT = 80
_BINS_PER_DECADE = 10


class Kind(StrEnum):
    """The cause of a gap."""

    SMI = "smi"
    EITHER = "either"
    EXIT = "exit"


_KINDS = {Kind.SMI: "SMIs", Kind.EITHER: "SMIs or VM-exits", Kind.EXIT: "VM-exits"}


class Bar(NamedTuple):
    """Gaps of about one length, one kind above the other."""

    x: float
    width: float
    y: float
    height: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Gaps:
    """The gaps within an experiment's windows.

    ``begins`` are the times of each kind. ``words`` counts them. ``shortest`` and ``longest`` are
    the ends of the bars' scale, which is logarithmic.
    """

    begins: Mapping[Kind, Sequence[int]]
    words: str
    bars: Sequence[Bar]
    shortest: str
    longest: str
    height: int = HEIGHT


def gaps_of(samples: Samples) -> Gaps:
    """Return an experiment's gaps; gaps outside of windows are left out."""
    by_cause = _by_cause(samples)
    lengths = {
        kind: [max(gap.ended - gap.began, 1) for gap in gaps] for kind, gaps in by_cause.items()
    }
    words = (
        f"{len(each)} {_KINDS[kind]}, median {median(each):,.0f} ticks"
        for kind, each in lengths.items()
        if each
    )
    return Gaps(
        {kind: [gap.began for gap in gaps] for kind, gaps in by_cause.items()},
        "; ".join(words),
        *_bars(lengths),
    )


def _by_cause(samples: Samples) -> dict[Kind, list[Gap]]:
    """Return the gaps within windows by their cause.

    The cause is known in windows without VM-exits or without SMIs; elsewhere it may be either.
    """
    gaps: dict[Kind, list[Gap]] = {kind: [] for kind in Kind}
    windows: dict[int, list[Window]] = {}
    for window in sorted(samples.windows, key=lambda window: window.began):
        windows.setdefault(window.vcpu, []).append(window)
    begins = {vcpu: [window.began for window in each] for vcpu, each in windows.items()}
    for gap in samples.gaps:
        at = bisect_right(begins.get(gap.vcpu, []), gap.began) - 1
        if at >= 0 and gap.began < (window := windows[gap.vcpu][at]).ended:
            is_smi = window.guest_smis == window.gaps
            gaps[Kind.SMI if is_smi else Kind.EITHER if window.smis else Kind.EXIT].append(gap)
    return gaps


def _bars(lengths: Mapping[Kind, Sequence[int]]) -> tuple[list[Bar], str, str]:
    """Return a bar for each kind and length, and the ends of their scale."""
    bins = {kind: Counter(map(_bin, each)) for kind, each in lengths.items()}
    taken = sorted({at for counts in bins.values() for at in counts})
    if not taken:
        return [], "", ""
    first, last = taken[0] - 1, taken[-1] + 2
    width = 100 / (last - first)
    pixels = HEIGHT / max(sum(counts[at] for counts in bins.values()) for at in taken)
    bars = []
    for at in taken:
        top = float(HEIGHT)
        for kind, counts in bins.items():
            if counts[at]:
                height = counts[at] * pixels
                top -= height
                x = (at - first) * width
                bars.append(
                    Bar(round(x, 2), round(width, 2), round(top, 1), round(height, 1), kind)
                )
    shortest, longest = (f"{ceil(10 ** (at / _BINS_PER_DECADE)):,}" for at in (first, last))
    return bars, shortest, longest


def _bin(length: int) -> int:
    return floor(log10(length) * _BINS_PER_DECADE)
