"""How a fleet stands
==================

What became of each host's runs so far, by the ledgers and the evidence that stands there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmtest.evidence.counting import runs_status

from .course import Boot, Course, GivenUp, Restore, Run
from .ledger import entries
from .results import Results
from .tasks import Lane, Task

__all__ = ["AtWork", "NotDone", "Standing", "exit_status", "standings"]


@dataclass(frozen=True, slots=True)
class AtWork:
    """A step that has begun; ``since`` is in seconds since the epoch."""

    step: Boot | Run | Restore
    since: float


@dataclass(frozen=True, slots=True)
class NotDone:
    """A task without evidence; ``given_up`` says why, None if its turn has not come."""

    task: Task
    given_up: GivenUp | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How one host stands."""

    name: str
    planned: int
    """How many runs the plan has for it."""

    statuses: Sequence[int]
    """The exit statuses of the runs whose evidence is kept."""

    not_done: Sequence[NotDone]
    lost: str = ""
    """Why nothing more is done with the host; "" while it is there."""

    at_work: Sequence[AtWork] = ()
    """What its ledgers say has begun: it is at work while a fleet command is."""

    is_clean: bool = True
    """Whether the host is as it was found."""

    again: int = 0
    """How many runs were tried more than once: an earlier try left no evidence."""

    @property
    def given_up(self) -> Sequence[NotDone]:
        """The tasks that were tried in vain."""
        return [each for each in self.not_done if each.given_up]


def standings(results: Results) -> list[Standing]:
    """Return how each host stands, in the plan's order; raises EnvironmentUnfit."""
    by_host: dict[str, list[Lane]] = {}
    for lane in results.lanes:
        by_host.setdefault(lane.host.name, []).append(lane)
    return [_standing(results, name, of_host) for name, of_host in by_host.items()]


def _standing(results: Results, name: str, of_host: Sequence[Lane]) -> Standing:
    statuses: list[int] = []
    not_done: list[NotDone] = []
    at_work: list[AtWork] = []
    lost = ""
    is_clean = True
    again = 0
    for lane in of_host:
        course = results.course(lane)
        kept = results.kept(lane, course)
        statuses += kept.values()
        left = (task for task in lane.tasks if task.key not in kept)
        not_done += (NotDone(task, course.failed.get(task.key)) for task in left)
        if course.at:
            at_work.append(AtWork(course.at, _last(results.ledger(lane))))
        lost = lost or course.lost
        is_clean = is_clean and _is_clean(course, lane)
        again += sum(course.attempts.get(key, 0) > 0 for key in kept)
    planned = sum(len(lane.tasks) for lane in of_host)
    return Standing(name, planned, statuses, not_done, lost, at_work, is_clean, again)


def _is_clean(course: Course, lane: Lane) -> bool:
    return course.is_clean or lane.host.is_lab


def _last(ledger: Path) -> float:
    return entries(ledger)[-1].at


def exit_status(of: Iterable[Standing], problems: Sequence[str] = ()) -> int:
    """Return the exit status of a fleet that stands so; ``problems`` went wrong besides.

    A run that is not done counts as one that broke, and so does a host that was not put back, and
    a problem.
    """
    hosts = list(of)
    whole = not problems and all(host.is_clean and not host.not_done for host in hosts)
    return runs_status((status for host in hosts for status in host.statuses), is_whole=whole)
