"""Leaks while L2 runs
===================

nvmx.leak.l2: what host events that count guest mode count while SMIs come in L2.
"""

from kvmtest.checks.context import Context
from kvmtest.checks.leaks.arms import interleaved_and_toggled, stages_and_toggled
from kvmtest.checks.leaks.windows import Body, experiment, tell_noise, with_host_counters
from kvmtest.checks.scene import Observations
from kvmtest.guests import Guest
from kvmtest.guests.nested import NestedGuest

__all__ = ["l2"]


def l2(context: Context) -> Observations:
    """Count L2 by perf events of the host."""
    body = Body(interleaved_and_toggled, stages_and_toggled)
    yield from tell_noise(experiment(context, with_host_counters, body, L2))


class L2:
    """A renewal: L1 runs, so that it sees each toggle first, and enters L2 anew."""

    does = "L1 launched L2"

    def __init__(self, guest: Guest) -> None:
        self._nested = NestedGuest(guest)
        self._nested.enter()

    def renew(self) -> bool:
        """Do it; tell whether L2 runs now."""
        self._nested.leave()
        self._nested.enter()
        return self._nested.is_in_l2
