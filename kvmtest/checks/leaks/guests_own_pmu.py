"""The guest's own PMU
====================

The PMU of the guests of vmx.leak.guest-pmu: emulated by KVM with perf events of the host, or
mediated, which gives them the CPU's own counters (host/facts/mediated_pmu.py).
"""

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager

from kvmtest.checks.context import Context
from kvmtest.checks.scene import Scene
from kvmtest.errors import EnvironmentUnfit
from kvmtest.guests import Guest
from kvmtest.host.changes.journal import JournalError
from kvmtest.host.facts.perf_pmus import nmi_watchdog
from kvmtest.host.machine import Machine
from kvmtest.judge import Reading, control, measure
from kvmtest.kvm import KvmError
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError, CounterGroup, find_event

__all__ = ["guest_with_pmu", "make_way", "refused", "whose_counters"]

NMI_WATCHDOG = "/proc/sys/kernel/nmi_watchdog"
EMULATED, MEDIATED = "emulated", "mediated"


def make_way(context: Context) -> Missing | None:
    """Stop the NMI watchdog if KVM's PMU is mediated; return what prevents that.

    The watchdog's event counts guests too, and so keeps KVM from giving one a mediated PMU.
    """
    machine = context.machine
    if machine.mediated_pmu is not True or nmi_watchdog(machine.tree) is not True:
        return None
    try:
        context.journal.write(NMI_WATCHDOG, "0")
    except JournalError as error:
        what = f"the NMI watchdog keeps KVM from giving guests a mediated PMU ({error})"
        return Missing(what, "sysctl kernel.nmi_watchdog=0")
    return None


def guest_with_pmu(scene: Scene) -> AbstractContextManager[Guest]:
    """Give a guest with a PMU; with a mediated one KVM wants the local APIC in the kernel."""
    return scene.guest(pmu=True, irqchip=scene.machine.mediated_pmu is True)


def refused(error: KvmError) -> Missing | None:
    """Return what is missing if KVM refused a guest a mediated PMU; None for another error."""
    if (error.ioctl, error.errno) != ("KVM_CREATE_VCPU", errno.EBUSY):
        return None
    return Missing(
        "KVM can't give a guest a mediated PMU while an event that counts guests is open",
        "end system-wide perf sessions (perf stat -a, perf record -a, perf top)",
    )


def whose_counters(scene: Scene) -> Iterator[Reading]:
    """Show which PMU the guests have, while they exist.

    Beside a mediated PMU, perf refuses to count guests.
    """
    if scene.machine.mediated_pmu is not True:
        yield measure("leak", "the guests' PMU", EMULATED)
        return
    seen = _beside_it(scene.machine)
    remedy = "report this KVM: it has enable_mediated_pmu=Y, and emulates"
    yield control("leak", "the guests' PMU", seen, MEDIATED, remedy)


def _beside_it(machine: Machine) -> str:
    """Tell the guests' PMU by perf's answer to an event that counts guests."""
    pmus = machine.pmus
    if isinstance(pmus, Missing):
        raise EnvironmentUnfit(str(pmus))
    event = find_event(machine.tree, f"{pmus[0].name}/instructions/G", pmus)
    try:
        CounterGroup(machine.tree, [event]).close()
    except CounterError as error:
        return MEDIATED if error.errno == errno.EOPNOTSUPP else f"unknown: {error.missing.what}"
    return EMULATED
