"""The plan of a leak experiment
=============================

How many windows of each arm an experiment takes where SMIs are slow, and how long that lasts.
"""

from dataclasses import dataclass
from math import ceil, exp
from typing import Self

from kvmtest.judge.samples import Arm

__all__ = ["BY_ONES", "MOST_S", "Plan", "Windows"]

#: Upper bound on the time to a first verdict; a longer experiment is not begun.
MOST_S = 900.0
#: Time between two windows, for writing the knob and asking the guests.
BETWEEN_S = 0.03


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of ``window_s`` seconds, and how SMIs of a rate get into them.

    ``by_ones``: one SMI is triggered in each window, and the next is due after a pause. ``waited``:
    SMIs come by themselves, and can't be triggered or stopped.
    """

    window_s: float
    rate_hz: float
    by_ones: bool = False
    waited: bool = False

    @property
    def smis(self) -> float:
        """The mean of a window's SMIs."""
        return 1.0 if self.by_ones else self.window_s * self.rate_hz


@dataclass(frozen=True, slots=True)
class Plan:
    """The arms of a round, and the rounds of each stage; the judge is asked after each stage.

    The experiment ends at the first verdict. There are only two stages, because each judgement may
    err.
    """

    order: tuple[Arm, ...]
    stages: tuple[int, ...]

    @classmethod
    def of(cls, windows: Windows) -> Self:
        """Return the plan for such windows.

        There are more windows if SMIs come by themselves: some windows have none, and are quiet.
        """
        if not windows.waited:
            return cls(BY_ONES.order, BY_ONES.stages)
        chance = 1 - exp(-windows.smis)
        order = tuple(arm for arm in BY_ONES.order if arm is not Arm.QUIET)
        return cls(order, tuple(ceil(rounds / chance) for rounds in BY_ONES.stages))

    @property
    def noisy(self) -> int:
        """How many windows of a round are to have SMIs."""
        return sum(arm is not Arm.QUIET for arm in self.order)

    def smis(self, windows: Windows) -> tuple[int, ...]:
        """Return about how many SMIs there are after each stage."""
        return tuple(round(self.noisy * windows.smis * rounds) for rounds in self._rounds)

    def seconds(self, windows: Windows) -> tuple[float, ...]:
        """Return about how long the experiment lasts to the end of each stage."""
        a_round_s = len(self.order) * (windows.window_s + BETWEEN_S)
        if windows.by_ones:
            # Quiet windows are taken while the next SMI has to be waited for.
            a_round_s = max(a_round_s, self.noisy / windows.rate_hz)
        return tuple(a_round_s * rounds for rounds in self._rounds)

    @property
    def _rounds(self) -> list[int]:
        return [sum(self.stages[:at]) for at in range(1, len(self.stages) + 1)]


#: With one SMI in each window that has any. A strong control needs few of them; a leak that is not
#: in every window is met in the more windows with the knob on. Thirty SMIs decide where what they
#: count is well above noise, and three times as many mostly where it is not.
BY_ONES = Plan((Arm.QUIET, Arm.KNOB_OFF, Arm.QUIET, Arm.KNOB_ON, Arm.QUIET, Arm.KNOB_ON), (10, 20))
