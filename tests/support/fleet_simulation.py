"""A fleet whose hosts take their time and fail, in simulated time.

The courses of its lanes are kvmtest's own (kvmtest/fleet/course.py); what a step takes and how it
ends is drawn by the chances below. No host waits for another, but a lane waits for a place among
those at work, which it keeps to its end, as the process of a real one does.
"""

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kvmtest.fleet.course import Boot, Course, Ended, Ending, Restore, Run, Step
from kvmtest.fleet.ledger import Entry
from kvmtest.fleet.tasks import Lane

__all__ = [
    "BOOT",
    "INSTALL",
    "PACE",
    "RESTORE",
    "RUN",
    "STAYS_LOST",
    "UNFIT",
    "Chances",
    "Schedule",
    "Story",
    "schedule",
    "story",
]


class Chances(NamedTuple):
    """How a step ends and what it takes: seconds with a median and a spread, both of a log-normal.

    ``fails``: it ends without what it was for, after the time that it takes; a boot, with another
    kernel. ``hangs``: it has not ended at its deadline. ``lost``: from then on the host does not
    answer, which shows at the deadline.
    """

    what: str
    median_s: float
    spread: float
    fails: float = 0.0
    hangs: float = 0.0
    lost: float = 0.0
    failed: Ending = Ending.FAILED
    late: Ending = Ending.FAILED


#: The spread of hosts: a slow one is slow at everything.
PACE = 0.3
#: A server's firmware takes minutes.
BOOT = Chances("boot", 240, 0.35, fails=0.01, lost=0.005, failed=Ending.WRONG_KERNEL)
INSTALL = Chances("copy and install a kernel", 45, 0.4)
RUN = Chances("run", 180, 0.4, fails=0.004, hangs=0.002, lost=0.002, late=Ending.LATE)
#: A host that was lost is there again after a power cycle, or never.
RESTORE = Chances("restore, with a boot", 285, 0.35, lost=0.001)
#: Of what was lost, the share that a restoration does not bring back.
STAYS_LOST = 0.4
#: The share of hosts and kernels that do not fit each other.
UNFIT = 0.005


@dataclass(frozen=True, slots=True)
class Story:
    """What becomes of a lane: entries of its ledger, from second 0 on, and where it ends."""

    lane: Lane
    entries: Sequence[Entry]
    course: Course

    @property
    def seconds(self) -> float:
        """How long the host is at work."""
        return self.entries[-1].at if self.entries else 0.0

    @property
    def steps(self) -> Counter[str]:
        """How many steps of each kind were taken."""
        facts = (entry.fact for entry in self.entries)
        return Counter(type(fact).__name__ for fact in facts if not isinstance(fact, Ended))


class Schedule(NamedTuple):
    """When lanes are through, in seconds, with ``at_once`` of them at work."""

    at_once: int
    makespan: float
    utilisation: float


class _Host:
    """One host's fate, which its seed decides, whatever other hosts do."""

    def __init__(self, lane: Lane, seed: int) -> None:
        self._chance = random.Random(f"{seed} {lane.name}")
        self._pace = self._chance.lognormvariate(0, PACE)
        self._is_lost = False
        self._tasks = {task.key: task for task in lane.tasks}
        kernels = dict.fromkeys(task.kernel for task in lane.tasks)
        self._unfit = {kernel for kernel in kernels if self._chance.random() < UNFIT}

    def take(self, step: Step) -> tuple[float, Ended]:
        """Return the seconds that a step takes, and how it ends."""
        match step:
            case Boot(kernel) if kernel in self._unfit:
                return self._time(INSTALL), Ended(Ending.UNFIT, f"{kernel} is not for this machine")
            case Boot(kernel):
                deadline = next(t.boot_deadline for t in self._tasks.values() if t.kernel == kernel)
                seconds, ended = self._take(BOOT, deadline)
                return self._time(INSTALL) + seconds, ended
            case Run(kernel, number):
                return self._take(RUN, self._tasks[kernel, number].deadline)
            case Restore():
                deadline = max(task.boot_deadline for task in self._tasks.values())
                if self._is_lost and self._chance.random() < STAYS_LOST:
                    return deadline, Ended(Ending.LOST, f"no answer for {deadline:.0f} s")
                return self._take(RESTORE, deadline)

    def _take(self, of: Chances, deadline: float) -> tuple[float, Ended]:
        seconds, chance = self._time(of), self._chance.random()
        self._is_lost = chance < of.lost
        if self._is_lost:
            return deadline, Ended(Ending.LOST, f"no answer for {deadline:.0f} s")
        if chance < of.lost + of.hangs or seconds > deadline:
            return deadline, Ended(of.late, f"not done after {deadline:.0f} s")
        if chance < of.lost + of.hangs + of.fails:
            return seconds, Ended(of.failed, f"{of.what} failed")
        return seconds, Ended(Ending.DONE)

    def _time(self, of: Chances) -> float:
        return self._pace * self._chance.lognormvariate(0, of.spread) * of.median_s


def story(lane: Lane, seed: int) -> Story:
    """Take a lane to its end."""
    course, host, at = Course(lane.tasks), _Host(lane, seed), 0.0
    entries = []
    while step := course.next:
        entries.append(Entry(at, step))
        seconds, ended = host.take(step)
        at += seconds
        entries.append(Entry(at, ended))
        course = course.begun(step).ended(ended)
    return Story(lane, entries, course)


def schedule(stories: Sequence[Story], at_once: int) -> Schedule:
    """Return the schedule of lanes that begin in their order, as soon as there is a place."""
    free = [0.0] * at_once
    for each in stories:
        heapq.heappush(free, heapq.heappop(free) + each.seconds)
    busy = sum(each.seconds for each in stories)
    return Schedule(at_once, max(free), busy / (at_once * max(free)))
