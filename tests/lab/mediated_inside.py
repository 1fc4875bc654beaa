"""Runs inside the lab's Intel machine, where KVM's PMU is mediated: who keeps whom from what.

A VM without a PMU is in nobody's way, and nobody in its way.
"""

import errno
import sys
from contextlib import ExitStack

sys.path.insert(0, "/package")

from kvmtest.host.tree import Tree
from kvmtest.kvm import KvmError, System, Vm
from kvmtest.pmu import CounterError, CounterGroup, find_event

TREE = Tree()
COUNTS_GUESTS, COUNTS_NONE = "cpu/instructions/G", "cpu/instructions/H"


def vm(system: System, stack: ExitStack, *, pmu: bool) -> Vm:
    """Return a VM whose guests' local APICs are in the kernel, as KVM wants it for such a PMU."""
    made = stack.enter_context(system.create_vm(pmu=pmu))
    made.create_irqchip()
    return made


def opened(name: str) -> CounterGroup:
    return CounterGroup(TREE, [find_event(TREE, name)])


def beside_an_event(system: System) -> None:
    """While somebody counts guests, only a VM with a PMU is refused a vCPU."""
    with ExitStack() as stack:
        stack.callback(opened(COUNTS_GUESTS).close)
        vm(system, stack, pmu=False).create_vcpu()
        try:
            vm(system, stack, pmu=True).create_vcpu()
        except KvmError as error:
            if error.errno != errno.EBUSY or "nmi_watchdog" not in str(error):
                sys.exit(f"refused otherwise: {error}")
        else:
            sys.exit("a VM got a mediated PMU while an event that counts guests was open")


def beside_a_vm(system: System) -> None:
    """While a VM has a PMU, only an event that counts guests is refused."""
    with ExitStack() as stack:
        vm(system, stack, pmu=False).create_vcpu()
        opened(COUNTS_GUESTS).close()
        vm(system, stack, pmu=True).create_vcpu()
        opened(COUNTS_NONE).close()
        try:
            opened(COUNTS_GUESTS).close()
        except CounterError as error:
            if "a VM with a mediated PMU is running" not in str(error):
                sys.exit(f"refused otherwise: {error}")
        else:
            sys.exit("an event that counts guests was opened beside a mediated PMU")


with System() as system:
    beside_an_event(system)
    beside_a_vm(system)
