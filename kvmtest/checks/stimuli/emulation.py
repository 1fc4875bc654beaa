"""Emulation
=========

KVM emulates an instruction of a vCPU in a state that vm86 mode can't run: that of a CPU after
reset. vmx_vcpu_run returns without an entry then. It takes kvm_intel without unrestricted guest.
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

#: What is emulated: OUT to a port, again and again.
PORT = 0x10
OUT_AND_AGAIN = bytes([0xE6, PORT, 0xEB, 0xFC])
#: A page of the guests' memory that they do not use.
CODE = 0x30000


class State(NamedTuple):
    """A vCPU's special and general registers, as KVM_GET_SREGS and KVM_GET_REGS give them."""

    sregs: Any
    regs: Any


class Emulated(NamedTuple):
    """How a KVM_RUN ended, and whether KVM emulated in it; None where KVM does not tell."""

    exit: Exit
    done: bool | None


def save(vcpu: Vcpu) -> State:
    """Return the vCPU's state, once what its last exit asked for is done with."""
    vcpu.complete()
    return State(vcpu.get_sregs(), vcpu.get_regs())


def load(vcpu: Vcpu, state: State) -> None:
    """Give the vCPU that state."""
    vcpu.set_sregs(state.sregs)
    vcpu.set_regs(state.regs)


def reset_state(system: System) -> State:
    """Return the state that a vCPU begins with."""
    with system.create_vm() as vm:
        vcpu = vm.create_vcpu()
        return State(vcpu.get_sregs(), vcpu.get_regs())


def emulate(vcpu: Vcpu) -> Emulated:
    """Run a vCPU that is at :data:`OUT_AND_AGAIN`, until its OUT; that is done with then."""
    before = _emulations(vcpu)
    end = vcpu.run()
    after = _emulations(vcpu)
    # So that the state can be set.
    vcpu.complete()
    if before is None or after is None:
        return Emulated(end, None)
    is_out = isinstance(end, IoExit) and end.port == PORT
    return Emulated(end, is_out and after > before)


def emulated(guest: Guest, reset: State) -> Stimulus:
    """Return what has KVM emulate a guest that has come up, and gives it its state back."""
    sregs, regs = reset
    # vm86 mode has a segment's selector tell its base.
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
    """Return how many instructions KVM has emulated, None where it does not tell."""
    # Before Linux kernel commit cb082bfab59a ("KVM: stats: Add fd-based API to read binary stats
    # data") (in v5.14), a vCPU has no statistics of its own.
    try:
        return vcpu.stat("insn_emulation")
    except CapabilityMissing:
        return None
