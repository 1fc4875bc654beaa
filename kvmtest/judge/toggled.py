"""Toggles amid a window
=====================

Windows that the knob was written in: each SMI by the knob's state at its time, and whether those
with the knob on were counted, and those with it off not.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import NamedTuple

from .baseline import Baseline, Covariates
from .excess import SUM_UNSURE, Excess, expected_counts, quantile
from .samples import Arm, Gap, Samples, Toggle, Window

__all__ = ["Followed", "Split", "followed", "splits"]

#: So much of what the SMIs under one state of the knob would count is a fault.
PART = 0.2
#: A few handlers of very different lengths are farther from their mean than Student's t knows.
SKEWED = 2.0


class Split(NamedTuple):
    """A window and how many of its SMIs came with the knob off: at least, at most.

    ``begins`` is the knob's value at the window's begin.
    """

    window: Window
    begins: int
    off_least: int
    off_most: int

    @property
    def smis(self) -> int:
        """All of its SMIs, which came in guest mode."""
        return self.window.smis


def splits(samples: Samples) -> list[Split]:
    """Return the windows that were toggled amid, where every SMI is among the gaps recorded."""
    toggles = sorted(samples.toggles, key=lambda toggle: toggle.began)
    gaps: dict[int, list[Gap]] = {}
    for gap in sorted(samples.gaps, key=lambda gap: gap.began):
        gaps.setdefault(gap.vcpu, []).append(gap)
    found: list[Split] = []
    for window in samples.windows:
        if window.arm is Arm.MIXED and window.smis and window.guest_smis == window.smis:
            of_vcpu = gaps.get(window.vcpu, [])
            first = bisect_left(of_vcpu, window.began, key=lambda gap: gap.began)
            last = bisect_left(of_vcpu, window.ended, key=lambda gap: gap.began)
            if last - first == window.gaps:
                found += _split(window, of_vcpu[first:last], toggles)
    return found


def _split(window: Window, gaps: Sequence[Gap], toggles: Sequence[Toggle]) -> Iterable[Split]:
    """Yield the window's split, if it is known.

    A write that changes the knob interrupts every CPU and waits for that: one of the gaps it
    overlaps is a VM-exit. Of other gaps nobody knows which are SMIs.
    """
    near = [_Near(toggle) for toggle in toggles]
    begins = [each.began for each in near]
    at = bisect_right(begins, window.began)
    if not at or near[at - 1].ended > window.began:
        return  # Nobody knows the knob's state.
    begin = near[at - 1].value
    certain = {0: 0, 1: 0}
    met: set[int] = set()
    unsure = 0
    for gap in gaps:
        at = bisect_right(begins, gap.ended)
        if near[at - 1].ended > gap.began:
            unsure += 1
            met |= {n for n in range(at) if near[n].ended > gap.began}
        else:
            certain[near[at - 1].value] += 1
    unsure -= len(met)
    if unsure < 0 or len(met) > window.exits:
        return
    on, off, smis = certain[1], certain[0], window.smis
    yield Split(window, begin, max(0, smis - on - unsure), min(smis, off + unsure))


class _Near:
    """A write and as long before and after it: a guest's time is not the host's to the tick."""

    def __init__(self, toggle: Toggle) -> None:
        took = toggle.ended - toggle.began
        self.began, self.ended, self.value = toggle.began - took, toggle.ended + took, toggle.value


@dataclass(frozen=True, slots=True)
class Followed:
    """What a counter gained in toggled windows above what it should have, in events.

    ``on`` is what SMIs with the knob on gained, ``off`` what those with it off lack: each from so
    much to so much, as some SMIs may be either's. ``on_due`` and ``off_due`` are what would have
    been gained and lacked, were all of them a fault; ``half`` is how far noise may reach.
    """

    windows: int
    smis: int
    on: tuple[float, float]
    off: tuple[float, float]
    on_due: float
    off_due: float
    half: float

    @property
    def follows(self) -> bool | None:
        """Whether just the SMIs with the knob off are counted; None where that is not sure."""
        sides = ((*self.on, PART * self.on_due), (*self.off, PART * self.off_due))
        if any(least - self.half > limit for least, _, limit in sides):
            return False
        return True if all(most + self.half < limit for _, most, limit in sides) else None


def followed(
    name: str, quiet: Sequence[Window], parts: Iterable[Split], off: Excess
) -> Followed | None:
    """Return what a counter shows in toggled windows; None where there are none to compare.

    What it should count without SMIs is known; ``off`` is what an SMI counts with the knob off.
    Where there are windows whose every SMI is known to be the one or the other's, these are taken.
    """
    covariates = Covariates(list(quiet))
    parts = [part for part in parts if covariates.explain(part.window)]
    parts = [part for part in parts if part.off_least == part.off_most] or parts
    expected = expected_counts(name, quiet, None)
    baseline = Baseline.fit(covariates, [w.counted[name] - expected(w) for w in quiet])
    if not baseline or not parts:
        return None
    windows = [part.window for part in parts]
    columns = covariates.of(windows)
    rests = baseline.rests([w.counted[name] - expected(w) for w in windows], columns)
    gained, per_smi = sum(rests), off.mean
    smis = sum(part.smis for part in parts)
    least, most = sum(part.off_least for part in parts), sum(part.off_most for part in parts)
    # The mean with the knob off is uncertain, and a few handlers may be longer or shorter than it.
    handlers = SKEWED * off.half * hypot(most, sqrt(most * off.smis))
    noise = baseline.squares / baseline.freedom
    leverage = baseline.leverage(columns, len(parts))
    scatter = quantile(baseline.freedom) * sqrt(noise * (len(parts) + leverage))
    return Followed(
        len(parts),
        smis,
        (gained - most * per_smi, gained - least * per_smi),
        (least * per_smi - gained, most * per_smi - gained),
        (smis - most) * per_smi,
        least * per_smi,
        max(hypot(handlers, scatter), SUM_UNSURE),
    )
