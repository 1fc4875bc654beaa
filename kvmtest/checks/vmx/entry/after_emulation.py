"""Toggles while KVM emulates
==========================

vmx.entry.after-emulation: without unrestricted guest KVM emulates what vm86 mode can't run, and
vmx_vcpu_run returns without an entry.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.counters import with_host_counters
from kvmtest.checks.leaks.experiment import Procedure, experiment, noise_as_control
from kvmtest.checks.leaks.procedures import interleaved, stages
from kvmtest.checks.preconditions import answer, witness_lacks
from kvmtest.checks.scene import Scene
from kvmtest.checks.schedules.enumeration import all_enumerated
from kvmtest.checks.stimuli.emulation import (
    OUT_AND_AGAIN,
    emulate,
    emulated,
    load,
    reset_state,
    save,
)
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.checks.witnesses.vmcs import VmcsWitness
from kvmtest.checks.witnesses.witness import Entry
from kvmtest.guests import Guest, guest_memory, long_guest
from kvmtest.interleave.schedule import Does
from kvmtest.judge import Absence, control
from kvmtest.kvm import Memory, Vcpu

__all__ = ["after_emulation"]

#: The last page below 4 GiB, where a CPU begins.
RESET_PAGE, RESET_VECTOR = 0xFFFFF000, 0xFFFFFFF0


def after_emulation(context: Context) -> Observations:
    """Have KVM first see a new host bit while it emulates the reset vector, then look.

    One vCPU is new, with the knob on; one has run, and the knob is turned off. A figure records a
    vCPU that never was emulated. Then play the schedules in which KVM emulates.
    """
    with Scene(context, "vmcs", "runflags") as scene:
        yield from scene.begin()
        yield from _unemulated(scene)
        yield from _new_vcpu(scene)
        yield from _used_vcpu(scene)
    if not witness_lacks(context.machine, "vmcs"):
        yield from all_enumerated(context, Does.EMULATE)
    if not witness_lacks(context.machine, "leak"):
        yield from _leaks(context)


def _leaks(context: Context) -> Observations:
    """Look for leaks where KVM first sees each toggle while it emulates.

    The vCPUs have run with the knob off. So a kernel that loses toggles leaks with the knob off, as
    every kernel does, and with the knob on.
    """
    hindrance = answer(context.machine, "guest-events")
    if hindrance:
        yield Absence("leak", hindrance)
        return
    with Scene(context, "leak") as scene:
        yield from scene.set_knob(0)
        reset = reset_state(scene.system)
        yield from noise_as_control(
            experiment(
                context,
                with_host_counters,
                Procedure(interleaved, stages),
                lambda guest: emulated(guest, reset),
            )
        )


def _unemulated(scene: Scene) -> Observations:
    yield from scene.set_knob(1)
    with scene.guest() as guest:
        scene.run(guest)
        if vmcs := scene.witness(VmcsWitness):
            yield from vmcs.look(Entry(guest, "without emulation before", None))


def _new_vcpu(scene: Scene) -> Observations:
    yield from scene.set_knob(1)
    with scene.system.create_vm() as vm:
        _write_reset_page(vm.add_memory(0x1000, RESET_PAGE))
        memory = guest_memory(vm)
        vcpu = scene.vcpu(vm)
        yield from _emulate(scene, vcpu, "a new vCPU with freeze_on_smi=1")
        guest = long_guest(vm, vcpu, memory)
        yield from _look(scene, guest, "after a new vCPU was emulated with freeze_on_smi=1", 1)


def _used_vcpu(scene: Scene) -> Observations:
    yield from scene.set_knob(1)
    with scene.system.create_vm() as vm:
        _write_reset_page(vm.add_memory(0x1000, RESET_PAGE))
        memory = guest_memory(vm)
        vcpu = scene.vcpu(vm)
        reset = save(vcpu)
        guest = long_guest(vm, vcpu, memory)
        scene.run(guest)
        used = save(vcpu)
        load(vcpu, reset)
        yield from scene.set_knob(0)
        yield from _emulate(scene, vcpu, "a vCPU that had run, as freeze_on_smi went to 0")
        load(vcpu, used)
        state = "after a vCPU was emulated as freeze_on_smi went to 0"
        yield from _look(scene, guest, state, 0)
        yield from scene.end(guest)


def _emulate(scene: Scene, vcpu: Vcpu, what: str) -> Observations:
    """Run the vCPU at the reset vector; show that KVM emulated its instruction."""
    runflags, entries = scene.witness(RunFlagsWitness), vcpu.entries
    if runflags:
        runflags.collect()
    end, emulated = emulate(vcpu)
    did: bool | str = bool(emulated)
    remedy = "load kvm_intel with unrestricted_guest=0"
    if emulated is None:
        did, remedy = "not visible: no binary statistics", "use Linux 5.14 or later"
    for witness in scene.looking:
        yield control(witness, f"KVM emulated {what}", did, True, remedy, exit=str(end))
    if runflags:
        yield from runflags.figure(f"while KVM emulated {what}", vcpu.entries - entries)


def _look(scene: Scene, guest: Guest, state: str, value: int) -> Observations:
    """Run the guest briefly, and look at its next entry.

    The run flags are a figure: KVM may mend the VMCS with the flag or without.
    """
    runflags, entries = scene.witness(RunFlagsWitness), guest.vcpu.entries
    if runflags:
        runflags.collect()
    scene.run(guest)
    if runflags:
        entries = guest.vcpu.entries - entries
        yield from runflags.figure(f"at the first entry {state}", entries)
    yield from scene.look(guest, state, value)


def _write_reset_page(memory: Memory) -> None:
    memory.write(RESET_VECTOR, OUT_AND_AGAIN)
