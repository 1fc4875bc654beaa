"""States
======

Windows grouped by their vCPU's history, each group compared to windows with the knob off, which
show an SMI's count.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .arms import Arms, Key, all_in_guest_mode
from .excess import WINDOWS, CounterExcess, excess_by_counter
from .samples import Arm, Window

__all__ = ["REFERENCE", "WindowGroup", "excess_of", "groups"]


class WindowGroup(NamedTuple):
    """Windows with SMIs, all with the knob on or all with it off, after the same events."""

    arm: Arm
    state: str

    @property
    def is_on(self) -> bool:
        """Whether the knob is on."""
        return self.arm is Arm.KNOB_ON

    def __str__(self) -> str:
        return f"{self.state} with the knob {'on' if self.is_on else 'off'}".strip()


#: The group that all others are compared to.
REFERENCE = WindowGroup(Arm.KNOB_OFF, "")


def groups(windows: Iterable[Window]) -> dict[WindowGroup, list[Window]]:
    """Return the windows with SMIs by group, in the order of each group's first window."""
    found: dict[WindowGroup, list[Window]] = {}
    for window in windows:
        if window.arm in (Arm.KNOB_OFF, Arm.KNOB_ON):
            found.setdefault(WindowGroup(window.arm, window.state), []).append(window)
    return found


def excess_of(
    names: Iterable[str],
    quiet: Sequence[Window],
    reference: Sequence[Window],
    group: Sequence[Window],
    ticks: Mapping[Key, float] | None = None,
) -> dict[str, CounterExcess]:
    """Return a group's excess by counter, against the reference with the knob off.

    Windows are few: with the knob off, four whose SMIs all came in guest mode suffice. With the
    knob on, an SMI that a window hides makes a leak look larger, not smaller.
    """
    is_off = all(window.arm is Arm.KNOB_OFF for window in group)
    treated = [replace(window, arm=Arm.KNOB_ON) for window in (_shown(group) if is_off else group)]
    arms = Arms.of([*quiet, *_shown(reference), *treated])
    return excess_by_counter(names, arms if ticks is None else arms.only(ticks), ticks)


def _shown(windows: Sequence[Window]) -> Sequence[Window]:
    """Return the windows that show every SMI; all windows if those are too few."""
    shown = all_in_guest_mode(windows)
    return shown if len(shown) >= WINDOWS else windows
