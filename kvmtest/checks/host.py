"""The host's own MSRs
===================

host.knob-effective, host.msr-survives, host.hotplug.
"""

import os
from collections.abc import Iterator

from kvmtest.guests import Guest
from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.host.changes.hotplug import bring_online, keep_bound, take_offline
from kvmtest.host.changes.journal import JournalError
from kvmtest.host.facts.hotplug import Bound, is_online, removable
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_TSC, MsrAccess, freeze_bit
from kvmtest.judge import Absence, Reading, claim, control
from kvmtest.missing import Missing

from .affinity import only_on
from .context import Context, Observations
from .scene import Scene
from .witnesses import owned_mask
from .witnesses.host_msr import look_after_runs
from .witnesses.runflags import RunFlagsWitness

__all__ = ["hotplug", "knob_effective", "msr_survives"]

#: Exits of a guest on the CPU that came online, on AMD.
EXITS = 20


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
        yield from look_after_runs(scene, guest, "a guest")


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


def hotplug(context: Context) -> Observations:
    """Take a CPU offline and bring it online, while a vCPU that ran there lives on.

    On Intel, the knob is toggled meanwhile, so that an old value differs from the right one.
    """
    module = context.machine.kvm_module
    is_svm = isinstance(module, KvmModule) and module.name == "kvm_amd"
    names = ("runflags",) if is_svm else ("hostmsr", "vmcs", "runflags")
    with Scene(context, *names) as scene, scene.guest() as guest:
        yield from scene.begin()
        bound = Bound.of(context.machine.tree)
        cpu = _removable(context, bound)
        if not isinstance(cpu, Missing):
            keep_bound(context.journal, bound)
            # The first attempt tells whether the kernel lets the CPU go.
            cpu = _try_offline(context, cpu)
        if isinstance(cpu, Missing):
            yield from (Absence(name, cpu) for name in scene.looking)
            return
        bring_online(context.journal, cpu)
        yield from (_hotplug_svm if is_svm else _hotplug_vmx)(scene, guest, cpu)
        yield from scene.end(guest)


def _removable(context: Context, bound: Bound) -> int | Missing:
    """Return the last CPU that this process can do without, or why there is none."""
    own = os.sched_getaffinity(0)
    if len(own) < 2:
        return Missing("this process may run on one CPU only", "start it without taskset")
    cpus = [cpu for cpu in removable(context.machine.tree) if cpu in own]
    free = [cpu for cpu in cpus if not bound.alone_on(cpu)]
    if free:
        return free[-1]
    if cpus:
        what = f"the cpuset {bound.alone_on(cpus[-1])[0]} has CPU {cpus[-1]} alone"
        return Missing(what, "give it another CPU, too")
    return Missing("this process may run on no CPU that can go", "start it without taskset")


def _try_offline(context: Context, cpu: int) -> int | Missing:
    try:
        take_offline(context.journal, cpu)
    except JournalError as error:
        return Missing(str(error), "look at the kernel log")
    return cpu


def _hotplug_vmx(scene: Scene, guest: Guest, cpu: int) -> Observations:
    """Claim that the CPU comes online with the bit that the knob got while it was away."""
    others = tuple(other for other in scene.msr.cpus if other != cpu)
    for value in (0, 1, 0, 1):
        yield from scene.set_knob(1 - value)
        with only_on(cpu):
            scene.run(guest)
        take_offline(scene.journal, cpu)
        yield from _is_offline(scene, cpu)
        write_knob(scene.journal, scene.knob, value)
        yield from scene.show_msrs(value, others)
        bring_online(scene.journal, cpu)
        debugctl = scene.msr.read(IA32_DEBUGCTL, cpu)
        state = f"after CPU {cpu} was offline while freeze_on_smi went to {value}"
        what = f"bit 14 of its MSR 0x1d9 {state}"
        yield claim("hostmsr", what, freeze_bit(debugctl), value, debugctl=hex(debugctl))
        with only_on(cpu):
            yield from scene.look(guest, state, value, flagged=1, cpu=cpu)
            scene.run(guest)


def _hotplug_svm(scene: Scene, guest: Guest, cpu: int) -> Observations:
    """Claim that no entry on the CPU that came online is told to load a bit."""
    runflags = scene.witness(RunFlagsWitness)
    if runflags is None:
        return
    for time in ("first", "second"):
        before = guest.vcpu.entries
        with only_on(cpu):
            scene.run(guest)
        take_offline(scene.journal, cpu)
        yield from _is_offline(scene, cpu)
        scene.run(guest)
        bring_online(scene.journal, cpu)
        with only_on(cpu):
            scene.run(guest)
            guest.ring(EXITS)
        state = f"before, while and after CPU {cpu} was offline for the {time} time"
        yield from owned_mask.look(runflags, guest.vcpu.entries - before, state)


def _is_offline(scene: Scene, cpu: int) -> Observations:
    there = is_online(scene.machine.tree, cpu)
    for witness in scene.looking:
        what = f"CPU {cpu} is online after it was taken offline"
        yield control(witness, what, there, False, "look at the kernel log")
