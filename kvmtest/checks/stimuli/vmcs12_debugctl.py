"""DEBUGCTL in vmcs12
==================

Entries to L2 with what L1 has in vmcs12: by L1's VMLAUNCH or VMRESUME, and by userspace's
KVM_SET_NESTED_STATE of the same vmcs12.
"""

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec

from kvmtest._native import ffi, lib
from kvmtest.checks.kvm_device import offers_quirk
from kvmtest.guests import commands
from kvmtest.guests.l1 import FAILED_ENTRY, L1, VmExit
from kvmtest.guests.vmcs12 import (
    ENTRY_LOAD_DEBUG_CONTROLS,
    EXIT_SAVE_DEBUG_CONTROLS,
    of_nested_state,
    with_fields,
)
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.host.machine import Machine
from kvmtest.kvm import KvmError, System, Vcpu
from kvmtest.missing import Missing

from .debugctl_writes import REFUSED

__all__ = [
    "BTF",
    "ENTERED",
    "WAYS",
    "Attempt",
    "controls",
    "enter_by_l1",
    "enter_by_userspace",
    "is_taken",
    "state_debugctl",
    "taken_from_userspace",
    "takes_freeze_bit",
]

P = ParamSpec("P")

#: Single-step on branches: KVM takes it from any guest, and drops it.
BTF = 1 << 1

ENTERED = "entered"
#: Exit reason 33, "VM-entry failure due to invalid guest state" (Intel SDM volume 3, appendix C).
INVALID_GUEST_STATE = FAILED_ENTRY | 33


class Attempt(NamedTuple):
    """How an entry to L2 ended, and the DEBUGCTL that L2 has then; None where there was no L2."""

    outcome: str
    debugctl: int | None = None


def enter_by_l1(l1: L1) -> Attempt:
    """Have L1 enter L2, have L2 read its DEBUGCTL and exit, so that L1 runs again.

    REFUSED is a VM-entry failure due to invalid guest state, with exit qualification 0.
    """
    end = l1.enter()
    if end is not None:
        refused = isinstance(end, VmExit) and end[:2] == (INVALID_GUEST_STATE, 0)
        return Attempt(REFUSED if refused else str(end))
    read = l1.execute(commands.rdmsr(IA32_DEBUGCTL))
    if not isinstance(read, list):
        return Attempt(f"entered, and L2's RDMSR ended in {read}")
    l1.leave()
    return Attempt(ENTERED, read[0].value)


def enter_by_userspace(l1: L1) -> Attempt:
    """Set the state of an L2 at its VM-entry with L1's vmcs12; then L1's state as it was.

    L1 must wait for commands. DEBUGCTL is read by KVM_GET_MSRS; L2 executes nothing. REFUSED is
    EINVAL.
    """
    vcpu = l1.guest.vcpu
    with _borrowed(vcpu) as state:
        if not is_taken(vcpu.set_nested_state, state):
            return Attempt(REFUSED)
        return Attempt(ENTERED, vcpu.get_msr(IA32_DEBUGCTL))


def taken_from_userspace(l1: L1, values: Iterable[int]) -> list[int]:
    """Return which values :func:`enter_by_userspace` could enter L2 with in vmcs12's DEBUGCTL."""
    vcpu, taken = l1.guest.vcpu, []
    with _borrowed(vcpu) as state:
        for value in values:
            if is_taken(vcpu.set_nested_state, with_fields(state, guest_ia32_debugctl=value)):
                taken.append(value)
    return taken


@contextmanager
def _borrowed(vcpu: Vcpu) -> Iterator[bytes]:
    """Yield the nested state of an L2 at its VM-entry; L1's is set again afterwards."""
    vcpu.complete()
    regs, sregs, debugctl = vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_msr(IA32_DEBUGCTL)
    before = vcpu.get_nested_state()
    state: Any = ffi.from_buffer("char[]", bytearray(before))
    flags = lib.KVM_STATE_NESTED_GUEST_MODE | lib.KVM_STATE_NESTED_RUN_PENDING
    ffi.cast("struct kvm_nested_state *", state).flags |= flags
    yield bytes(ffi.buffer(state))
    # A vCPU that is taken out of L2 copies an empty vmcs02 over vmcs12 afterwards, once: have it do
    # so at once, and set vmcs12 again (docs/findings/vmcs12-overwritten-after-restore.md).
    vcpu.set_nested_state(before)
    vcpu.get_nested_state()
    vcpu.set_nested_state(before)
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    # A bit that a faulty KVM shows is not to be written.
    vcpu.set_msr(IA32_DEBUGCTL, debugctl & ~IA32_DEBUGCTL_FREEZE_WHILE_SMM)


def is_taken(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
    """Make a call that asks KVM for something; return False where that ends in EINVAL."""
    try:
        call(*args, **kwargs)
    except KvmError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


#: The two ways into L2, which must agree.
WAYS = {"VM-entry by L1": enter_by_l1, "KVM_SET_NESTED_STATE": enter_by_userspace}


def controls(l1: L1, *, load: bool = True, save: bool = False) -> dict[str, int]:
    """Return vmcs12's fields that tell whether an entry loads and an exit saves debug controls."""
    wanted = {
        "vm_entry_controls": (ENTRY_LOAD_DEBUG_CONTROLS, load),
        "vm_exit_controls": (EXIT_SAVE_DEBUG_CONTROLS, save),
    }
    return {field: l1.read(field) & ~bit | bit * is_set for field, (bit, is_set) in wanted.items()}


def state_debugctl(vcpu: Vcpu) -> int:
    """Return DEBUGCTL of the vmcs12 that userspace gets by KVM_GET_NESTED_STATE."""
    vcpu.complete()
    state: Any = ffi.from_buffer("char[]", bytearray(vcpu.get_nested_state()))
    return int(of_nested_state(state).guest_ia32_debugctl)


def takes_freeze_bit(machine: Machine, system: System) -> bool | None:
    """Tell whether this KVM is to take bit 14 in vmcs12; None before it has a rule for it.

    Linux kernel commit 095686e6fcb4 ("KVM: nVMX: Check vmcs12->guest_ia32_debugctl on nested
    VM-Enter") (in v6.17) is in the series of the fix, whose types show.
    """
    if offers_quirk(system):
        return True
    fix = machine.fix
    return None if isinstance(fix, Missing) or not fix.is_present else False
