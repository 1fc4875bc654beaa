"""Schedules
=========

vmx.entry.schedules: whatever the order of toggles and entries, the next entry carries the host's
bit.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.preconditions import answer
from kvmtest.checks.schedules.enumeration import alphabet, enumerated
from kvmtest.checks.schedules.stage import used_cpus
from kvmtest.host.facts.hotplug import Bound, removable
from kvmtest.host.machine import Machine
from kvmtest.interleave.schedule import Does

__all__ = ["schedules"]

#: The steps of the longest schedules in which a CPU goes offline, which takes long.
WITH_HOTPLUG = 3


def schedules(context: Context) -> Observations:
    """Play all schedules up to a length on two vCPUs, each from new vCPUs and the knob on.

    Then play those in which a CPU goes offline and comes back, where that is permitted.
    """
    steps = alphabet(context)
    yield from enumerated(context, steps)
    if _may_unplug(context.machine):
        yield from enumerated(context, steps | {Does.UNPLUG}, Does.UNPLUG, WITH_HOTPLUG)


def _may_unplug(machine: Machine) -> bool:
    if answer(machine, "cpu-hotplug") is not None:
        return False
    *_, cpu = used_cpus()
    return cpu in removable(machine.tree) and not Bound.of(machine.tree).alone_on(cpu)
