"""The host's own MSRs
===================

host.knob-effective, host.msr-survives.
"""

import os
from collections.abc import Iterator

from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_TSC, MsrAccess, freeze_bit
from kvmtest.judge import Absence, Reading, claim, control
from kvmtest.missing import Missing

from .affinity import only_on
from .context import Context, Observations
from .scene import Scene

__all__ = ["knob_effective", "msr_survives"]


def knob_effective(context: Context) -> Iterator[Reading | Absence]:
    """Write the knob both ways, twice, and read bit 14 of MSR 0x1d9 on every online CPU.

    The control reads the TSC twice: a value that moved shows that MSR reads are live. In a virtual
    machine, a second control shows that the bit can be set at all.
    """
    machine, journal = context.machine, context.journal
    if isinstance(machine.knob, Missing):
        yield Absence("hostmsr", machine.knob)
        return
    if isinstance(machine.msr, Missing):
        yield Absence("hostmsr", machine.msr)
        return
    for cpu in machine.msr.cpus:
        yield _tsc_moves(machine.msr, cpu)
    was_set = False
    for value in (0, 1, 0, 1):
        write_knob(journal, machine.knob, value)
        for cpu, debugctl in machine.msr.read_all(IA32_DEBUGCTL).items():
            bit = freeze_bit(debugctl)
            was_set |= bool(bit)
            what = f"MSR 0x1d9 bit 14 of CPU {cpu} with the knob at {value}"
            yield claim("hostmsr", what, bit, value, debugctl=debugctl)
    if machine.virtualisation.is_virtual:
        # A hypervisor may advertise the bit and drop it; that is not this kernel's fault.
        what = "bit 14 was ever 1 in this virtual machine"
        yield control("hostmsr", what, was_set, True, "run on bare metal")


def msr_survives(context: Context) -> Observations:
    """Run a guest on every CPU, with the knob at 0 and at 1, and read bit 14 there.

    The control: before the guest runs on a CPU, the MSR has the knob's value. The vCPU last ran on
    another CPU or before a toggle, so that KVM may hold a stale value.
    """
    with Scene(context, "hostmsr") as scene, scene.guest() as guest:
        for value in (0, 1, 0, 1):
            yield from scene.set_knob(value)
            for cpu in sorted(os.sched_getaffinity(0) & set(scene.msr.cpus)):
                with only_on(cpu):
                    scene.run(guest)
                    debugctl = scene.msr.read(IA32_DEBUGCTL, cpu)
                what = f"bit 14 of CPU {cpu} after a guest ran there with the knob at {value}"
                yield claim("hostmsr", what, freeze_bit(debugctl), value, debugctl=hex(debugctl))


def _tsc_moves(msr: MsrAccess, cpu: int) -> Reading:
    first, second = msr.read(IA32_TSC, cpu), msr.read(IA32_TSC, cpu)
    return control(
        "hostmsr",
        f"the TSC of CPU {cpu}, read twice as an MSR, moved",
        second > first,
        True,
        "read /dev/cpu/*/msr of the machine itself",
        first=first,
        second=second,
    )
