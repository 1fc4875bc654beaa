"""Several at once
===============

Runs tasks in processes of their own, several at a time, and returns their results in the order of
the tasks. A task is a process and not a thread: an interrupt then ends it by an exception in its
main thread, as it ends a single run, and a crash or a full memory ends one task alone.
"""

import contextlib
import ctypes
import multiprocessing
import os
import re
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from kvmtest.errors import KvmtestError

__all__ = ["Audience", "Ended", "Task", "jobs_that_fit", "run"]

T = TypeVar("T")

OnText = Callable[[str], None]

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 10.0
# How often an audience may show how long tasks have taken so far.
_TICK_S = 1.0

# fork(2): tasks need not be pickled, and inherit what was imported and read before.
_CONTEXT = multiprocessing.get_context("fork")

# What a process sends: a text that it shows, or how its task ended.
_TEXT, _END = "text", "end"


@dataclass(frozen=True, slots=True)
class Task(Generic[T]):
    """A name, and what is done: it gets a function that shows text, and returns its result.

    The result is pickled.
    """

    name: str
    do: Callable[[OnText], T]
    pool: str = ""
    """The pool whose limit it counts for; "" counts for the limit of all others."""


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """How a task ended: with a ``result``, or with a ``failure`` in words.

    The first line of a failure says all; further ones are the traceback of a bug.
    """

    name: str
    result: T | None
    failure: str = ""
    seconds: float = 0.0


class Audience(Protocol):
    """Who is told how the tasks get on."""

    def began(self, name: str) -> None:
        """Take note that a task begins."""

    def said(self, name: str, text: str) -> None:
        """Take the text that a task shows."""

    def ended(self, ended: Ended[Any]) -> None:
        """Take note that a task has ended."""

    def tick(self) -> None:
        """Show how much time has passed; called about every second."""

    def interrupted(self) -> None:
        """Take note that the tasks were interrupted, and clean up."""


def run(
    tasks: Sequence[Task[T]],
    at_once: int,
    audience: Audience,
    beside: Sequence[Task[None]] = (),
    *,
    pools: Mapping[str, int] | None = None,
    patience: float = _PATIENCE_S,
) -> list[Ended[T]]:
    """Run tasks, ``at_once`` at a time; return how each ended, in the order of ``tasks``.

    Those of a pool count for the limit in ``pools`` instead. The tasks ``beside`` begin at once,
    are not counted, and are ended with the last of the others; ``audience`` hears nothing of them.
    No failure ends another task. An exception here, such as KeyboardInterrupt, interrupts all tasks
    and waits up to ``patience`` seconds for their ends before it goes on; a second one kills them.
    The process must have one thread (fork(2)).
    """
    limits = {"": at_once, **(pools or {})}
    waiting = {pool: deque[tuple[int, Task[T]]]() for pool in limits}
    for number, task in enumerate(tasks):
        waiting[task.pool].append((number, task))
    ended: dict[int, Ended[T]] = {}
    with _Processes(audience, patience) as processes:
        for each in beside:
            processes.start(None, each)
        while any(waiting.values()) or processes.counted():
            for pool, left in waiting.items():
                while left and processes.counted(pool) < limits[pool]:
                    number, task = left.popleft()
                    audience.began(task.name)
                    processes.start(number, task)
            for process, message in processes.messages():
                if process.number is None:
                    continue
                if isinstance(message, str):
                    audience.said(process.name, message)
                else:
                    ended[process.number] = message
                    audience.ended(message)
            audience.tick()
    return [ended[number] for number in range(len(tasks))]


def jobs_that_fit(mebibytes: int, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return how many tasks of ``mebibytes`` MiB each there are CPUs and memory for, at least 1.

    The memory is what programs can have without swapping (MemAvailable in proc(5)).
    """
    kibibytes = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.M)
    fit = int(kibibytes[1]) // 1024 // mebibytes if kibibytes else 1
    return max(1, min(len(os.sched_getaffinity(0)), fit))


@dataclass(frozen=True)
class _Process(Generic[T]):
    """A task's process; ``number`` is None for one beside the others."""

    number: int | None
    name: str
    pool: str
    process: ForkProcess
    received: Connection
    began: float

    def message(self) -> str | Ended[T]:
        """Return the next text that the task shows, or how it ended; waits for either."""
        try:
            kind, content = self.received.recv()
        except EOFError:
            self.process.join()
            return self._end(None, _death(self.process.exitcode or 0))
        if kind == _TEXT:
            return str(content)
        return self._end(*content)

    def _end(self, result: T | None, failure: str) -> Ended[T]:
        return Ended(self.name, result, failure, time.monotonic() - self.began)


class _Processes:
    """The processes that are at work; those that are left at the end are interrupted."""

    def __init__(self, audience: Audience, patience: float) -> None:
        self._at_work: dict[Connection, _Process[Any]] = {}
        self._audience = audience
        self._patience = patience

    def counted(self, pool: str | None = None) -> int:
        """Return how many are at work, of a pool or of all, without those beside."""
        return sum(
            process.number is not None and pool in (None, process.pool)
            for process in self._at_work.values()
        )

    def start(self, number: int | None, task: Task[Any]) -> None:
        """Start a task's process."""
        received, sent = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_work, args=(task, received, sent, os.getpid()), name=task.name
        )
        # Until it is ready for one, an interrupt would end in multiprocessing's code.
        with _interrupt_blocked():
            process.start()
            sent.close()
            made: _Process[Any] = _Process(
                number, task.name, task.pool, process, received, time.monotonic()
            )
            self._at_work[received] = made

    def messages(self, most: float = _TICK_S) -> Iterator[tuple[_Process[Any], str | Ended[Any]]]:
        """Give a message of each process that has one within ``most`` seconds."""
        for connection in wait(list(self._at_work), most):
            process = self._at_work[cast(Connection, connection)]
            message = process.message()
            if isinstance(message, Ended):
                self._end(process)
            yield process, message

    def _end(self, process: _Process[Any]) -> None:
        process.process.join()
        process.received.close()
        del self._at_work[process.received]

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._audience.interrupted()
        try:
            for each in self._at_work.values():
                # Not the group's: a terminal's Ctrl-C does not reach it (_work).
                os.kill(each.process.pid or 0, signal.SIGINT)
            until = time.monotonic() + self._patience
            while self._at_work and (left := until - time.monotonic()) > 0:
                self._hear_out(min(left, _TICK_S))
        finally:
            for each in list(self._at_work.values()):
                each.process.kill()
                self._end(each)

    def _hear_out(self, most: float) -> None:
        """Show what tasks say while they clean up; a process that nobody hears might block."""
        for process, message in self.messages(most):
            if process.number is not None and isinstance(message, str):
                self._audience.said(process.name, message)
        self._audience.tick()


def _work(task: Task[Any], received: Connection, sent: Connection, parent: int) -> None:
    """Do a task in a process of its own, and send what it shows and how it ends."""
    received.close()
    # Ctrl-C reaches the parent alone, which passes it on once: a second one would interrupt the
    # cleaning up.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        if os.getppid() != parent:
            raise KeyboardInterrupt
        sent.send((_END, _outcome(task, lambda text: sent.send((_TEXT, text)))))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)


def _outcome(task: Task[Any], show: OnText) -> tuple[Any, str]:
    """Do a task; return its result as it can be sent, and its failure in words."""
    try:
        return task.do(show), ""
    except KvmtestError as error:
        return None, str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")
        bug = f"{what}: this is a bug of kvmtest, please report it"
        return None, f"{bug}\n{traceback.format_exc()}"


def _death(status: int) -> str:
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}; run it again"
    return f"its process ended with status {status}; run it again"


@contextlib.contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """Keep SIGINT pending for the time of the block."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
