"""The economy of the run flag
===========================

vmx.entry.flag-economy: KVM_RUN_LOAD_DEBUGCTL is raised once for each change of the host's bit.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.guests import Guest, commands
from kvmtest.judge import claim, control, measure
from kvmtest.kvm import MsrRefused

__all__ = ["flag_economy"]

#: Doorbells that a guest rings for many entries, in MANY + 1 KVM_RUNs.
MANY = 40

# Intel SDM volume 3, 11.12: the local APIC in x2APIC mode, and a fixed IPI, vector 0x40, to an APIC
# that no VM of one vCPU has.
IA32_APIC_BASE, X2APIC_ICR = 0x1B, 0x830
X2APIC_ON = 0xFEE00000 | 1 << 8 | 1 << 10 | 1 << 11
IPI_TO_NOBODY = 0x55 << 32 | 0x40


def flag_economy(context: Context) -> Observations:
    """Count KVM_RUN_LOAD_DEBUGCTL over many entries: one after a change, none without."""
    with Scene(context, "runflags") as scene:
        yield from scene.begin()
        runflags = scene.witness(RunFlagsWitness)
        if runflags is None:
            return
        yield from scene.set_knob(0)
        with scene.guest() as guest:
            yield from _count(scene, runflags, guest, "of a new vCPU with freeze_on_smi=0", 0)
            for value in (1, 0, 1):
                yield from scene.set_knob(value)
                yield from _count(scene, runflags, guest, f"after freeze_on_smi went to {value}", 1)
                yield from _count(scene, runflags, guest, f"while freeze_on_smi stayed {value}", 0)
            yield from scene.set_knob(0)
            yield from scene.set_knob(1)
            yield from _count(scene, runflags, guest, "after freeze_on_smi was on, off, on", 0)
        with scene.guest() as guest:
            yield from _count(scene, runflags, guest, "of a new vCPU with freeze_on_smi=1", 1)
        with scene.guest(irqchip=True) as guest:
            yield from _on_the_fast_path(scene, runflags, guest)
            yield from scene.end(guest)


def _on_the_fast_path(scene: Scene, runflags: RunFlagsWitness, guest: Guest) -> Observations:
    """Make the first exit after a toggle one that KVM handles on its fast path.

    KVM enters again at once after an IPI (arch/x86/kvm/x86.c, ``handle_fastpath_set_msr_irqoff``).
    The IPI goes to an APIC that no vCPU has.
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
        runflags.collect()
        before = guest.vcpu.entries
        (sent,) = guest.execute(commands.wrmsr(X2APIC_ICR, IPI_TO_NOBODY))
        hits = runflags.collect(guest.vcpu.entries - before)
        remedy = "use a KVM whose guests have x2APIC"
        yield control("runflags", "the guest's IPI was taken", sent.fault is None, True, remedy)
        raised = len(runflags.flagged(hits))
        what = f"KVM_RUN_LOAD_DEBUGCTL raised around an IPI after freeze_on_smi went to {value}"
        yield claim("runflags", what, raised, 1, hits=len(hits.hits))


def _count(
    scene: Scene, runflags: RunFlagsWitness, guest: Guest, state: str, raised: int
) -> Observations:
    """Enter many times; claim how often the flag was raised, and that the first entry had it."""
    runflags.collect()
    before = guest.vcpu.entries
    scene.run(guest)
    guest.ring(MANY)
    entries = guest.vcpu.entries - before
    hits = runflags.collect(entries)
    flagged = runflags.flagged(hits)
    what = f"KVM_RUN_LOAD_DEBUGCTL raised in {entries} KVM_RUNs {state}"
    yield claim("runflags", what, len(flagged), raised, hits=len(hits.hits))
    if raised and flagged:
        yield claim("runflags", f"the first entry with it {state}", flagged[0], 0)
