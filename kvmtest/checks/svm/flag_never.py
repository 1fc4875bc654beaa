"""VM-entries on AMD
=================

svm.flag-never: SVM has no host-owned DEBUGCTL bit, so that no entry is told to load one.
"""

import os

from kvmtest.checks.affinity import only_on
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import guest_write, user_write
from kvmtest.checks.witnesses import owned_mask
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.guests import real_guest
from kvmtest.host.facts.freeze_knob import paths
from kvmtest.host.facts.msr import IA32_DEBUGCTL, freeze_bit
from kvmtest.host.machine import Machine
from kvmtest.judge import Absence, claim, control
from kvmtest.kvm import System
from kvmtest.missing import Missing

__all__ = ["flag_never"]

#: AMD APM volume 2, 3.1.7: EFER's long mode active and SVM enable.
EFER, EFER_LMA, EFER_SVME = 0xC0000080, 1 << 10, 1 << 12

#: Exits of a guest where many entries are counted.
MANY = 100
#: Values that guest and userspace write to DEBUGCTL between entries: LBR, bit 14, all bits, none.
WRITES = (1, 1 << 14, (1 << 64) - 1, 0)


def flag_never(context: Context) -> Observations:
    """Enter guests of several kinds, on every CPU, and look at the run flags of each entry.

    Look also at KVM's mask of host-owned bits, and at bit 14 of every CPU's DEBUGCTL.
    """
    with Scene(context, "runflags") as scene:
        yield from scene.begin()
        yield from _no_knob(context.machine, scene.system)
        runflags = scene.witness(RunFlagsWitness)
        if runflags:
            yield from _entries(scene, runflags)


def _entries(scene: Scene, runflags: RunFlagsWitness) -> Observations:
    """Make entries of each kind, and look at them."""
    with scene.system.create_vm() as vm:
        guest = real_guest(vm)
        guest.boot()
        guest.ring(MANY)
        yield from owned_mask.look(runflags, guest.vcpu.entries, "of a real-mode guest")
    with scene.guest() as guest:
        for cpu in sorted(os.sched_getaffinity(0)):
            before = guest.vcpu.entries
            with only_on(cpu):
                scene.run(guest)
                guest.ring(MANY)
            entries = guest.vcpu.entries - before
            yield from owned_mask.look(runflags, entries, f"of a guest on CPU {cpu}")
        before = guest.vcpu.entries
        for value in WRITES:
            guest_write(guest, value)
            user_write(guest, value)
            scene.run(guest)
        state = "between writes of the guest's DEBUGCTL"
        yield from owned_mask.look(runflags, guest.vcpu.entries - before, state)
        yield from scene.end(guest)


def _no_knob(machine: Machine, system: System) -> Observations:
    """Show that there is no knob in sysfs and no bit 14 in any CPU's DEBUGCTL.

    The control is another MSR of the same CPU, EFER: while there is a VM, KVM has SVM on.
    """
    msr = machine.msr
    if isinstance(msr, Missing):
        yield Absence("hostmsr", msr)
        return
    with system.create_vm():
        for cpu in msr.cpus:
            bits = msr.read(EFER, cpu) & (EFER_LMA | EFER_SVME)
            what = f"64-bit mode and SVM in EFER of CPU {cpu}, while there is a VM"
            remedy = "read /dev/cpu/*/msr of the machine itself"
            yield control("hostmsr", what, hex(bits), hex(EFER_LMA | EFER_SVME), remedy)
            debugctl = msr.read(IA32_DEBUGCTL, cpu)
            what = f"bit 14 of CPU {cpu}'s MSR 0x1d9 on AMD"
            yield claim("hostmsr", what, freeze_bit(debugctl), 0, debugctl=hex(debugctl))
    there = paths(machine.tree)
    yield claim("hostmsr", "freeze_on_smi in sysfs on AMD", ", ".join(there) or "none", "none")
