"""What guests see of DEBUGCTL
===========================

guest.rdmsr-hides.
"""

from collections.abc import Iterator

from kvmtest.guests import Guest, commands, long_guest
from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.host.facts.msr import IA32_DEBUGCTL, freeze_bit
from kvmtest.judge import Absence, Reading, claim, control, measure
from kvmtest.kvm import MsrRefused, System
from kvmtest.missing import Missing

from .context import Context
from .witnesses.guest import msr_controls

__all__ = ["rdmsr_hides"]


def rdmsr_hides(context: Context) -> Iterator[Reading | Absence]:
    """Read DEBUGCTL inside a guest and by KVM_GET_MSRS, with the knob off and on if there is one.

    Controls: both must read back a random value that userspace puts into an MSR, and RDMSR of a
    missing MSR must fault in the guest. So reads show values, and no fault looks like 0.
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
            write_knob(context.journal, knob, value)
            yield from _host_bit(context, value)
            yield from _views(guest, f" with freeze_on_smi={value}")


def _without_fix(context: Context) -> Iterator[Reading]:
    """Record a kernel without the fix: no host bit reaches the guest's DEBUGCTL there."""
    fix = context.machine.fix
    if not isinstance(fix, Missing) and fix.is_of_kvm and not fix.is_present:
        yield measure("guest", "the host-owned DEBUGCTL code in this kernel", "absent")


def _views(guest: Guest, state: str) -> Iterator[Reading]:
    """Read DEBUGCTL by the guest and by userspace; a refused read is a control that fails."""
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
    yield claim("guest", f"bit 14 in {what}", freeze_bit(value), 0, value=value)


def _host_bit(context: Context, value: int) -> Iterator[Reading]:
    """Show by the host's MSRs that the bit to hide has the knob's value."""
    msr = context.machine.msr
    if isinstance(msr, Missing):
        what = f"the host's bit 14 with freeze_on_smi={value}"
        yield control("guest", what, f"not visible ({msr.what})", str(value), msr.remedy)
        return
    remedy = "run where the knob reaches the MSR (see host.knob-effective)"
    for cpu, debugctl in msr.read_all(IA32_DEBUGCTL).items():
        what = f"the host's bit 14 on CPU {cpu} with freeze_on_smi={value}"
        yield control("guest", what, freeze_bit(debugctl), value, remedy, debugctl=debugctl)
