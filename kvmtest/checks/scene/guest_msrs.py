"""The guests' MSRs
================

What a guest and userspace read and write, DEBUGCTL above all, and what shows that both are live.
"""

import secrets
from collections.abc import Iterator
from contextlib import suppress

from kvmtest.guests import Guest, UnexpectedExit, commands
from kvmtest.host.facts.msr import IA32_DEBUGCTL
from kvmtest.judge import Reading, control
from kvmtest.kvm import FailEntryExit, MsrRefused, Vcpu

__all__ = [
    "GENERAL_PROTECTION",
    "NO_SUCH_MSR",
    "OWN_BITS",
    "REFUSED",
    "TAKEN",
    "allowed_bits",
    "guest_bits",
    "guest_write",
    "msr_controls",
    "take_control",
    "user_write",
]

#: IA32_SYSENTER_EIP: on every x86-64 CPU, and holds any 32 bits; more than those AMD's does not
#: (AMD APM volume 2, 6.1.2), and KVM keeps to that.
IA32_SYSENTER_EIP = 0x176
#: In no CPU, and outside KVM's own range of MSRs ("KVM", 0x4b564d00 and up): RDMSR gives #GP.
NO_SUCH_MSR = 0x4B564E00
GENERAL_PROTECTION = 13

#: DEBUGCTL bits that a guest may have for itself, where host and guest's CPUID have the feature:
#: FREEZE_LBRS_ON_PMI, RTM_DEBUG, BUS_LOCK_DETECT. Not LBR, which makes KVM take a host counter.
OWN_BITS = (1 << 11, 1 << 15, 1 << 2)

TAKEN, REFUSED = "taken", "refused"


def msr_controls(guest: Guest) -> Iterator[Reading]:
    """Show that the guest and userspace read what an MSR holds, and that faults show."""
    token = secrets.randbits(32)
    guest.vcpu.set_msr(IA32_SYSENTER_EIP, token)
    inside, bogus = guest.execute(commands.rdmsr(IA32_SYSENTER_EIP), commands.rdmsr(NO_SUCH_MSR))
    outside = guest.vcpu.get_msr(IA32_SYSENTER_EIP)
    remedy = "load kvm with ignore_msrs=0, or report this KVM: its RDMSR can't be trusted"
    what = "the value that userspace put into MSR 0x176, read by the guest's RDMSR"
    yield control("guest", what, hex(inside.values[0]), hex(token), remedy)
    what = "the value that userspace put into MSR 0x176, read by KVM_GET_MSRS"
    yield control("guest", what, hex(outside), hex(token), remedy)
    vector = bogus.fault.vector if bogus.fault else None
    what = f"the exception of RDMSR {NO_SUCH_MSR:#x} in the guest"
    yield control("guest", what, vector, GENERAL_PROTECTION, remedy)


def take_control(guest: Guest) -> Reading:
    """Show that the guest may write DEBUGCTL at all."""
    what = "WRMSR 0x1d9=0 in the guest"
    return control("guest", what, guest_write(guest, 0), TAKEN, "use a KVM that has MSR 0x1d9")


def guest_write(guest: Guest, value: int) -> str:
    """Have the guest write DEBUGCTL; return what came of it."""
    try:
        (result,) = guest.execute(commands.wrmsr(IA32_DEBUGCTL, value))
    except UnexpectedExit as error:
        if not isinstance(error.exit, FailEntryExit):
            raise
        # KVM took what the CPU does not: the guest can't be entered with it.
        guest.vcpu.set_msr(IA32_DEBUGCTL, 0)
        guest.resume()
        return "taken, and the CPU refused to enter"
    if result.fault is None:
        return TAKEN
    return REFUSED if result.fault.vector == GENERAL_PROTECTION else str(result.fault)


def user_write(guest: Guest, value: int) -> str:
    """Have userspace write the guest's DEBUGCTL; return what came of it."""
    try:
        guest.vcpu.set_msr(IA32_DEBUGCTL, value)
    except MsrRefused:
        return REFUSED
    return TAKEN


def allowed_bits(vcpu: Vcpu) -> list[int]:
    """Return which of OWN_BITS userspace may set in the vCPU's DEBUGCTL, which is 0 after it.

    A bit is allowed where it is not refused: only BTF and LBR does KVM take and drop. Whether it is
    kept is for the check to see.
    """
    allowed = []
    for bit in OWN_BITS:
        with suppress(MsrRefused):
            vcpu.set_msr(IA32_DEBUGCTL, bit)
            allowed.append(bit)
    vcpu.set_msr(IA32_DEBUGCTL, 0)
    return allowed


def guest_bits(guest: Guest) -> list[int]:
    """Return which of OWN_BITS the guest may set; its DEBUGCTL is 0 after it."""
    allowed = [bit for bit in OWN_BITS if guest_write(guest, bit) == TAKEN]
    guest_write(guest, 0)
    return allowed
