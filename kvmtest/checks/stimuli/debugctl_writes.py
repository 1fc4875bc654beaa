"""Writes of a guest's DEBUGCTL
============================

Writes by the guest's WRMSR and by userspace's KVM_SET_MSRS, and their outcomes.
"""

from contextlib import suppress

from kvmtest.guests import Guest, UnexpectedExit, commands
from kvmtest.host.facts.msr import (
    IA32_DEBUGCTL,
    IA32_DEBUGCTL_FREEZE_WHILE_SMM,
    IA32_PERF_CAPABILITIES,
)
from kvmtest.kvm import FailEntryExit, MsrRefused, System, Vcpu

from .stimulus import Stimulus

__all__ = [
    "FREEZE_BIT_WRITES",
    "GENERAL_PROTECTION",
    "GUEST_WRITES_0",
    "OWN_BITS",
    "REFUSED",
    "TAKEN",
    "USERSPACE_WRITES_0",
    "allow_lbr_bits",
    "allowed_bits",
    "both_write",
    "guest_bits",
    "guest_write",
    "user_write",
]

#: DEBUGCTL bits that a guest may have for itself, where host and guest's CPUID have the feature:
#: FREEZE_LBRS_ON_PMI, RTM_DEBUG, BUS_LOCK_DETECT. Not LBR, which makes KVM take a host counter.
OWN_BITS = (1 << 11, 1 << 15, 1 << 2)

#: IA32_PERF_CAPABILITIES bits 5:0 (Intel SDM volume 4, table 2-2).
LBR_FORMAT = 0x3F

TAKEN, REFUSED = "taken", "refused"
GENERAL_PROTECTION = 13


def guest_write(guest: Guest, value: int) -> str:
    """Have the guest write DEBUGCTL; return the outcome in words."""
    try:
        (result,) = guest.execute(commands.wrmsr(IA32_DEBUGCTL, value))
    except UnexpectedExit as error:
        if not isinstance(error.exit, FailEntryExit):
            raise
        # KVM took a value that the CPU refuses at VM-entry: clear it, or the guest can't run.
        guest.vcpu.set_msr(IA32_DEBUGCTL, 0)
        guest.resume()
        return "taken, and the CPU refused to enter"
    if result.fault is None:
        return TAKEN
    return REFUSED if result.fault.vector == GENERAL_PROTECTION else str(result.fault)


def user_write(guest: Guest, value: int) -> str:
    """Have userspace write the guest's DEBUGCTL; return TAKEN or REFUSED."""
    try:
        guest.vcpu.set_msr(IA32_DEBUGCTL, value)
    except MsrRefused:
        return REFUSED
    return TAKEN


def allow_lbr_bits(system: System, vcpu: Vcpu) -> None:
    """Give a vCPU the LBR format that KVM supports, so that it may set the bits about LBRs.

    A vCPU without IA32_PERF_CAPABILITIES stays without.
    """
    lbr_format = (system.get_feature_msr(IA32_PERF_CAPABILITIES) or 0) & LBR_FORMAT
    with suppress(MsrRefused):
        vcpu.set_msr(IA32_PERF_CAPABILITIES, lbr_format)


def allowed_bits(vcpu: Vcpu) -> list[int]:
    """Return which of OWN_BITS userspace may set in the vCPU's DEBUGCTL; leaves it at 0.

    A bit is allowed if KVM does not refuse it. KVM may still drop a bit, as it does with BTF and
    LBR: the check reads it back.
    """
    allowed = []
    for bit in OWN_BITS:
        with suppress(MsrRefused):
            vcpu.set_msr(IA32_DEBUGCTL, bit)
            allowed.append(bit)
    vcpu.set_msr(IA32_DEBUGCTL, 0)
    return allowed


def guest_bits(guest: Guest) -> list[int]:
    """Return which of OWN_BITS the guest may set; leaves its DEBUGCTL at 0."""
    allowed = [bit for bit in OWN_BITS if guest_write(guest, bit) == TAKEN]
    guest_write(guest, 0)
    return allowed


def both_write(guest: Guest, value: int) -> tuple[str, str]:
    """Have the guest, then userspace write DEBUGCTL; return both outcomes."""
    return guest_write(guest, value), user_write(guest, value)


def _tried(guest: Guest) -> bool:
    both_write(guest, IA32_DEBUGCTL_FREEZE_WHILE_SMM)
    return True


FREEZE_BIT_WRITES = Stimulus("the guest and userspace wrote bit 14, or tried", _tried)
GUEST_WRITES_0 = Stimulus(
    "the guest wrote 0 to DEBUGCTL", lambda guest: guest_write(guest, 0) == TAKEN
)
USERSPACE_WRITES_0 = Stimulus(
    "userspace wrote 0 to DEBUGCTL", lambda guest: user_write(guest, 0) == TAKEN
)
