"""VM-entries
==========

vmx.entry.fresh, vmx.entry.toggled, vmx.entry.toggled-back, vmx.entry.migrated and
vmx.entry.flag-economy: whether an entry carries the host's bit, and is told to load it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kvmtest.checks.context import Context
from kvmtest.checks.leaks.walk import Step, also_leaks
from kvmtest.checks.scene import Observations, Scene
from kvmtest.guests import Guest, commands
from kvmtest.judge import Absence, claim, control, measure
from kvmtest.kvm import MsrRefused
from kvmtest.missing import Missing

__all__ = ["flag_economy", "fresh", "migrated", "toggled", "toggled_back", "two_cpus"]

#: Doorbells that a guest rings where many entries are counted: KVM_RUNs, less one.
MANY = 40

WORDS = ("off", "on")

# Intel SDM volume 3, 11.12: the local APIC in x2APIC mode, and a fixed IPI, vector 0x40, to an APIC
# that no VM of one vCPU has.
IA32_APIC_BASE, X2APIC_ICR = 0x1B, 0x830
X2APIC_ON = 0xFEE00000 | 1 << 8 | 1 << 10 | 1 << 11
IPI_TO_NOBODY = 0x55 << 32 | 0x40


def fresh(context: Context) -> Observations:
    """Refuse the first entry that a new vCPU ever makes, with the knob on, off and on.

    And that of another new vCPU while the knob stays on: what KVM learnt for the one before must
    not stand for it.
    """
    with Scene(context, "vmcs", "runflags") as scene:
        yield from scene.begin()
        for value, who, is_last in (
            (1, "a new vCPU", False),
            (0, "a new vCPU", False),
            (1, "a new vCPU", False),
            (1, "the next vCPU", True),
        ):
            if not is_last:
                yield from scene.set_knob(value)
            with scene.guest() as guest:
                state = f"at {who}'s first entry with freeze_on_smi={value}"
                # A new vCPU knows of no bit: it is told to load one that is on, and of no 0.
                yield from scene.look(guest, state, value, flagged=1 if value else None)
                if is_last:
                    yield from scene.end(guest)
    yield from also_leaks(context, Step.NEW)


def toggled(context: Context) -> Observations:
    """Toggle the knob between two KVM_RUNs of a vCPU, both ways and again, and once leave it."""
    with Scene(context, "vmcs", "runflags") as scene, scene.guest() as guest:
        yield from scene.begin()
        yield from scene.set_knob(0)
        scene.run(guest)
        for value in (1, 0, 1, 0, 1):
            yield from scene.set_knob(value)
            state = f"at the first entry after freeze_on_smi went to {value}"
            yield from scene.look(guest, state, value, flagged=1)
            scene.run(guest)
        yield from scene.look(guest, "at a later entry with freeze_on_smi=1", 1)
        yield from scene.end(guest)
    yield from also_leaks(context, Step.TOGGLED)


def toggled_back(context: Context) -> Observations:
    """Toggle the knob away and back between two entries, from on and from off."""
    with Scene(context, "vmcs") as scene, scene.guest() as guest:
        yield from scene.begin()
        for value in (1, 0):
            yield from scene.set_knob(value)
            scene.run(guest)
            for times in (1, 2):
                for _ in range(times):
                    yield from scene.set_knob(1 - value)
                    yield from scene.set_knob(value)
                went = ", ".join(WORDS[at % 2 ^ value] for at in range(1 + 2 * times))
                yield from scene.look(guest, f"at the entry after the knob was {went}", value)
                scene.run(guest)
        yield from scene.end(guest)


def migrated(context: Context) -> Observations:
    """Move a vCPU between two CPUs, with toggles before the move, after it, both and none."""
    cpus = two_cpus()
    if isinstance(cpus, Missing):
        yield Absence("vmcs", cpus)
        return
    here, there = cpus
    with Scene(context, "vmcs") as scene, scene.guest() as guest, _own_cpus_kept():
        yield from scene.begin()
        for value in (1, 0):
            _move_to(here)
            yield from scene.set_knob(1 - value)
            scene.run(guest)

            yield from scene.set_knob(value)
            _move_to(there)
            state = f"after freeze_on_smi went to {value} and the vCPU to another CPU"
            yield from _look_on(scene, guest, there, state, value)

            _move_to(here)
            yield from scene.set_knob(1 - value)
            state = f"after the vCPU went to another CPU and freeze_on_smi to {1 - value}"
            yield from _look_on(scene, guest, here, state, 1 - value)

            yield from scene.set_knob(value)
            _move_to(there)
            yield from scene.set_knob(1 - value)
            yield from scene.set_knob(value)
            state = f"after freeze_on_smi was toggled before and after the move, to {value}"
            yield from _look_on(scene, guest, there, state, value)

            _move_to(here)
            state = f"after the vCPU moved with freeze_on_smi={value}"
            yield from _look_on(scene, guest, here, state, value)
        yield from scene.end(guest)
    yield from also_leaks(context, Step.MIGRATED)


def flag_economy(context: Context) -> Observations:
    """Count KVM_RUN_LOAD_DEBUGCTL over many entries: one after a change, none without."""
    with Scene(context, "runflags") as scene:
        yield from scene.begin()
        if scene.probe is None:
            return
        yield from scene.set_knob(0)
        with scene.guest() as guest:
            yield from _count(scene, guest, "of a new vCPU with freeze_on_smi=0", 0)
            for value in (1, 0, 1):
                yield from scene.set_knob(value)
                yield from _count(scene, guest, f"after freeze_on_smi went to {value}", 1)
                yield from _count(scene, guest, f"while freeze_on_smi stayed {value}", 0)
            yield from scene.set_knob(0)
            yield from scene.set_knob(1)
            yield from _count(scene, guest, "after freeze_on_smi was on, off, on", 0)
        with scene.guest() as guest:
            yield from _count(scene, guest, "of a new vCPU with freeze_on_smi=1", 1)
        with scene.guest(irqchip=True) as guest:
            yield from _on_the_fast_path(scene, guest)
            yield from scene.end(guest)


def _on_the_fast_path(scene: Scene, guest: Guest) -> Observations:
    """Have the first exit after a toggle be one after which KVM enters again without a look around.

    That is what it does after an IPI (arch/x86/kvm/x86.c, ``handle_fastpath_set_msr_irqoff``). Here
    to an APIC that is not there.
    """
    try:
        guest.vcpu.set_msr(IA32_APIC_BASE, X2APIC_ON)
    except MsrRefused as error:
        yield measure("runflags", "entries after an IPI on the fast path", f"none: {error}")
        return
    yield from scene.set_knob(0)
    scene.run(guest)
    for value in (1, 0, 1, 0):
        yield from scene.set_knob(value)
        scene.collect()
        before = guest.vcpu.entries
        (sent,) = guest.execute(commands.wrmsr(X2APIC_ICR, IPI_TO_NOBODY))
        hits = scene.collect(guest.vcpu.entries - before).hits
        remedy = "use a KVM whose guests have x2APIC"
        yield control("runflags", "the guest's IPI was taken", sent.fault is None, True, remedy)
        raised = sum(scene.is_flagged(hit.values["flags"]) for hit in hits)
        what = f"KVM_RUN_LOAD_DEBUGCTL raised around an IPI after freeze_on_smi went to {value}"
        yield claim("runflags", what, raised, 1, hits=len(hits))


def _count(scene: Scene, guest: Guest, state: str, raised: int) -> Observations:
    """Enter many times; claim how often the flag was raised, and that if it was, at once."""
    scene.collect()
    before = guest.vcpu.entries
    scene.run(guest)
    guest.ring(MANY)
    entries = guest.vcpu.entries - before
    hits = scene.collect(entries).hits
    flagged = [at for at, hit in enumerate(hits) if scene.is_flagged(hit.values["flags"])]
    what = f"KVM_RUN_LOAD_DEBUGCTL raised in {entries} KVM_RUNs {state}"
    yield claim("runflags", what, len(flagged), raised, hits=len(hits))
    if raised and flagged:
        yield claim("runflags", f"the first entry with it {state}", flagged[0], 0)


def _look_on(scene: Scene, guest: Guest, cpu: int, state: str, value: int) -> Observations:
    """Look, and show that the entry was on that CPU."""
    if scene.refusals is None:
        return
    dump = yield from scene.dump(guest.vcpu, state)
    if dump:
        where: int | None = dump.cpu if dump.cpu is not None else guest.vcpu.kvm_run.fail_entry.cpu
        remedy = "leave the CPUs of kvmtest's threads alone"
        yield control("vmcs", f"the CPU of the entry {state}", where, cpu, remedy)
        yield scene.debugctl_claim(f"bit 14 of DebugCtl in the VMCS {state}", dump, value)
    scene.run(guest)


def two_cpus() -> tuple[int, int] | Missing:
    """Return two CPUs that this process may run on."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return Missing("this process may run on one CPU only", "start it without taskset")
    return cpus[0], cpus[1]


def _move_to(cpu: int) -> None:
    """Go on with this thread, and the vCPUs that it runs, on that CPU."""
    os.sched_setaffinity(0, {cpu})


@contextmanager
def _own_cpus_kept() -> Iterator[None]:
    cpus = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
