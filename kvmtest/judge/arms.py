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

__all__ = ["Arms", "Key", "all_in_guest_mode", "smis_of", "ticks_run", "window_key"]

#: An arm needs no other windows if this many have all their SMIs in guest mode.
SURE = 6
#: Identifies a window within its experiment: vCPU and start.
Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Arms:
    """Windows by their use.

    ``quiet`` have no SMI. ``off`` and ``on`` were taken with the knob off and on, and have a known
    number of SMIs in guest mode. ``bounds`` have the knob on and an unknown number of SMIs in guest
    mode. ``left_out`` counts the unusable windows with the knob on.
    """

    quiet: list[Window]
    off: list[Window]
    on: list[Window]
    bounds: list[Window]
    left_out: int = 0

    @classmethod
    def of(cls, windows: Iterable[Window]) -> Self:
        """Sort the windows; drop those with a toggle or without the SMIs of their arm.

        If the gaps of enough windows show all SMIs in guest mode, the other windows are bounds:
        two VM-exits in one gap hide an SMI.
        """
        arms = cls([], [], [], [])
        for window in windows:
            arm, in_guest = window.arm, window.guest_smis
            if arm is Arm.QUIET:
                if not window.smis:
                    arms.quiet.append(window)
            elif arm is Arm.KNOB_ON:
                if window.smis:
                    (arms.on if in_guest else arms.bounds).append(window)
            elif arm is Arm.KNOB_OFF and in_guest:
                arms.off.append(window)
        off, on = all_in_guest_mode(arms.off), all_in_guest_mode(arms.on)
        if min(len(off), len(on)) < SURE:
            return arms
        unsure = [window for window in arms.on if window not in on]
        return cls(arms.quiet, off, on, arms.bounds + unsure)

    def only(self, keys: Container[Key]) -> "Arms":
        """Return the windows that ``keys`` names."""
        lists = (self.quiet, self.off, self.on, self.bounds)
        quiet, off, on, bounds = ([w for w in ws if window_key(w) in keys] for ws in lists)
        left = len(on) + len(bounds)
        left_out = len(self.on) + len(self.bounds) - left
        return Arms(quiet, off, on, bounds, left_out)


def all_in_guest_mode(windows: Iterable[Window]) -> list[Window]:
    """Return the windows whose SMIs all came in guest mode, by their gaps."""
    return [window for window in windows if window.guest_smis == window.smis]


def window_key(window: Window) -> Key:
    """Return the window's key."""
    return window.vcpu, window.began


def smis_of(windows: Iterable[Window]) -> list[int]:
    """Return each window's SMIs in guest mode; all its SMIs where that number is unknown."""
    return [window.guest_smis or window.smis for window in windows]


def ticks_run(windows: Iterable[Window], gaps: Sequence[Gap]) -> dict[Key, float]:
    """Return the ticks that the guest ran in each window whose gaps are all recorded.

    A counter of guest mode stands still during a gap, unless it counts SMM.
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
            ticks[window_key(window)] = float(left)
    return ticks
