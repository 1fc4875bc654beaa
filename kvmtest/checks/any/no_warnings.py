"""The kernel log
==============

any.no-warnings: the kernel reported no trouble during the run.
"""

from collections.abc import Iterator

from kvmtest.checks.context import Context, RunLog
from kvmtest.checks.witnesses.guest import NO_SUCH_MSR
from kvmtest.guests import commands, long_guest, real_guest
from kvmtest.host.changes.clear_warn_once import EarlierWarnings
from kvmtest.host.facts.msr import IA32_DEBUGCTL
from kvmtest.host.facts.taint import read_taint, troubles_gained
from kvmtest.host.observe.kernel_log import LogSlice, troubles
from kvmtest.judge import Absence, Reading, claim, control, measure
from kvmtest.kvm import System
from kvmtest.missing import Missing

__all__ = ["log_readings", "no_warnings"]


def no_warnings(context: Context) -> Iterator[Reading | Absence]:
    """Run guests through what easily upsets KVM, then read what the log gained since the start.

    The controls are the run's own mark, as a log that does not show it, or lost lines, shows
    nothing; and that what warned before the run would warn again.
    """
    run = context.kernel_log
    if isinstance(run, Missing):
        yield Absence("klog", run)
        return
    entries = _exercise()
    yield from log_readings(run, run.log.since_marker(), read_taint(context.machine.tree), entries)


def log_readings(
    run: RunLog, gained: LogSlice, taint: int | Missing, entries: int
) -> Iterator[Reading]:
    """Yield what the log and the kernel's ``taint`` gained since ``run`` began say."""
    found = troubles(gained.records)
    before = run.before.taint if run.before else Missing("not read")
    tainted = troubles_gained(before, taint)
    if found or tainted:
        # A warning speaks for itself; the other controls are about silence.
        yield control("klog", "the warnings, read from the log", True, True, "")
    else:
        proof = "seen" if run.marker.unproven is None else str(run.marker.unproven)
        remedy = "run as root, so that a mark can be written to /dev/kmsg"
        yield control("klog", "the run's own mark in the log", proof, "seen", remedy)
        remedy = "boot with a larger log_buf_len"
        yield control("klog", "lines lost since the mark", gained.lost, 0, remedy)
        yield from _would_warn_again(run.before)
    yield measure("klog", "entries into guests that this check made", entries)
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


def _would_warn_again(before: EarlierWarnings | None) -> Iterator[Reading]:
    """Say whether the silence is also that of WARNs that fire once a boot."""
    if before is None:
        return
    why = before.not_cleared
    proof, remedy = "yes", ""
    if why and not before.none_fired:
        proof = f"unknown, as one may have fired before the run, and {why.what}"
        remedy = why.remedy
    what = "a WARN that fires once a boot would show"
    yield control("klog", what, proof, "yes", f"{remedy}, or boot anew" if remedy else "boot anew")
    if not before.none_fired and why is None:
        limit = "their once was given back, up to Linux 6.12 not to those of modules with own words"
        yield measure("klog", "WARNs may have fired before the run", limit)


def _exercise() -> int:
    """Boot a real-mode and a 64-bit guest, have them exit and fault; return the entries."""
    with System() as system:
        with system.create_vm() as vm:
            real = real_guest(vm)
            real.boot()
            real.ring(1000)
            entries = real.vcpu.entries
        # RDPMC, and LBRs in DEBUGCTL, are other code with a PMU.
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
