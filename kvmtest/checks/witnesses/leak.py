"""The witness leak
================

Sees whether SMM is counted after a property's step of the leak walk, which vCPUs perform once a run
(:mod:`kvmtest.checks.leaks.walk`).
"""

from typing import ClassVar, Self

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.experiment import disturbance
from kvmtest.checks.leaks.walk import REFERENCE, Step, Walk, walked
from kvmtest.checks.leaks.watchers import Disturbed
from kvmtest.checks.preconditions import answer, witness_lacks
from kvmtest.judge import Absence
from kvmtest.judge.leak import conclude
from kvmtest.missing import Missing

__all__ = ["LeakWitness", "look_for_leaks"]


class LeakWitness:
    """Looks at a step of the run's walk."""

    name: ClassVar[str] = "leak"

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    @classmethod
    def open(cls, context: Context) -> "Self | Missing":
        """Return a witness of the run's walk, or what keeps it from looking.

        The preconditions of ``name`` are met.
        """
        return answer(context.machine, "guest-events") or cls(walked(context))

    def controls(self) -> Observations:
        """Show that SMIs come, and are counted, before the first step."""
        yield from self._walk.before

    def look(self, step: Step) -> Observations:
        """Yield the step's windows, the reference windows, and the claims that follow from them.

        Raises the error that ended the walk before this step was done.
        """
        walk = self._walk
        if walk.has(step):
            for each in (REFERENCE[step], step):
                yield from walk.readings[each]
            samples = walk.samples(step)
            yield from (toggle.reading(at) for at, toggle in enumerate(samples.toggles))
            yield from (window.reading(at) for at, window in enumerate(samples.windows))
            yield from conclude(samples)
        elif isinstance(walk.error, Disturbed):
            # Noise, of which another run may be free: no precondition is missing.
            yield disturbance(walk.error)
            yield Absence("leak", Missing(str(walk.error)))
        elif walk.error:
            raise walk.error


def look_for_leaks(context: Context, step: Step) -> Observations:
    """Have the witness leak look at a step, if it can look on this machine.

    Call this after the check's scene is closed: the walk has its own guests and CPUs.
    """
    if witness_lacks(context.machine, LeakWitness.name):
        return
    leak = LeakWitness.open(context)
    if isinstance(leak, Missing):
        yield Absence(LeakWitness.name, leak)
        return
    yield from leak.controls()
    yield from leak.look(step)
