"""Refusals
========

Why the kernel gives no counter, or no count that can be trusted, and what to do about it.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence

from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.perf_pmus import (
    HARDWARE_PMUS,
    hardware_pmu,
    nmi_watchdog,
    perf_event_paranoid,
)
from kvmtest.host.security import LOCKDOWN_OFF, lockdown
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

from .event import Event

__all__ = ["CounterError", "not_counted", "not_opened", "tracepoints_hidden"]


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
    tree: Tree, events: Sequence[Event], enabled_ns: int, running_ns: int
) -> CounterError:
    """Return the error for a group that did not count all the time that it was enabled.

    Both are 0 for a pinned group in its error state, which perf reads as end of file.
    """
    if not enabled_ns:
        what = "the pinned group did not get its counters"
    elif not running_ns:
        what = "the group was never given its counters"
    else:
        share = running_ns / enabled_ns
        what = f"the group was multiplexed: it counted {share:.1%} of the time that it was enabled"
    remedies = [
        "end other perf sessions",
        *(
            ["sysctl kernel.nmi_watchdog=0 (it takes a counter)"]
            if nmi_watchdog(tree) is True
            else []
        ),
        *(f"keep the thread on the CPUs of {pmu}" for pmu in _kinds_of_core(events)),
        "or count fewer events at once",
    ]
    return CounterError(
        ", ".join(event.name for event in events), Missing(what, ", ".join(remedies))
    )


def tracepoints_hidden(tree: Tree) -> Missing:
    """Return why this machine shows no tracepoints (tracefs_lockdown in fs/tracefs/inode.c)."""
    state = _lockdown(tree)
    if state:
        return Missing(
            f"tracefs can't be read under kernel lockdown ({state})", "turn lockdown off"
        )
    if os.geteuid():
        return Missing("tracefs can't be read, or is not mounted", "run as root")
    return Missing("tracefs is not mounted", "mount -t tracefs tracefs /sys/kernel/tracing")


def _kinds_of_core(events: Sequence[Event]) -> list[str]:
    """Return the PMUs among the events' that count on one kind of core alone."""
    return sorted({event.pmu for event in events} & {"cpu_core", "cpu_atom"})


def _lockdown(tree: Tree) -> str:
    """Return the lockdown state, or nothing where it is off or unknown."""
    state = lockdown(tree)
    return "" if isinstance(state, Missing) or state == LOCKDOWN_OFF else state


def _forbidden(tree: Tree, event: Event) -> Missing:
    state = _lockdown(tree)
    if os.geteuid() == 0:
        by = f"kernel lockdown ({state})" if state else "a container's seccomp filter or an LSM"
        return Missing(f"root may not use perf: {by} forbids it", "run outside of it")
    level = perf_event_paranoid(tree)
    if isinstance(level, Missing):
        return level
    locked = f", and kernel lockdown is on ({state})" if state else ""
    return Missing(
        f"not permitted: kernel.perf_event_paranoid is {level}{locked}",
        "run as root or with CAP_PERFMON, or sysctl kernel.perf_event_paranoid=-1",
    )


def _unknown(tree: Tree, event: Event) -> Missing:
    cores = hardware_pmu(tree) if event.pmu in ("hardware", *HARDWARE_PMUS) else ()
    if isinstance(cores, Missing):
        return cores
    return Missing(
        f"PMU {event.pmu} can't count this event, or not on this CPU",
        "choose another event (ls /sys/bus/event_source/devices/*/events) or an online CPU",
    )


def _invalid(tree: Tree, event: Event) -> Missing:
    excluded = "".join(f", {bit}" for bit in sorted(event.excluded))
    return Missing(
        f"PMU {event.pmu} refuses config {event.config:#x}{excluded}, the CPU, or so big a group",
        "leave modifiers out, choose an online CPU, or count fewer events at once",
    )


def _busy(tree: Tree, event: Event) -> Missing:
    if nmi_watchdog(tree) is True:
        return Missing("its counter is taken", "sysctl kernel.nmi_watchdog=0 (it takes a counter)")
    return Missing("its counter is taken", "end other perf sessions")


_REASONS: Mapping[int, Callable[[Tree, Event], Missing] | Missing] = {
    errno.EACCES: _forbidden,
    errno.EPERM: _forbidden,
    errno.ENOENT: _unknown,
    errno.ENODEV: _unknown,
    errno.EOPNOTSUPP: _unknown,
    errno.EINVAL: _invalid,
    errno.EBUSY: _busy,
    errno.ENOSYS: Missing("perf is not in this kernel", "boot one with CONFIG_PERF_EVENTS"),
    errno.ESRCH: Missing("the thread has ended", "count a thread that lives"),
    errno.EMFILE: Missing("too many files are open", "raise the limit of open files (ulimit -n)"),
}
