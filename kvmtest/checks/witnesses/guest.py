"""The witness guest
=================

The controls of the witness guest: guest and userspace read MSRs, writes of DEBUGCTL reach KVM, and
L2 runs.
"""

import secrets
from collections.abc import Iterator

from kvmtest.checks.stimuli.debugctl_writes import GENERAL_PROTECTION, REFUSED, TAKEN, guest_write
from kvmtest.checks.stimuli.vmcs12_debugctl import WAYS
from kvmtest.guests import Guest, commands
from kvmtest.guests.l1 import L1
from kvmtest.judge import Reading, control

__all__ = ["IA32_SYSENTER_EIP", "NO_SUCH_MSR", "l2_controls", "msr_controls", "write_control"]

#: IA32_SYSENTER_EIP: on every x86-64 CPU, and holds any 32 bits; more than those AMD's does not
#: (AMD APM volume 2, 6.1.2), and KVM keeps to that.
IA32_SYSENTER_EIP = 0x176
#: In no CPU, and outside KVM's own range of MSRs ("KVM", 0x4b564d00 and up): RDMSR gives #GP.
NO_SUCH_MSR = 0x4B564E00
#: An activity state that KVM offers no L1 (Intel SDM volume 3, 25.4.2).
SHUTDOWN = 2


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


def l2_controls(l1: L1, which: str) -> Iterator[Reading]:
    """Show that L2 runs with this vmcs12 and reads MSRs, and that a refused entry shows.

    ``which`` ends the readings' words.
    """
    token = secrets.randbits(32)
    l1.write(guest_sysenter_eip=token, guest_ia32_debugctl=0)
    entered = l1.enter()
    observed = str(entered)
    if entered is None:
        read = l1.execute(commands.rdmsr(IA32_SYSENTER_EIP))
        observed = hex(read[0].value) if isinstance(read, list) else str(read)
        l1.leave()
    remedy = "report this KVM: its L2 can't be trusted"
    what = f"MSR 0x176 of vmcs12, as L2 reads it {which}"
    yield control("guest", what, observed, hex(token), remedy)
    l1.write(guest_activity_state=SHUTDOWN)
    for way, enter in WAYS.items():
        what = f"{way} with activity state {SHUTDOWN} in vmcs12 {which}"
        yield control("guest", what, enter(l1).outcome, REFUSED, remedy)
    l1.write(guest_activity_state=0)
