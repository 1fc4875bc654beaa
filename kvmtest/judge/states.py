"""States
======

Windows whose vCPUs went through different things, each held against windows with the knob off that
show what an SMI counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .arms import Arms, Key, all_in_guest_mode
from .excess import WINDOWS, View, views
from .samples import Arm, Window

__all__ = ["REFERENCE", "Group", "excess_of", "groups"]


class Group(NamedTuple):
    """Windows with SMIs, all with the knob on or all with it off, after the same events."""

    arm: Arm
    state: str

    @property
    def is_on(self) -> bool:
        """Whether the knob is on."""
        return self.arm is Arm.KNOB_ON

    def __str__(self) -> str:
        return f"{self.state} with the knob {'on' if self.is_on else 'off'}".strip()


#: What the others are held against.
REFERENCE = Group(Arm.KNOB_OFF, "")


def groups(windows: Iterable[Window]) -> dict[Group, list[Window]]:
    """Return the windows with SMIs by their group, in the order of their first windows."""
    found: dict[Group, list[Window]] = {}
    for window in windows:
        if window.arm in (Arm.KNOB_OFF, Arm.KNOB_ON):
            found.setdefault(Group(window.arm, window.state), []).append(window)
    return found


def excess_of(
    names: Iterable[str],
    quiet: Sequence[Window],
    reference: Sequence[Window],
    group: Sequence[Window],
    ticks: Mapping[Key, float] | None = None,
) -> dict[str, View]:
    """Return what counters show of a group, against the reference with the knob off.

    They are few: with the knob off already four whose SMIs all came in guest mode do without the
    others. With it on an SMI that a window hides makes it look like more of a leak, not less.
    """
    is_off = all(window.arm is Arm.KNOB_OFF for window in group)
    treated = [replace(window, arm=Arm.KNOB_ON) for window in (_shown(group) if is_off else group)]
    arms = Arms.of([*quiet, *_shown(reference), *treated])
    return views(names, arms if ticks is None else arms.only(ticks), ticks)


def _shown(windows: Sequence[Window]) -> Sequence[Window]:
    """Return the windows that show every SMI, or all where these are too few."""
    shown = all_in_guest_mode(windows)
    return shown if len(shown) >= WINDOWS else windows
