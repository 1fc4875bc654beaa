"""Toggles amid a window
=====================

Windows during which the knob was written: the knob's state at each SMI, and whether only the SMIs
with the knob off were counted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import NamedTuple

from .baseline import Baseline, Covariates
from .excess import SUM_UNSURE, Excess, expected_counts, quantile
from .samples import Arm, Gap, Samples, Toggle, Window

__all__ = ["ToggleExcess", "ToggledWindow", "toggle_excess", "toggled_windows"]

#: The smallest share of one state's SMIs whose wrong count is a fault.
PART = 0.2
#: Widens the interval: few handlers of very different lengths scatter more than Student's t allows.
SKEWED = 2.0


class ToggledWindow(NamedTuple):
    """A window with a toggle inside, and bounds on its SMIs with the knob off.

    ``begins`` is the knob's value at the window's begin.
    """

    window: Window
    begins: int
    off_least: int
    off_most: int

    @property
    def smis(self) -> int:
        """The window's SMIs, all in guest mode."""
        return self.window.smis


def toggled_windows(samples: Samples) -> list[ToggledWindow]:
    """Return the windows with a toggle inside whose every SMI is among the recorded gaps."""
    toggles = sorted(samples.toggles, key=lambda toggle: toggle.began)
    gaps: dict[int, list[Gap]] = {}
    for gap in sorted(samples.gaps, key=lambda gap: gap.began):
        gaps.setdefault(gap.vcpu, []).append(gap)
    found: list[ToggledWindow] = []
    for window in samples.windows:
        if window.arm is Arm.MIXED and window.smis and window.guest_smis == window.smis:
            of_vcpu = gaps.get(window.vcpu, [])
            first = bisect_left(of_vcpu, window.began, key=lambda gap: gap.began)
            last = bisect_left(of_vcpu, window.ended, key=lambda gap: gap.began)
            if last - first == window.gaps:
                found += _toggled_window(window, of_vcpu[first:last], toggles)
    return found


def _toggled_window(
    window: Window, gaps: Sequence[Gap], toggles: Sequence[Toggle]
) -> Iterable[ToggledWindow]:
    """Yield the window with its bounds, if they are known.

    A write that changes the knob interrupts every CPU and waits for them: one of the gaps that it
    overlaps is a VM-exit. Any other gap may be an SMI.
    """
    near = [_Widened(toggle) for toggle in toggles]
    begins = [each.began for each in near]
    at = bisect_right(begins, window.began)
    if not at or near[at - 1].ended > window.began:
        return  # The knob's state is unknown.
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
    yield ToggledWindow(window, begin, max(0, smis - on - unsure), min(smis, off + unsure))


class _Widened:
    """A write, widened by its length on both sides: guest and host time differ by a few ticks."""

    def __init__(self, toggle: Toggle) -> None:
        took = toggle.ended - toggle.began
        self.began, self.ended, self.value = toggle.began - took, toggle.ended + took, toggle.value


@dataclass(frozen=True, slots=True)
class ToggleExcess:
    """A counter's wrong gain in toggled windows, in events.

    ``on`` is the gain of SMIs with the knob on, ``off`` the gain that SMIs with the knob off lack.
    Both are ranges, as some SMIs may belong to either. ``on_due`` and ``off_due`` are the gain
    and the lack if every SMI were counted wrongly; ``half`` is the largest effect of noise.
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
        """Whether exactly the SMIs with the knob off are counted; None if that is unsure."""
        sides = ((*self.on, PART * self.on_due), (*self.off, PART * self.off_due))
        if any(least - self.half > limit for least, _, limit in sides):
            return False
        return True if all(most + self.half < limit for _, most, limit in sides) else None


def toggle_excess(
    name: str, quiet: Sequence[Window], toggled: Iterable[ToggledWindow], off: Excess
) -> ToggleExcess | None:
    """Return a counter's wrong gain in toggled windows; None if there is none to compare.

    The counter's gain without SMIs is known; ``off`` is the excess per SMI with the knob off.
    Windows where the knob's state at every SMI is known are preferred.
    """
    covariates = Covariates(list(quiet))
    toggled = [each for each in toggled if covariates.explain(each.window)]
    toggled = [each for each in toggled if each.off_least == each.off_most] or toggled
    expected = expected_counts(name, quiet, None)
    baseline = Baseline.fit(covariates, [w.counted[name] - expected(w) for w in quiet])
    if not baseline or not toggled:
        return None
    windows = [each.window for each in toggled]
    columns = covariates.of(windows)
    residuals = baseline.residuals([w.counted[name] - expected(w) for w in windows], columns)
    gained, per_smi = sum(residuals), off.mean
    smis = sum(each.smis for each in toggled)
    least, most = sum(each.off_least for each in toggled), sum(each.off_most for each in toggled)
    # The mean with the knob off is uncertain, and single handlers may be longer or shorter.
    handlers = SKEWED * off.half * hypot(most, sqrt(most * off.smis))
    noise = baseline.squares / baseline.freedom
    leverage = baseline.leverage(columns, len(toggled))
    scatter = quantile(baseline.freedom) * sqrt(noise * (len(toggled) + leverage))
    return ToggleExcess(
        len(toggled),
        smis,
        (gained - most * per_smi, gained - least * per_smi),
        (least * per_smi - gained, most * per_smi - gained),
        (smis - most) * per_smi,
        least * per_smi,
        max(hypot(handlers, scatter), SUM_UNSURE),
    )
