"""Runs inside the lab's Intel machine: SMIs counted in two ways, which must agree.

By MSR 0x34 and by perf's ``msr/smi/``. And a guest's own counters, which it has only if its VM was
asked for a PMU.
"""

import sys
import time

sys.path.insert(0, "/package")

from kvmtest.guests import commands, guest_memory, long_guest
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.kvm import System
from kvmtest.missing import Missing
from kvmtest.pmu import find_event
from kvmtest.smi import Periodic, choose, counts
from kvmtest.smi.counts import MsrSmiCount, PerfSmiCount, event_name

SMIS, RATE_HZ = 10, 200.0


def by_perf(machine: Machine) -> None:
    """Have perf and the MSR count the same SMIs, and as many as were raised."""
    source, msr, name = choose(machine, "lab"), counts(machine), event_name(machine)
    if not isinstance(source, Periodic) or not isinstance(msr, MsrSmiCount):
        sys.exit(f"nothing to raise and count SMIs with: {source}, {msr}")
    if isinstance(name, Missing):
        sys.exit(f"no event for SMIs: {name}")
    perf = PerfSmiCount(machine.tree, find_event(machine.tree, name), msr.cpus)
    before = msr.read(0), perf.read(0)
    with source.raising(RATE_HZ, outside_guests=True) as raising:
        time.sleep(SMIS / RATE_HZ)
    after = msr.read(0), perf.read(0)
    perf.close()
    increase = msr.increase(before[0], after[0]), perf.increase(before[1], after[1])
    if not raising.raised or increase != (raising.raised,) * 2:
        sys.exit(f"raised {raising.raised}; {msr.name} and {name} counted {increase}")


def by_guests() -> None:
    """Have guests with a PMU and without read a counter by RDPMC."""
    with System() as system:
        for pmu in (True, False):
            with system.create_vm(pmu=pmu) as vm:
                if not vm.check_extension("KVM_CAP_PMU_CAPABILITY"):
                    sys.exit("this KVM does not offer KVM_CAP_PMU_CAPABILITY")
                memory, vcpu = guest_memory(vm), vm.create_vcpu()
                vcpu.set_cpuid(system.get_supported_cpuid())
                guest = long_guest(vm, vcpu, memory)
                guest.boot()
                (read,) = guest.execute(commands.rdpmc(0))
                if (read.fault is None) is not pmu:
                    sys.exit(f"with pmu={pmu} a guest's RDPMC ended with fault {read.fault}")


by_guests()
by_perf(Machine(Tree()))
