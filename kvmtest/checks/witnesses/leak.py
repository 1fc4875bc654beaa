"""The witness leak
================

Whether SMM is counted after what a property is about: windows of the leak walk, which vCPUs go
through once a run (:mod:`kvmtest.checks.leaks.walk`), judged for one step.
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
        """Return one over the run's walk, or what keeps it from looking.

        The preconditions of ``name`` are met.
        """
        return answer(context.machine, "guest-events") or cls(walked(context))

    def controls(self) -> Observations:
        """Show that SMIs come, and are counted, before the first step."""
        yield from self._walk.before

    def look(self, step: Step) -> Observations:
        """Yield the step's windows, those that it is held against, and what they say.

        Raises what ended the walk before the step was done.
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
    """Have the witness leak look at a step where it can; elsewhere other witnesses have to do.

    After the scene of a check is closed: the walk has guests, and CPUs, of its own.
    """
    if witness_lacks(context.machine, LeakWitness.name):
        return
    leak = LeakWitness.open(context)
    if isinstance(leak, Missing):
        yield Absence(LeakWitness.name, leak)
        return
    yield from leak.controls()
    yield from leak.look(step)
