"""CPU hotplug
===========

Which CPUs can be taken offline, and what loses its place on a CPU that goes
(Documentation/core-api/cpu_hotplug.rst). :mod:`kvmtest.host.changes.hotplug` takes CPUs offline.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kvmtest.host.tree import Tree

from .cpu import CpuListError, parse_cpu_list
from .task import stat, status

__all__ = ["Bound", "Task", "cpus_allowed", "is_online", "removable", "switch"]

CPUS = "/sys/devices/system/cpu"
#: Flag of a task whose affinity nobody may set (include/linux/sched.h).
_PF_NO_SETAFFINITY = 0x04000000
#: The file of a cpuset of cgroup v1, as its mount options name it.
_CPUSET_FILES = ("cpuset.cpus", "cpus")


@dataclass(frozen=True, slots=True)
class Task:
    """A thread, by its id and its start in clock ticks, and the CPU list it may run on."""

    tid: int
    start: int
    cpus: str


@dataclass(frozen=True, slots=True)
class Bound:
    """What may not run on all online CPUs: threads, and files that hold a CPU list.

    The files are the affinities of interrupts, and the cpusets of cgroup v1. The kernel widens or
    narrows each for good when its CPUs go (``select_fallback_rq``, ``migrate_one_irq``,
    ``hotplug_update_tasks_legacy``).
    """

    tasks: tuple[Task, ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, tree: Tree) -> "Bound":
        """Look through all threads, interrupts and cpusets of ``tree``."""
        online = _cpus(tree.read(f"{CPUS}/online"))
        return cls(
            tuple(task for task in _tasks(tree) if not _cpus(task.cpus) >= online),
            tuple((name, cpus) for name, cpus in _files(tree) if not _cpus(cpus) >= online),
        )

    def alone_on(self, cpu: int) -> tuple[str, ...]:
        """Return the cpusets that have ``cpu`` alone: the kernel would move their tasks away."""
        return tuple(
            name for name, cpus in self.files if _cpus(cpus) == {cpu} and "/proc/irq/" not in name
        )

    def __bool__(self) -> bool:
        return bool(self.tasks or self.files)


def switch(cpu: int) -> str:
    """Return the file that takes a CPU offline (0) and online (1)."""
    return f"{CPUS}/cpu{cpu}/online"


def is_online(tree: Tree, cpu: int) -> bool:
    """Tell whether the CPU is online; one that can't be taken offline is."""
    return tree.read(switch(cpu)) != "0"


def removable(tree: Tree) -> tuple[int, ...]:
    """Return the online CPUs that have a file to take them offline, ascending."""
    files = tree.glob(f"{CPUS}/cpu[0-9]*/online")
    numbers = (file.parent.name.removeprefix("cpu") for file in files)
    return tuple(sorted(int(n) for n in numbers if n.isdecimal() and is_online(tree, int(n))))


def cpus_allowed(tree: Tree, name: str) -> str | None:
    """Return the CPU list that the task of the folder ``name`` may run on; None where it ended."""
    return status(tree, name).get("Cpus_allowed_list")


def _tasks(tree: Tree) -> Iterator[Task]:
    """Give the threads whose affinity can be set."""
    for folder in tree.glob("/proc/[0-9]*/task/[0-9]*"):
        name = f"/{folder.relative_to(tree.root)}"
        fields, cpus = stat(tree, name), cpus_allowed(tree, name)
        if fields and cpus and not int(fields[6]) & _PF_NO_SETAFFINITY:
            yield Task(int(folder.name), int(fields[19]), cpus)


def _files(tree: Tree) -> Iterator[tuple[str, str]]:
    """Give the CPU lists of interrupts and of cgroup v1's cpusets, by their files."""
    paths = tree.glob("/proc/irq/[0-9]*/smp_affinity_list")
    for root in _cpuset_mounts(tree):
        paths += [path for file in _CPUSET_FILES for path in tree.glob(f"{root}/*/**/{file}")]
    for path in paths:
        name = f"/{path.relative_to(tree.root)}"
        if cpus := tree.read(name):
            yield name, cpus


def _cpuset_mounts(tree: Tree) -> Iterator[str]:
    """Give where the cpusets of cgroup v1 are mounted."""
    for line in (tree.read("/proc/mounts") or "").splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cpuset" or (kind == "cgroup" and "cpuset" in options.split(",")):
            yield point


def _cpus(text: str | None) -> set[int]:
    """Return the CPUs of a list, none where the text is no list."""
    try:
        return set(parse_cpu_list(text or ""))
    except CpuListError:
        return set()
