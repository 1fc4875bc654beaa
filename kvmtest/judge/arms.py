"""Arms
====

The windows of the leak experiment by what they can be used for, and the time that guests ran in
them.
"""

from bisect import bisect_left
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from .samples import Arm, Gap, Window

__all__ = ["Arms", "Key", "key", "ran", "smis_of", "sure"]

#: So many windows of an arm are enough where all of its SMIs came in guest mode.
SURE = 6
#: What tells a window from the others of its experiment: vCPU and start.
Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Arms:
    """Windows by their use.

    ``quiet`` have no SMI. ``control`` and ``treatment`` have SMIs in guest mode, in a known number.
    ``bounds`` are treatment windows with SMIs of which nobody knows how many came in guest mode.
    ``unheard`` says how many treatment windows had to be left out.
    """

    quiet: list[Window]
    control: list[Window]
    treatment: list[Window]
    bounds: list[Window]
    unheard: int = 0

    @classmethod
    def of(cls, windows: Iterable[Window]) -> Self:
        """Sort the windows; those with a toggle in them, or without the SMIs of their arm, go.

        Where enough windows are sure, whose SMIs all came in guest mode by their gaps, the arms are
        of these: two VM-exits in one gap hide an SMI.
        """
        arms = cls([], [], [], [])
        for window in windows:
            arm, in_guest = window.arm, window.guest_smis
            if arm is Arm.QUIET:
                if not window.smis:
                    arms.quiet.append(window)
            elif arm is Arm.TREATMENT:
                if window.smis:
                    (arms.treatment if in_guest else arms.bounds).append(window)
            elif arm is Arm.CONTROL and in_guest:
                arms.control.append(window)
        control, treatment = sure(arms.control), sure(arms.treatment)
        if min(len(control), len(treatment)) < SURE:
            return arms
        unsure = [window for window in arms.treatment if window not in treatment]
        return cls(arms.quiet, control, treatment, arms.bounds + unsure)

    def only(self, keys: Container[Key]) -> "Arms":
        """Return the windows that ``keys`` names."""
        lists = (self.quiet, self.control, self.treatment, self.bounds)
        quiet, control, treatment, bounds = ([w for w in ws if key(w) in keys] for ws in lists)
        left = len(treatment) + len(bounds)
        unheard = len(self.treatment) + len(self.bounds) - left
        return Arms(quiet, control, treatment, bounds, unheard)


def sure(windows: Iterable[Window]) -> list[Window]:
    """Return those whose SMIs all came in guest mode by their gaps."""
    return [window for window in windows if window.guest_smis == window.smis]


def key(window: Window) -> Key:
    """Return what tells the window from others."""
    return window.vcpu, window.began


def smis_of(windows: Iterable[Window]) -> list[int]:
    """Return how many SMIs came in guest mode, or may have come where that is not known."""
    return [window.guest_smis or window.smis for window in windows]


def ran(windows: Iterable[Window], gaps: Sequence[Gap]) -> dict[Key, float]:
    """Return for how many ticks the guest ran in each window, where all of its gaps are recorded.

    A counter of guest mode stands still in them, unless it counts SMM.
    """
    begins: dict[int, list[int]] = {}
    lengths: dict[int, list[int]] = {}
    for gap in sorted(gaps, key=lambda gap: gap.began):
        begins.setdefault(gap.vcpu, []).append(gap.began)
        lengths.setdefault(gap.vcpu, []).append(gap.ended - gap.began)
    ticks = {}
    for window in windows:
        begun = begins.get(window.vcpu, [])
        first, last = bisect_left(begun, window.began), bisect_left(begun, window.ended)
        lost = sum(lengths.get(window.vcpu, [])[first:last])
        left = window.ended - window.began - lost
        if last - first == window.gaps and left > 0:
            ticks[key(window)] = float(left)
    return ticks
