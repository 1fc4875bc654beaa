"""Virtual SMM on AMD
==================

svm.guest.smm: an SMI that userspace injects runs the guest's own handler, and RSM restores all of
the guest's registers.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from kvmtest._native import ffi
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.guests import guest_memory, long_guest
from kvmtest.judge import Absence, claim, control
from kvmtest.kvm import HltExit, IoExit, Memory, Vcpu
from kvmtest.missing import Missing

__all__ = ["smm"]

#: AMD APM volume 2, 10.2: SMBASE after reset, and where the handler begins; in 16-bit code.
SMBASE, ENTRY = 0x30000, 0x8000
#: Spoils AX and BX, signals by a port, and returns: MOV, MOV, OUT, RSM.
SPOILT, PORT = 0x1234, 0xE0
HANDLER = bytes([0xB8, 0x34, 0x12, 0xBB, 0x34, 0x12, 0xE6, PORT, 0x0F, 0xAA])
#: The address of the guest's only instruction, HLT.
HALT = 0x39000
#: Memory slots of SMM are in an address space of their own (Documentation/virt/kvm/api.rst).
SMM_SPACE = 1
#: KVM_RUN_X86_SMM in kvm_run.flags.
IN_SMM = 1

SMIS = 10
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
           *(f"r{number}" for number in range(8, 16)))  # fmt: skip


def smm(context: Context) -> Observations:
    """Inject SMIs into a guest about to halt, with other random registers each time."""
    with Scene(context, "guest") as scene, scene.system.create_vm() as vm:
        if not vm.check_extension("KVM_CAP_X86_SMM"):
            remedy = "use a kernel with CONFIG_KVM_SMM"
            yield Absence("guest", Missing("this KVM has no virtual SMM", remedy))
            return
        memory = guest_memory(vm)
        vm.set_user_memory_region(0, memory, address_space=SMM_SPACE)
        guest = long_guest(vm, scene.vcpu(vm), memory)
        guest.boot()
        guest.vcpu.complete()
        _write_code(memory)
        yield from _run(guest.vcpu, "without an SMI", smi=False)
        for number in range(1, SMIS + 1):
            yield from _run(guest.vcpu, f"with SMI {number}", smi=True)


def _write_code(memory: Memory) -> None:
    memory.write(SMBASE + ENTRY, HANDLER)
    memory.write(HALT, b"\xf4")


def _run(vcpu: Vcpu, state: str, *, smi: bool) -> Observations:
    """Run from random registers to the HLT, through the handler where there is an SMI."""
    before = _start(vcpu)
    if smi:
        vcpu.smi()
    exit_ = vcpu.run()
    in_handler = isinstance(exit_, IoExit) and exit_.is_out and exit_.port == PORT
    flagged = bool(vcpu.kvm_run.flags & IN_SMM)
    what = f"the handler's OUT {state}, and that KVM says it is in SMM"
    remedy = "use a KVM with virtual SMM"
    yield control("guest", what, f"{in_handler}, {flagged}", f"{smi}, {smi}", remedy)
    if in_handler:
        spoilt = vcpu.get_regs()
        what = f"AX and BX in the handler {state}"
        observed = f"{spoilt.rax & 0xFFFF:#x}, {spoilt.rbx & 0xFFFF:#x}"
        yield control("guest", what, observed, f"{SPOILT:#x}, {SPOILT:#x}", "report this KVM")
        # The handler's 16-bit code can't spoil all registers; userspace does the rest.
        vcpu.complete()
        _randomize(vcpu)
        exit_ = vcpu.run()
    after = _state(vcpu)
    yield claim("guest", f"the guest halts {state}", isinstance(exit_, HltExit), True)
    yield claim("guest", f"still in SMM at the end {state}", vcpu.kvm_run.flags & IN_SMM, 0)
    expected = {**before, "rip": HALT + 1}
    changed = [name for name in expected if after[name] != expected[name]]
    what = f"registers that are not as they were at the end {state}"
    yield claim("guest", what, ", ".join(changed) or "none", "none")


def _start(vcpu: Vcpu) -> Mapping[str, object]:
    """Set random registers and the instruction pointer to the HLT; return all that can be read."""
    _randomize(vcpu, HALT)
    return _state(vcpu)


def _randomize(vcpu: Vcpu, rip: int | None = None) -> None:
    """Set general registers to random values, and the instruction pointer where one is given."""
    regs = vcpu.get_regs()
    for name in GENERAL:
        setattr(regs, name, secrets.randbits(64))
    if rip is not None:
        regs.rip = rip
    vcpu.set_regs(regs)


def _state(vcpu: Vcpu) -> dict[str, object]:
    """Return general registers, flags and special registers by their names."""
    state: dict[str, object] = {}
    for struct in (vcpu.get_regs(), vcpu.get_sregs()):
        for name, member in ffi.typeof(struct).item.fields:
            state[name] = _value(getattr(struct, name), member.type)
    return state


def _value(value: Any, kind: Any) -> object:
    """Return a member as a value that can be compared: a number, or the bytes of all else."""
    if kind.kind == "primitive":
        return value
    return bytes(ffi.buffer(ffi.addressof(value) if kind.kind == "struct" else value))
