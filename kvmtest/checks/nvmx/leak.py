"""Leaks while L2 runs
===================

nvmx.leak.l2: host events that count guest mode, while SMIs come in L2.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.counters import with_host_counters
from kvmtest.checks.leaks.experiment import Procedure, experiment, noise_as_control
from kvmtest.checks.leaks.procedures import interleaved_and_toggled, stages_and_toggled
from kvmtest.checks.stimuli.nesting import relaunched_l2

__all__ = ["l2"]


def l2(context: Context) -> Observations:
    """Count L2 by perf events of the host."""
    procedure = Procedure(interleaved_and_toggled, stages_and_toggled)
    yield from noise_as_control(experiment(context, with_host_counters, procedure, relaunched_l2))
