"""Running a fleet
===============

All lanes of a plan, each in a process of its own: lab machines as many as fit here, and of hosts
elsewhere up to 64 at once.
"""

from collections.abc import Callable, Sequence

from kvmtest import parallel
from kvmtest.lab.target import NEEDED_MIB
from kvmtest.parallel import Audience, Ended, Task

from .course import Course
from .drive import Opening, drive
from .plan import LabMachine, Plan
from .results import Kept, LaneRecord, Results
from .tasks import Lane

__all__ = ["HOSTS_AT_ONCE", "patience", "run", "unfinished"]

#: Hosts elsewhere that are at work at once, each with a process here that waits.
HOSTS_AT_ONCE = 64

LAB = "lab"

OnText = Callable[[str], None]
OpeningOf = Callable[[Plan, Lane, OnText], Opening]


def run(
    results: Results,
    lanes: Sequence[Lane],
    opening_of: OpeningOf,
    on_kept: Kept,
    audience: Audience,
    at_once: int | None = None,
) -> list[Ended[Course]]:
    """Take lanes from where they stand to their ends; return how their processes ended.

    ``at_once`` bounds hosts and lab machines, each. The caller holds the lock of ``results``. An
    interrupt puts all hosts back before it goes on.
    """
    tasks = [_task(results, lane, opening_of, on_kept) for lane in lanes]
    lab = at_once or _machines_that_fit(results)
    return parallel.run(
        tasks,
        at_once or HOSTS_AT_ONCE,
        audience,
        pools={LAB: lab},
        patience=patience(results),
    )


def unfinished(results: Results) -> list[Lane]:
    """Return the lanes that have something left to do; raises EnvironmentUnfit."""
    found = []
    for lane in results.lanes:
        told = results.course(lane)
        if told.resumed(results.kept(lane, told)).next:
            found.append(lane)
    return found


def patience(results: Results) -> float:
    """Return the seconds that putting back a host may take, closing it included."""
    return 60 + max((task.boot_deadline for _, task in results.tasks), default=0.0)


def _machines_that_fit(results: Results) -> int:
    needed = [
        NEEDED_MIB[reach.machine]
        for host in results.plan.hosts.values()
        if isinstance(reach := host.reach, LabMachine)
    ]
    return parallel.jobs_that_fit(max(needed)) if needed else 1


def _task(results: Results, lane: Lane, opening_of: OpeningOf, on_kept: Kept) -> Task[Course]:
    def do(show: OnText) -> Course:
        with LaneRecord(results, lane, on_kept) as record:
            return drive(record, results.plan.kernels, opening_of(results.plan, lane, show), show)

    return Task(lane.name, do, LAB if lane.host.is_lab else "")
