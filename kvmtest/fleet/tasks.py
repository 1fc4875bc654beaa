"""Tasks
=====

The runs of a plan one by one, in lanes: what is in one lane runs one after the other.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kvmtest.target import DEADLINE

from .host import PlannedKernel
from .plan import Plan, PlannedHost

__all__ = ["Lane", "Task", "TaskKey", "lanes"]

TaskKey = tuple[str, int]
"""A kernel's name, and the number of the run of it on the host, from 1 on."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run of one kernel on one host."""

    kernel: str
    number: int
    words: tuple[str, ...] = ()
    """The options of ``kvmtest run``."""

    deadline: float = DEADLINE
    boot_deadline: float = DEADLINE
    retries: int = 1
    """How often a boot or a run that failed is tried again."""

    @property
    def key(self) -> TaskKey:
        """What names it among the tasks of its host."""
        return self.kernel, self.number

    def __str__(self) -> str:
        return f"{self.kernel} {self.number}"


@dataclass(frozen=True, slots=True)
class Lane:
    """Tasks on one machine, in their order.

    A machine that exists has one lane. A machine of the lab is made anew for each kernel, so each
    kernel has a lane there, and the lanes run side by side.
    """

    host: PlannedHost
    tasks: tuple[Task, ...]

    @property
    def folder(self) -> str:
        """The folder of its ledger, below that of the results."""
        host = self.host
        return f"{host.name}/{self.tasks[0].kernel}" if host.is_lab else host.name

    @property
    def name(self) -> str:
        """The host's name, with the kernel's where that makes the lane."""
        host = self.host
        return f"{host.name} {self.tasks[0].kernel}" if host.is_lab else host.name


def lanes(plan: Plan) -> list[Lane]:
    """Return a plan's lanes, in the order of its hosts.

    Tasks of one kernel follow each other: a host boots each kernel once. The kernel that needs no
    boot, the host's own, comes first. All others keep the plan's order.
    """
    tasks = _tasks(plan)
    found = []
    for name, host in plan.hosts.items():
        by_kernel: dict[str, list[Task]] = {}
        for task in tasks.get(name, ()):
            by_kernel.setdefault(task.kernel, []).append(task)
        ordered = [by_kernel[kernel] for kernel in _order(plan, by_kernel)]
        groups = ordered if host.is_lab else [[task for group in ordered for task in group]]
        found += [Lane(host, tuple(group)) for group in groups if group]
    return found


def _order(plan: Plan, names: Iterable[str]) -> list[str]:
    def needs_boot(kernel: PlannedKernel) -> bool:
        return kernel.kind != "own"

    return sorted(names, key=lambda name: needs_boot(plan.kernels[name]))


def _tasks(plan: Plan) -> dict[str, list[Task]]:
    """Return each host's tasks in the plan's order."""
    found: dict[str, list[Task]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for run in plan.runs:
        for host in run.hosts:
            words = tuple(plan.options(run, plan.hosts[host]).words())
            for kernel in run.kernels:
                for _ in range(run.repeat):
                    counts[host, kernel] += 1
                    task = Task(
                        kernel, counts[host, kernel], words,
                        run.deadline, run.boot_deadline, run.retries,
                    )  # fmt: skip
                    found.setdefault(host, []).append(task)
    return found
