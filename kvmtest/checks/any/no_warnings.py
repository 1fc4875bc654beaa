"""The kernel log
==============

any.no-warnings: the kernel reported no trouble during the run.
"""

from collections.abc import Iterator

from kvmtest.checks.context import Context, RunLog
from kvmtest.checks.witnesses.guest import NO_SUCH_MSR
from kvmtest.checks.witnesses.kernel_log import log_controls
from kvmtest.guests import commands, long_guest, real_guest
from kvmtest.host.facts.msr import IA32_DEBUGCTL
from kvmtest.host.facts.taint import read_taint, troubles_gained
from kvmtest.host.observe.kernel_log import LogSlice, troubles
from kvmtest.judge import Absence, Reading, claim, measure
from kvmtest.kvm import System
from kvmtest.missing import Missing

__all__ = ["log_readings", "no_warnings"]


def no_warnings(context: Context) -> Iterator[Reading | Absence]:
    """Exercise KVM's fragile paths, then read the log's records since the run began.

    The controls are the run's own mark in the log, no lost lines, and that a WARN that fired before
    the run would fire again.
    """
    run = context.kernel_log
    if isinstance(run, Missing):
        yield Absence("klog", run)
        return
    yield measure("klog", "entries into guests that this check made", _exercise())
    yield from log_readings(run, run.log.since_marker(), read_taint(context.machine.tree))


def log_readings(run: RunLog, gained: LogSlice, taint: int | Missing) -> Iterator[Reading]:
    """Yield readings of the log's records and the kernel's taints since ``run`` began."""
    found = troubles(gained.records)
    before = run.before.taint if run.before else Missing("not read")
    tainted = troubles_gained(before, taint)
    yield from log_controls(run, gained, speaks=bool(found or tainted))
    headlines = "; ".join(t.headline for t in found[:3])
    yield claim("klog", "warnings since the run began", len(found), 0, headlines=headlines)
    if run.before is not None:
        yield claim(
            "klog",
            "taints since the run began",
            ", ".join(tainted) or "none",
            "none",
            before=before if isinstance(before, int) else str(before),
            after=taint if isinstance(taint, int) else str(taint),
        )


def _exercise() -> int:
    """Boot a real-mode and a 64-bit guest, have them exit and fault; return the entries."""
    with System() as system:
        with system.create_vm() as vm:
            real = real_guest(vm)
            real.boot()
            real.ring(1000)
            entries = real.vcpu.entries
        # With a PMU, RDPMC and LBRs in DEBUGCTL take other paths in KVM.
        with system.create_vm(pmu=True) as vm:
            vcpu = vm.create_vcpu()
            vcpu.set_cpuid(system.get_supported_cpuid())
            guest = long_guest(vm, vcpu)
            guest.boot()
            guest.ring(1000)
            guest.execute(
                commands.rdmsr(IA32_DEBUGCTL),
                commands.wrmsr(IA32_DEBUGCTL, 1),
                commands.wrmsr(IA32_DEBUGCTL, 0),
                commands.rdmsr(NO_SUCH_MSR),
                commands.rdpmc(0),
            )
            return entries + vcpu.entries
