"""What SVM guests may read and write
===================================

svm.guest.debugctl: MSR 0x1d9 under KVM on SVM (arch/x86/kvm/svm/svm.c, ``svm_set_msr`` and
``svm_get_msr``), by the version of the kernel and by whether LBRs are virtualised.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import REFUSED, TAKEN, guest_write, user_write
from kvmtest.checks.witnesses.guest import msr_controls
from kvmtest.guests import Guest, commands
from kvmtest.host.facts.cpu import Cpu
from kvmtest.host.facts.kernel import Kernel
from kvmtest.host.facts.msr import IA32_DEBUGCTL
from kvmtest.judge import Absence, Reading, claim, control, measure
from kvmtest.missing import Missing

__all__ = ["Expected", "debugctl", "expected"]

#: LBR, BTF, and bits 5:2, which old AMD manuals have for external pins (AMD APM volume 2, 13.1.1).
LBR, BTF, PINS = 1 << 0, 1 << 1, 0b1111 << 2
#: CPUID.7.0:ECX bit 24, bus lock detection: with it, bit 2 would be the guest's own.
CPUID_BUS_LOCK_DETECT = 1 << 24

#: What is written: each kind of bit alone, bits that only Intel's CPUs have (FREEZE_LBRS_ON_PMI,
#: FREEZE_WHILE_SMM, RTM_DEBUG), and good ones together with bad ones.
WRITES = (LBR, BTF, 1 << 2, PINS, LBR | BTF | PINS, 1 << 6, 1 << 11, 1 << 14, 1 << 15, 1 << 63,
          LBR | 1 << 14, 0)  # fmt: skip

Version = tuple[int, int, int]


class Expected(NamedTuple):
    """The expected outcome of a write, and the MSR's value after it; None if both are allowed."""

    outcome: str
    value: int | None


def expected(value: int, *, lbrv: bool, version: Version | None) -> Expected:
    """Return the outcome in KVM of this upstream version of writing ``value`` after 0.

    Without virtual LBRs KVM takes any write, says so in the kernel log, and drops it.
    """
    if not lbrv:
        return Expected(TAKEN, 0)
    if value & ~(LBR | BTF | PINS):
        return Expected(REFUSED, 0)
    keeps = _keeps_pins(version)
    if keeps is None and value & ~LBR:
        return Expected(TAKEN, None)
    return Expected(TAKEN, value if keeps else value & LBR)


def _keeps_pins(version: Version | None) -> bool | None:
    """Return whether KVM keeps a guest's BTF and bits 5:2; None if that is unknown."""
    # Before Linux kernel commits ee89e8013383 ("KVM: SVM: Drop DEBUGCTL[5:2] from guest's effective
    # value") and d0eac42f5cec ("KVM: SVM: Suppress DEBUGCTL.BTF on AMD") (both in v6.14), KVM keeps
    # these bits. Longterm kernels have them from some point on: 6.12 from 6.12.19.
    if version is None:
        return None
    if version >= (6, 14, 0) or (6, 12, 19) <= version < (6, 13, 0):
        return False
    return True if version < (6, 1, 0) or (6, 12, 0) <= version < (6, 12, 19) else None


def debugctl(context: Context) -> Observations:
    """Have a guest and userspace write bits of every kind, and both read the MSR back."""
    kernel, module = context.machine.kernel, context.machine.kvm_module
    version = kernel.version if isinstance(kernel, Kernel) else None
    lbrv = module if isinstance(module, Missing) else module.enabled("lbrv")
    if isinstance(lbrv, Missing):
        yield Absence("guest", lbrv)
        return
    yield from _lbrv_control(context.machine.cpu, lbrv=lbrv)
    with Scene(context, "guest") as scene:
        cpuid = scene.system.get_supported_cpuid()
        leaf = cpuid.find(7)
        if leaf is not None:
            cpuid = cpuid.replace(7, ecx=leaf.ecx & ~CPUID_BUS_LOCK_DETECT)
        with scene.guest(cpuid) as guest:
            scene.run(guest)
            yield from msr_controls(guest)
            for value in WRITES:
                for writer, write in (
                    ("the guest's WRMSR", guest_write),
                    ("KVM_SET_MSRS", user_write),
                ):
                    yield control(
                        "guest", "KVM_SET_MSRS 0x1d9=0", user_write(guest, 0), TAKEN,
                        "use a KVM that has MSR 0x1d9",
                    )  # fmt: skip
                    what = f"{writer} 0x1d9={value:#x}"
                    expects = expected(value, lbrv=lbrv, version=version)
                    yield claim("guest", what, write(guest, value), expects.outcome)
                    yield from _readings(guest, what, expects.value)
            user_write(guest, 0)


def _readings(guest: Guest, after: str, value: int | None) -> Iterator[Reading]:
    """Read the MSR in the guest and by userspace."""
    (result,) = guest.execute(commands.rdmsr(IA32_DEBUGCTL))
    inside = str(result.fault) if result.fault else hex(result.values[0])
    outside = hex(guest.vcpu.get_msr(IA32_DEBUGCTL))
    for reader, seen in (("the guest's RDMSR", inside), ("KVM_GET_MSRS", outside)):
        what = f"{reader} 0x1d9 after {after}"
        if value is None:
            yield measure("guest", what, seen)
        else:
            yield claim("guest", what, seen, hex(value))


def _lbrv_control(cpu: Cpu | Missing, *, lbrv: bool) -> Iterator[Reading]:
    """Show that KVM virtualises LBRs only where the CPU can."""
    has = isinstance(cpu, Cpu) and "lbrv" in cpu.features
    what = f"kvm_amd virtualises LBRs on a CPU {'with' if has else 'without'} LBR virtualisation"
    yield control("guest", what, lbrv, lbrv and has, "report this kernel's parameter lbrv")
