"""Driving a lane
==============

Takes a lane's course on a real host: does each step, and writes it down before and after. An
interrupt ends the step at work, and the host is put back.
"""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from kvmtest.errors import KvmtestError
from kvmtest.interruption import Interruption
from kvmtest.target import Job, Outcome, Target, TargetFailed, TimeUp

from .course import Boot, Course, Ended, Ending, Fact, Restore, Run, Step
from .host import Host, HostLost, PlannedKernel, WrongKernel
from .tasks import Task, TaskKey

__all__ = ["Record", "drive"]

OnText = Callable[[str], None]
Opening = Callable[[], AbstractContextManager[Host]]
"""Gives a host for as long as the block lasts; raises HostLost, EnvironmentUnfit."""


class Record(Protocol):
    """What a lane writes down and keeps."""

    course: Course
    """Where the lane stands at the beginning."""

    def note(self, fact: Fact) -> None:
        """Write a fact down, before anything else happens."""

    def job_id(self, step: Run) -> str:
        """Return the name of a run's job on its host."""

    def keep(self, step: Run, outcome: Outcome) -> tuple[int, str]:
        """Keep what a run left; return its exit status, and words about it."""

    def keep_console(self, step: Run, console: str) -> None:
        """Keep what the target of a run without evidence printed."""


def drive(
    record: Record, kernels: Mapping[str, PlannedKernel], opening: Opening, show: OnText
) -> Course:
    """Take a lane's course to its end, or to an interruption; return where it stands.

    ``show`` gets what is at work; a text that ends in a newline is to stay on the screen. Raises
    KeyboardInterrupt after an interruption, when the host is put back as far as it can be.
    """
    with Interruption() as interruption, ExitStack() as stack:
        driver = _Driver(record, kernels, opening, show, stack, interruption)
        try:
            driver.drive()
        except BaseException:
            # A ledger that can't be written, or a bug: the host is to be as it was all the same.
            driver.put_back()
            raise
    if interruption.signal:
        raise KeyboardInterrupt
    return driver.course


class _Driver:
    def __init__(
        self,
        record: Record,
        kernels: Mapping[str, PlannedKernel],
        opening: Opening,
        show: OnText,
        stack: ExitStack,
        interruption: Interruption,
    ) -> None:
        self.course = record.course
        self._record = record
        self._kernels = kernels
        self._opening = opening
        self._show = show
        self._stack = stack
        self._interruption = interruption
        self._tasks: dict[TaskKey, Task] = {task.key: task for task in self.course.tasks}
        # Before a host was opened there is nothing to put back, unless another process left it.
        self._was_clean = self.course.is_clean
        self._host: Host | None = None
        self._target: Target | None = None

    def drive(self) -> None:
        while step := self.course.next:
            if self._interruption.signal:
                # An interrupted course goes on to the restoration, and no further.
                if self.course.is_clean:
                    return
                step = Restore()
            self._record.note(step)
            self.course = self.course.begun(step)
            ended = self._ended(step)
            self._record.note(ended)
            self.course = self.course.ended(ended)
            if ended.why:
                self.tell(f"{_name(step)}: {ended.ending}: {ended.why}\n")

    def put_back(self) -> None:
        """Put the host back without a record of it."""
        if self._host and not self.course.is_clean:
            with contextlib.suppress(Exception):
                self._host.restore(self._patience)

    def tell(self, text: str) -> None:
        # Nobody hears a process whose parent is dead.
        with contextlib.suppress(OSError):
            self._show(text)

    @property
    def _patience(self) -> float:
        """Seconds that a restoration may take."""
        return max(task.boot_deadline for task in self.course.tasks)

    def _ended(self, step: Step) -> Ended:
        """Do a step; return how it ended."""
        try:
            try:
                if not isinstance(step, Restore):
                    self._interruption.arm()
                return self._done(step)
            finally:
                self._interruption.defer()
        except KeyboardInterrupt:
            if not self._interruption.signal:
                raise
            return Ended(Ending.STOPPED)
        except TargetFailed as error:
            if isinstance(step, Run):
                with contextlib.suppress(KvmtestError):
                    self._record.keep_console(step, error.console)
            return Ended(_ending(error), str(error))
        except KvmtestError as error:
            return Ended(Ending.UNFIT, str(error))
        except OSError as error:
            return Ended(Ending.FAILED, str(error))

    def _done(self, step: Step) -> Ended:
        match step:
            case Boot(kernel):
                self.tell(f"booting {kernel}")
                task = next(task for task in self.course.tasks if task.kernel == kernel)
                self._target = self._open().boot(self._kernels[kernel], task.boot_deadline)
            case Run():
                return self._run(step)
            case Restore():
                self.tell("restoring")
                self._target = None
                if self._host or not self._was_clean:
                    self._open().restore(self._patience)
        return Ended(Ending.DONE)

    def _open(self) -> Host:
        if self._host is None:
            self._host = self._stack.enter_context(self._opening())
        return self._host

    def _run(self, step: Run) -> Ended:
        assert self._target, "the course boots before it runs"
        task = self._tasks[step.kernel, step.number]
        self.tell(f"running {_name(step)}")
        job = Job(task.words, deadline=task.deadline, id=self._record.job_id(step))
        outcome = self._target.run(job)
        # What is here stays here: no interrupt comes between the evidence and its folder.
        self._interruption.defer()
        status, words = self._record.keep(step, outcome)
        self.tell(f"{_name(step)}: {words}\n")
        return Ended(Ending.DONE, status=status)


def _ending(error: TargetFailed) -> Ending:
    match error:
        case HostLost():
            return Ending.LOST
        case WrongKernel():
            return Ending.WRONG_KERNEL
        case TimeUp():
            return Ending.LATE
    return Ending.FAILED


def _name(step: Step) -> str:
    match step:
        case Boot(kernel):
            return f"boot of {kernel}"
        case Run(kernel, number, attempt):
            again = f", attempt {attempt + 1}" if attempt else ""
            return f"{kernel} {number}{again}"
        case Restore():
            return "restoration"
