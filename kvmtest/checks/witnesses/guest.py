"""The witness guest
=================

The controls of the witness guest: guest and userspace read MSRs, and writes of DEBUGCTL reach KVM.
"""

import secrets
from collections.abc import Iterator

from kvmtest.checks.stimuli.debugctl_writes import TAKEN, guest_write
from kvmtest.guests import Guest, commands
from kvmtest.judge import Reading, control

__all__ = ["NO_SUCH_MSR", "msr_controls", "write_control"]

#: IA32_SYSENTER_EIP: on every x86-64 CPU, and holds any 32 bits; more than those AMD's does not
#: (AMD APM volume 2, 6.1.2), and KVM keeps to that.
IA32_SYSENTER_EIP = 0x176
#: In no CPU, and outside KVM's own range of MSRs ("KVM", 0x4b564d00 and up): RDMSR gives #GP.
NO_SUCH_MSR = 0x4B564E00
GENERAL_PROTECTION = 13


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


def write_control(guest: Guest) -> Reading:
    """Show that the guest may write DEBUGCTL at all."""
    what = "WRMSR 0x1d9=0 in the guest"
    return control("guest", what, guest_write(guest, 0), TAKEN, "use a KVM that has MSR 0x1d9")
