"""Emulation
=========

A vCPU in the state after reset, which vm86 mode can't run: KVM emulates its instructions, and
vmx_vcpu_run returns without an entry. This needs kvm_intel with unrestricted_guest=0.
"""

from typing import Any, NamedTuple

from kvmtest.guests import Guest
from kvmtest.kvm import CapabilityMissing, Exit, IoExit, System, Vcpu

from .stimulus import Stimulus

__all__ = [
    "OUT_AND_AGAIN",
    "Emulated",
    "State",
    "emulate",
    "emulated",
    "load",
    "reset_state",
    "save",
]

#: The emulated code: OUT to a port in an endless loop.
PORT = 0x10
OUT_AND_AGAIN = bytes([0xE6, PORT, 0xEB, 0xFC])
#: An unused page of the guests' memory.
CODE = 0x30000


class State(NamedTuple):
    """A vCPU's special and general registers, as KVM_GET_SREGS and KVM_GET_REGS give them."""

    sregs: Any
    regs: Any


class Emulated(NamedTuple):
    """A KVM_RUN's exit, and whether KVM emulated in it; None without statistics."""

    exit: Exit
    done: bool | None


def save(vcpu: Vcpu) -> State:
    """Complete the vCPU's last exit, and return its state."""
    vcpu.complete()
    return State(vcpu.get_sregs(), vcpu.get_regs())


def load(vcpu: Vcpu, state: State) -> None:
    """Give the vCPU that state."""
    vcpu.set_sregs(state.sregs)
    vcpu.set_regs(state.regs)


def reset_state(system: System) -> State:
    """Return the state of a new vCPU."""
    with system.create_vm() as vm:
        vcpu = vm.create_vcpu()
        return State(vcpu.get_sregs(), vcpu.get_regs())


def emulate(vcpu: Vcpu) -> Emulated:
    """Run a vCPU that is at :data:`OUT_AND_AGAIN` until its OUT, and complete the OUT."""
    before = _emulations(vcpu)
    end = vcpu.run()
    after = _emulations(vcpu)
    # An open exit would keep the state from being set.
    vcpu.complete()
    if before is None or after is None:
        return Emulated(end, None)
    is_out = isinstance(end, IoExit) and end.port == PORT
    return Emulated(end, is_out and after > before)


def emulated(guest: Guest, reset: State) -> Stimulus:
    """Return the stimulus that has KVM emulate a booted guest, and restores its state."""
    sregs, regs = reset
    # In vm86 mode, a segment's selector gives its base.
    sregs.cs.base, sregs.cs.selector, regs.rip = CODE, 0, 0
    guest.memory.write(CODE, OUT_AND_AGAIN)

    def once(guest: Guest) -> bool:
        own = save(guest.vcpu)
        load(guest.vcpu, reset)
        done = emulate(guest.vcpu).done
        load(guest.vcpu, own)
        return bool(done)

    return Stimulus("KVM emulated the vCPU after a toggle", once)


def _emulations(vcpu: Vcpu) -> int | None:
    """Return how many instructions KVM has emulated; None without statistics."""
    # Before Linux kernel commit cb082bfab59a ("KVM: stats: Add fd-based API to read binary stats
    # data") (in v5.14), a vCPU has no statistics of its own.
    try:
        return vcpu.stat("insn_emulation")
    except CapabilityMissing:
        return None
