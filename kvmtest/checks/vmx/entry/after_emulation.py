"""Toggles while KVM emulates
==========================

vmx.entry.after-emulation: without unrestricted guest KVM emulates what vm86 mode can't run, and
vmx_vcpu_run returns without an entry.
"""

from typing import Any

from kvmtest.checks.context import Context
from kvmtest.checks.leaks.arms import interleaved, stages
from kvmtest.checks.leaks.windows import Body, experiment, tell_noise, with_host_counters
from kvmtest.checks.preconditions import answer, witness_lacks
from kvmtest.checks.scene import Observations, Scene
from kvmtest.guests import Guest, guest_memory, long_guest
from kvmtest.host.facts.msr import freeze_bit
from kvmtest.judge import Absence, control, measure
from kvmtest.kvm import CapabilityMissing, IoExit, Memory, Vcpu

__all__ = ["after_emulation"]

#: The last page below 4 GiB, where a CPU begins; and the first instruction: OUT to a port, again.
RESET_PAGE, RESET_VECTOR = 0xFFFFF000, 0xFFFFFFF0
PORT = 0x10
OUT_AND_AGAIN = bytes([0xE6, PORT, 0xEB, 0xFC])
#: A page of the guests' memory that they do not use.
EMULATED_CODE = 0x30000


def after_emulation(context: Context) -> Observations:
    """Let KVM see a new host bit first while it emulates the reset vector, then look.

    Once on a new vCPU with the knob on, once with the knob turned off on a vCPU that has run. A
    figure says what a vCPU shows that never was emulated.
    """
    with Scene(context, "vmcs", "runflags") as scene:
        yield from scene.begin()
        yield from _unemulated(scene)
        yield from _new_vcpu(scene)
        yield from _used_vcpu(scene)
    if not witness_lacks(context.machine, "leak"):
        yield from _leaks(context)


def _leaks(context: Context) -> Observations:
    """Look for leaks where KVM sees each toggle first while it emulates.

    The vCPUs have run with the knob off before, so that a kernel that loses toggles leaks with the
    knob off, as it must, and with the knob on.
    """
    hindrance = answer(context.machine, "guest-events")
    if hindrance:
        yield Absence("leak", hindrance)
        return
    with Scene(context, "leak") as scene:
        yield from scene.set_knob(0)
        reset = _reset_state(scene)
        yield from tell_noise(
            experiment(
                context,
                with_host_counters,
                Body(interleaved, stages),
                lambda guest: Emulation(guest, *reset),
            )
        )


def _reset_state(scene: Scene) -> tuple[Any, Any]:
    """Return the registers that a vCPU begins with."""
    with scene.system.create_vm() as vm:
        vcpu = vm.create_vcpu()
        return vcpu.get_sregs(), vcpu.get_regs()


class Emulation:
    """A renewal: KVM emulates an instruction in a state that vm86 mode can't run.

    It is a CPU's state after reset, with code in the guest's memory.
    """

    does = "KVM emulated the vCPU after a toggle"

    def __init__(self, guest: Guest, sregs: Any, regs: Any) -> None:
        self._vcpu = guest.vcpu
        self._sregs, self._regs = sregs, regs
        # vm86 mode has a segment's selector tell its base.
        sregs.cs.base, sregs.cs.selector, regs.rip = EMULATED_CODE, 0, 0
        guest.memory.write(EMULATED_CODE, OUT_AND_AGAIN)

    def renew(self) -> bool:
        """Do it, and give the vCPU its state back; tell whether KVM emulated."""
        vcpu, before = self._vcpu, _emulations(self._vcpu)
        vcpu.complete()
        kept = vcpu.get_sregs(), vcpu.get_regs()
        _put(vcpu, self._sregs, self._regs)
        end, after = vcpu.run(), _emulations(vcpu)
        vcpu.complete()
        _put(vcpu, *kept)
        is_seen = before is not None and after is not None and after > before
        return is_seen and isinstance(end, IoExit) and end.port == PORT


def _unemulated(scene: Scene) -> Observations:
    yield from scene.set_knob(1)
    with scene.guest() as guest:
        scene.run(guest)
        if scene.refusals:
            dump = yield from scene.dump(guest.vcpu, "without emulation before")
            if dump:
                what = "bit 14 of DebugCtl without emulation before"
                yield measure("vmcs", what, freeze_bit(dump.debugctl), debugctl=hex(dump.debugctl))


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
        reset = vcpu.get_sregs(), vcpu.get_regs()
        guest = long_guest(vm, vcpu, memory)
        scene.run(guest)
        vcpu.complete()
        used = vcpu.get_sregs(), vcpu.get_regs()
        _put(vcpu, *reset)
        yield from scene.set_knob(0)
        yield from _emulate(scene, vcpu, "a vCPU that had run, as freeze_on_smi went to 0")
        _put(vcpu, *used)
        state = "after a vCPU was emulated as freeze_on_smi went to 0"
        yield from _look(scene, guest, state, 0)
        yield from scene.end(guest)


def _emulate(scene: Scene, vcpu: Vcpu, what: str) -> Observations:
    """Run the vCPU at the reset vector; show that KVM emulated its instruction."""
    scene.collect()
    entries, before = vcpu.entries, _emulations(vcpu)
    end = vcpu.run()
    after = _emulations(vcpu)
    remedy = "load kvm_intel with unrestricted_guest=0"
    did: bool | str = False
    if before is None or after is None:
        did, remedy = "not visible: no binary statistics", "use Linux 5.14 or later"
    elif isinstance(end, IoExit) and end.port == PORT:
        did = after > before
    for witness in scene.speakers:
        yield control(witness, f"KVM emulated {what}", did, True, remedy, exit=str(end))
    yield from _flags(scene, f"while KVM emulated {what}", vcpu.entries - entries)
    # The OUT is done with, so that the state can be set.
    vcpu.complete()


def _look(scene: Scene, guest: Guest, state: str, value: int) -> Observations:
    """Run for a moment, and look at the entry after it."""
    scene.collect()
    entries = guest.vcpu.entries
    scene.run(guest)
    yield from _flags(scene, f"at the first entry {state}", guest.vcpu.entries - entries)
    yield from scene.look(guest, state, value)


def _flags(scene: Scene, state: str, entries: int) -> Observations:
    """Tell what the run flags were: no claim, as KVM may mend this with the flag or without."""
    hits = scene.collect(entries).hits
    if hits:
        raised = sum(scene.is_flagged(hit.values["flags"]) for hit in hits)
        yield measure("runflags", f"KVM_RUN_LOAD_DEBUGCTL raised {state}", raised, hits=len(hits))


def _emulations(vcpu: Vcpu) -> int | None:
    """Return how many instructions KVM has emulated, None where it does not tell."""
    # Before Linux kernel commit cb082bfab59a ("KVM: stats: Add fd-based API to read binary stats
    # data") (in v5.14), a vCPU has no statistics of its own.
    try:
        return vcpu.stat("insn_emulation")
    except CapabilityMissing:
        return None


def _write_reset_page(memory: Memory) -> None:
    memory.write(RESET_VECTOR, OUT_AND_AGAIN)


def _put(vcpu: Vcpu, sregs: object, regs: object) -> None:
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
