"""CPU hotplug
===========

Takes a CPU offline and brings it online through its file in sysfs
(Documentation/core-api/cpu_hotplug.rst). The journal's undo brings it online, and then restores
what the kernel unbound from it.
"""

from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.hotplug import Bound, switch

__all__ = ["bring_online", "keep_bound", "take_offline"]


def keep_bound(journal: Journal, bound: Bound) -> None:
    """Record affinities, before a CPU is taken offline; the undo restores those that changed."""
    if bound:
        tasks = [(task.tid, task.start, task.cpus) for task in bound.tasks]
        journal.keep_affinities(tasks, bound.files)


def take_offline(journal: Journal, cpu: int) -> None:
    """Take a CPU offline. Raises JournalError where the kernel refuses.

    The kernel ends others' perf events on that CPU, and moves its tasks and interrupts away: call
    :func:`keep_bound` first.
    """
    journal.write(switch(cpu), "0")


def bring_online(journal: Journal, cpu: int) -> None:
    """Bring a CPU online. Raises JournalError where the kernel refuses."""
    journal.write(switch(cpu), "1")
