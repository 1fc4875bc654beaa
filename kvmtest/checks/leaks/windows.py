"""Windows
=======

Windows as readings and samples, further quiet windows, and the arm of a window beside a toggler.
"""

from collections.abc import Iterable, Iterator, Sequence

from kvmtest.checks.context import Observations
from kvmtest.judge.baseline import Covariates
from kvmtest.judge.samples import Arm, Samples, Toggle, Window

from .watchers import Watchers, WindowAndGaps

__all__ = ["arm_under", "more_quiet", "record"]

#: Upper bound on the further quiet windows that show what a VM-exit costs.
MORE_QUIET = 24


def record(taken: Iterable[WindowAndGaps], samples: Samples) -> Observations:
    """Yield windows and their gaps as readings, and keep them."""
    for window, gaps in taken:
        yield window.reading(len(samples.windows))
        samples.windows.append(window)
        for gap in gaps:
            yield gap.reading(len(samples.gaps))
            samples.gaps.append(gap)


def more_quiet(
    watchers: Watchers, windows: Iterable[Window], length: float
) -> Iterator[WindowAndGaps]:
    """Take quiet windows until all quiet windows show what the VM-exits of ``windows`` cost.

    By chance, a timer's VM-exits may be in no quiet window so far. Quiet windows cost no SMI.
    """
    windows = list(windows)
    for _ in range(MORE_QUIET):
        quiet = [window for window in windows if window.arm is Arm.QUIET and not window.smis]
        if not quiet or all(map(Covariates(quiet).explain, windows)):
            return
        taken = watchers.take_windows(Arm.QUIET, length)
        windows += [window for window, _ in taken]
        yield from taken


def arm_under(toggles: Sequence[Toggle], window: Window) -> Arm:
    """Return the arm of a window with SMIs, by the knob's value after the ordered toggles.

    The arm is MIXED if the knob was written during the window, or its value is unknown.
    """
    arm = Arm.MIXED
    for toggle in toggles:
        if toggle.ended <= window.began:
            arm = Arm.KNOB_ON if toggle.value else Arm.KNOB_OFF
        elif toggle.began < window.ended:
            return Arm.MIXED
    return arm
