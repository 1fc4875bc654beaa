"""What guests see of DEBUGCTL
===========================

guest.rdmsr-hides.
"""

import secrets
from collections.abc import Iterator

from kvmtest.guests import Guest, commands, long_guest
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.judge import Absence, Reading, claim, control, measure
from kvmtest.kvm import MsrRefused, System
from kvmtest.missing import Missing

from .context import Context

__all__ = ["msr_controls", "rdmsr_hides"]

#: IA32_SYSENTER_EIP: on every x86-64 CPU, and holds any 32 bits; more than those AMD's does not
#: (AMD APM volume 2, 6.1.2), and KVM keeps to that.
IA32_SYSENTER_EIP = 0x176
#: In no CPU, and outside KVM's own range of MSRs ("KVM", 0x4b564d00 and up): RDMSR gives #GP.
NO_SUCH_MSR = 0x4B564E00
GENERAL_PROTECTION = 13


def rdmsr_hides(context: Context) -> Iterator[Reading | Absence]:
    """Read DEBUGCTL inside a guest and by KVM_GET_MSRS, with the knob off and on if there is one.

    Controls: a random value that userspace puts into an MSR must come back from both, and an MSR
    that does not exist must fault in the guest: RDMSR then shows values, and faults are not zeros.
    """
    with System() as system, system.create_vm() as vm:
        vcpu = vm.create_vcpu()
        vcpu.set_cpuid(system.get_supported_cpuid())
        guest = long_guest(vm, vcpu)
        guest.boot()
        yield from msr_controls(guest)
        yield from _without_fix(context)
        yield from _views(guest, "")
        knob = context.machine.knob
        if isinstance(knob, Missing):
            yield measure("guest", "the host-owned bit to hide", f"none here ({knob.what})")
            return
        for value in (0, 1, 0):
            knob.set(context.journal, value)
            yield from _host_bit(context, value)
            yield from _views(guest, f" with freeze_on_smi={value}")


def _without_fix(context: Context) -> Iterator[Reading]:
    """Say where there is nothing to hide because no host bit reaches the guest's DEBUGCTL."""
    fix = context.machine.fix
    if not isinstance(fix, Missing) and fix.is_of_kvm and not fix.is_present:
        yield measure("guest", "the host-owned DEBUGCTL code in this kernel", "absent")


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


def _views(guest: Guest, state: str) -> Iterator[Reading]:
    """Take one reading by the guest and one by userspace; a refused one observes nothing."""
    (result,) = guest.execute(commands.rdmsr(IA32_DEBUGCTL))
    what = f"the guest's RDMSR 0x1d9{state}"
    yield from _view(what, None if result.fault else result.values[0], str(result.fault))
    what = f"KVM_GET_MSRS 0x1d9{state}"
    try:
        yield from _view(what, guest.vcpu.get_msr(IA32_DEBUGCTL), "")
    except MsrRefused as error:
        yield from _view(what, None, str(error))


def _view(what: str, value: int | None, refusal: str) -> Iterator[Reading]:
    if value is None:
        remedy = "use a KVM that has MSR 0x1d9"
        yield control("guest", f"an answer to {what}", refusal, "a value", remedy)
        return
    yield claim("guest", f"bit 14 in {what}", _bit(value), 0, value=value)


def _host_bit(context: Context, value: int) -> Iterator[Reading]:
    """Show that the bit to hide is there: only the host's MSRs know."""
    msr = context.machine.msr
    if isinstance(msr, Missing):
        what = f"the host's bit 14 with freeze_on_smi={value}"
        yield control("guest", what, f"not visible ({msr.what})", str(value), msr.remedy)
        return
    remedy = "run where the knob reaches the MSR (see host.knob-effective)"
    for cpu, debugctl in msr.read_all(IA32_DEBUGCTL).items():
        what = f"the host's bit 14 on CPU {cpu} with freeze_on_smi={value}"
        yield control("guest", what, _bit(debugctl), value, remedy, debugctl=debugctl)


def _bit(value: int) -> int:
    return int(bool(value & IA32_DEBUGCTL_FREEZE_WHILE_SMM))
