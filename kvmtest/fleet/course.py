"""The course of a lane
====================

What is done next on a host, and what follows from how that ended: without any input or output, so
that real hosts and a simulation take the same course.

    course = Course(tasks)
    while step := course.next:
        course = course.begun(step)
        course = course.ended(*do(step))
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from .tasks import Task, TaskKey

__all__ = [
    "Boot",
    "Course",
    "Ended",
    "Ending",
    "Fact",
    "GivenUp",
    "Restore",
    "Resumed",
    "Run",
    "Step",
]


@dataclass(frozen=True, slots=True)
class Boot:
    """Have the host run a kernel."""

    kernel: str


@dataclass(frozen=True, slots=True)
class Run:
    """Run a task on the kernel that was booted, and keep its evidence.

    ``attempt`` is 0 the first time. It is part of the job's name: a new attempt is a new job.
    """

    kernel: str
    number: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Restore:
    """Leave the host as it was found."""


Step: TypeAlias = Boot | Run | Restore


class Ending(StrEnum):
    """How a step ended."""

    DONE = "done"
    """Booted, restored, or the evidence is kept."""

    FAILED = "failed"
    """It may go better next time: a boot that failed, a run without evidence."""

    UNFIT = "unfit"
    """It can't be done on this host."""

    WRONG_KERNEL = "wrong kernel"
    """The host came back with another kernel; it may go better next time."""

    LATE = "deadline"
    """The run did not end within its deadline; it may next time."""

    LOST = "lost"
    """The host does not answer."""

    STOPPED = "stopped"
    """The fleet was interrupted."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of the step that was begun last; ``why`` is for all endings but DONE."""

    ending: Ending
    why: str = ""
    status: int = 0
    """Of a run that is done: the exit status that its evidence has."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a task has no evidence: the last step that was tried for it, and how that ended."""

    step: Boot | Run
    ended: Ended


@dataclass(frozen=True, slots=True)
class Resumed:
    """Another process went on with the course."""


Fact: TypeAlias = Boot | Run | Restore | Ended | Resumed
"""What a ledger holds: a step that begins, how it ended, or another process that goes on."""


@dataclass(frozen=True, slots=True)
class Course:
    """Where a lane stands."""

    tasks: tuple[Task, ...]
    done: Mapping[TaskKey, int] = field(default_factory=dict)
    """The tasks whose evidence is kept, each with the exit status of its run."""

    failed: Mapping[TaskKey, GivenUp] = field(default_factory=dict)
    """The tasks that are given up."""

    attempts: Mapping[TaskKey, int] = field(default_factory=dict)
    """How many runs of a task have ended without evidence."""

    tries: int = 0
    """How many steps in a row have failed for the task that is next."""

    running: str | None = None
    """The kernel that was booted; None before a boot and after a restoration."""

    is_clean: bool = True
    """Whether the host is as it was found."""

    is_shaken: bool = False
    """Whether the host must be restored before anything else."""

    lost: str = ""
    """Why nothing more is done with the host; "" while it is there."""

    at: Step | None = None
    """The step that was begun and has not ended."""

    orphan: TaskKey | None = None
    """The task whose job was at work when the process that asked for it died."""

    @property
    def left(self) -> Sequence[Task]:
        """The tasks that are neither done nor given up, in their order."""
        return [t for t in self.tasks if t.key not in self.done and t.key not in self.failed]

    @property
    def next(self) -> Step | None:
        """The next step; None at the end of the course."""
        if self.lost:
            return None
        task = self._next_task
        if self.is_shaken or (task is None and not self.is_clean):
            return Restore()
        if task is None:
            return None
        if self.running != task.kernel:
            return Boot(task.kernel)
        return Run(task.kernel, task.number, self.attempts.get(task.key, 0))

    @property
    def _next_task(self) -> Task | None:
        # A job that is at work is taken up before another one takes its place.
        left = sorted(self.left, key=lambda task: task.key != self.orphan)
        return left[0] if left else None

    def begun(self, step: Step) -> "Course":
        """Return the course when a step has begun."""
        now = replace(self, at=step, is_clean=False, orphan=self._orphan)
        match step:
            case Run(kernel, number, attempt):
                # The evidence that it had was removed.
                done = {key: at for key, at in self.done.items() if key != (kernel, number)}
                attempts = {**self.attempts, (kernel, number): attempt}
                return replace(now, orphan=None, done=done, attempts=attempts)
            case Restore() if now.orphan:
                # Its job is no more: what comes next is another one.
                return replace(now, orphan=None, attempts=self._after_attempts([now.orphan]))
        return now

    @property
    def _orphan(self) -> TaskKey | None:
        return (self.at.kernel, self.at.number) if isinstance(self.at, Run) else self.orphan

    def ended(self, ended: Ended) -> "Course":
        """Return the course when the step that was begun has ended."""
        now = replace(self, at=None)
        match self.at, ended.ending:
            case Restore(), Ending.DONE:
                return replace(now, is_clean=True, is_shaken=False, running=None)
            case Restore(), Ending.STOPPED:
                return replace(now, is_shaken=True, running=None)
            case Restore(), _:
                return replace(now, lost=ended.why or "not restored", running=None)
            case Boot(kernel), Ending.DONE:
                return replace(now, running=kernel)
            case Run(kernel, number), Ending.DONE:
                done = {**self.done, (kernel, number): ended.status}
                return replace(now, done=done, tries=0)
            case (Boot() | Run()) as step, _:
                return now._without(step, ended)
        raise ValueError("no step was begun")

    def _without(self, step: Boot | Run, ended: Ended) -> "Course":
        """Return the course when a boot or a run has failed: it is tried again, or given up.

        The host is restored first: nobody knows what a failure has left.
        """
        shaken = replace(self, is_shaken=True, running=None)
        if isinstance(step, Run):
            attempts = self._after_attempts([(step.kernel, step.number)])
            shaken = replace(shaken, attempts=attempts)
        if ended.ending is Ending.STOPPED:
            return shaken
        # A kernel that the host does not boot is given up in all its tasks.
        tried = [
            task
            for task in self.left
            if task.kernel == step.kernel and (isinstance(step, Boot) or task.number == step.number)
        ]
        if ended.ending is not Ending.UNFIT and self.tries < max(t.retries for t in tried):
            return replace(shaken, tries=self.tries + 1)
        failed = {**self.failed, **{each.key: GivenUp(step, ended) for each in tried}}
        return replace(shaken, failed=failed, tries=0)

    def _after_attempts(self, keys: Iterable[TaskKey]) -> dict[TaskKey, int]:
        """Return the number of attempts where tasks have had one more."""
        return {**self.attempts, **{key: self.attempts.get(key, 0) + 1 for key in keys}}

    @classmethod
    def of(cls, tasks: Iterable[Task], facts: Iterable[Fact]) -> "Course":
        """Return the course that a ledger tells of."""
        course = cls(tuple(tasks))
        for fact in facts:
            match fact:
                case Ended():
                    course = course.ended(fact)
                case Resumed():
                    course = course.resumed(course.done)
                case _:
                    course = course.begun(fact)
        return course

    def resumed(self, kept: Mapping[TaskKey, int]) -> "Course":
        """Return the course as another process goes on with it.

        ``kept`` are the tasks whose evidence stands in the results, whatever the ledger says: what
        somebody removed is run again, as another job. What was given up is tried again, and a host
        that was lost is restored first. A job that was at work is asked for again by its name.
        """
        restores = bool(self.lost) or self.is_shaken or isinstance(self.at, Restore)
        return replace(
            self,
            done=dict(kept),
            failed={},
            attempts=self._after_attempts(self.done.keys() - kept.keys()),
            tries=0,
            running=None,
            is_shaken=restores and not self.is_clean,
            lost="",
            at=None,
            orphan=self._orphan,
        )
