"""Refusals
========

Why the kernel gives no counter, or no trustworthy count, and what to do about it.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence

from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.facts.mediated_pmu import PARAMETER, mediated_pmu
from kvmtest.host.facts.perf_pmus import (
    CORE_NAMES,
    hardware_pmu,
    perf_event_paranoid,
    watchdog_counts,
)
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

from .event import Event

__all__ = ["CounterError", "not_counted", "not_opened"]


class CounterError(EnvironmentUnfit):
    """Something can't be counted here; ``missing`` is why, ``errno`` the kernel's answer or 0."""

    def __init__(self, on: str, missing: Missing, number: int = 0) -> None:
        self.missing = missing
        self.errno = number
        code = f" ({errno.errorcode.get(number, number)})" if number else ""
        super().__init__(f"can't count {on}{code}: {missing}")


def not_opened(tree: Tree, event: Event, number: int) -> CounterError:
    """Return the error for ``event``, which perf_event_open(2) refused with errno ``number``."""
    other = Missing(os.strerror(number), "see perf_event_open(2) and the kernel log")
    why = _REASONS.get(number, other)
    return CounterError(event.name, why if isinstance(why, Missing) else why(tree, event), number)


def not_counted(
    tree: Tree, events: Sequence[Event], enabled_ns: int, running_ns: int, cpu: int | None = None
) -> CounterError:
    """Return the error for a group that did not count all the time that it was enabled.

    Both times are 0 for a pinned group in error state, which reads as end of file. ``cpu`` is the
    only CPU on which the group counts its thread.
    """
    if not enabled_ns:
        what = "the pinned group did not get its counters"
    elif not running_ns:
        what = "the group was never given its counters"
    else:
        what = f"the group was multiplexed: it counted {running_ns} ns of {enabled_ns}"
    remedies = ["end other perf sessions"]
    if _watchdog_competes(tree, events):
        remedies.append("sysctl kernel.nmi_watchdog=0 (it takes a counter)")
    for pmu in sorted({event.pmu for event in events} & _kinds_of_core(tree)):
        remedies.append(f"keep the thread on the CPUs of {pmu}")
    if cpu is not None:
        remedies.append(f"keep the thread on CPU {cpu}")
    missing = Missing(what, ", ".join([*remedies, "or count fewer events at once"]))
    return CounterError(", ".join(event.name for event in events), missing)


def _kinds_of_core(tree: Tree) -> set[str]:
    """Return the PMUs that count on one kind of core only."""
    cores = hardware_pmu(tree)
    found = () if isinstance(cores, Missing) else cores
    return {*CORE_NAMES[1:], *(pmu.name for pmu in found if pmu.is_kind_of_core)}


def _forbidden(tree: Tree, event: Event) -> Missing:
    # Not kernel lockdown: it keeps perf from samples of registers alone (LOCKDOWN_PERF in
    # kernel/events/core.c).
    if os.geteuid() == 0:
        return Missing(
            "root may not use perf: a container's seccomp filter or an LSM forbids it",
            "run outside of the container",
        )
    level = perf_event_paranoid(tree)
    if isinstance(level, Missing):
        return level
    return Missing(
        f"not permitted: kernel.perf_event_paranoid is {level}",
        "run as root or with CAP_PERFMON, or sysctl kernel.perf_event_paranoid=-1",
    )


def _is_of_cores(tree: Tree, event: Event) -> bool:
    cores = hardware_pmu(tree)
    names = () if isinstance(cores, Missing) else (pmu.name for pmu in cores)
    return event.pmu in ("hardware", *CORE_NAMES, *names)


def _watchdog_competes(tree: Tree, events: Sequence[Event]) -> bool:
    """Tell whether the NMI watchdog holds a counter that one of the events could have."""
    return any(_is_of_cores(tree, event) for event in events) and watchdog_counts(tree)


def _unknown(tree: Tree, event: Event) -> Missing:
    cores = hardware_pmu(tree) if _is_of_cores(tree, event) else ()
    if isinstance(cores, Missing):
        return cores
    return Missing(
        f"PMU {event.pmu} can't count this event, or not on this CPU",
        "choose another event (ls /sys/bus/event_source/devices/*/events) or an online CPU",
    )


def _unsupported(tree: Tree, event: Event) -> Missing:
    counts_guests = _is_of_cores(tree, event) and "exclude_guest" not in event.excluded
    if counts_guests and mediated_pmu(KvmModule.of(tree)) is True:
        return Missing(
            "a VM with a mediated PMU is running, beside which no event may count guests",
            f"stop that VM, exclude guests (modifier H), or load the KVM module with {PARAMETER}=0",
        )
    return _unknown(tree, event)


def _invalid(tree: Tree, event: Event) -> Missing:
    excluded = "".join(f", {bit}" for bit in sorted(event.excluded))
    return Missing(
        f"PMU {event.pmu} refuses config {event.config:#x}{excluded}, the CPU, or so big a group",
        "leave modifiers out, choose an online CPU, or count fewer events at once",
    )


def _busy(tree: Tree, event: Event) -> Missing:
    if _watchdog_competes(tree, [event]):
        return Missing("its counter is taken", "sysctl kernel.nmi_watchdog=0 (it takes a counter)")
    return Missing("its counter is taken", "end other perf sessions")


_REASONS: Mapping[int, Callable[[Tree, Event], Missing] | Missing] = {
    errno.EACCES: _forbidden,
    errno.EPERM: _forbidden,
    errno.ENOENT: _unknown,
    errno.ENODEV: _unknown,
    errno.EOPNOTSUPP: _unsupported,
    errno.EINVAL: _invalid,
    errno.EBUSY: _busy,
    errno.ENOSYS: Missing("perf is not in this kernel", "boot one with CONFIG_PERF_EVENTS"),
    errno.ESRCH: Missing("the thread has ended", "count a thread that lives"),
    errno.EMFILE: Missing("too many files are open", "raise the limit of open files (ulimit -n)"),
}
