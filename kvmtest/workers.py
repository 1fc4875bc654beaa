"""Workers
=======

Threads that work beside an experiment, and the supervisor that starts, stops and joins them. What
they stamp is in one clock, the TSC.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from kvmtest.errors import KvmtestError

__all__ = ["PATIENCE_S", "Runner", "Supervisor", "Worker"]

T = TypeVar("T")

#: The time that a worker may take to stop, also in an emulated machine.
PATIENCE_S = 10.0


class Worker(Protocol):
    """Something that works in a thread of its own."""

    @property
    def name(self) -> str:
        """What it is, in words."""

    def run(self) -> None:
        """Work until stopped, or done; raises what goes wrong."""

    def stop(self) -> None:
        """Have :meth:`run` return soon; from any thread, also before it began and after its end."""


class Supervisor:
    """A context manager at whose end all workers are stopped and joined, the newest first.

    When one fails, the others are stopped at once, and its error is raised at the end of the block,
    unless the block raises one. So is KvmtestError for a worker that does not stop in
    ``patience_s``; its thread is left alone, and ends with the process.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.failed: BaseException | None = None
        self._patience_s = patience_s
        self._started: list[tuple[Worker, threading.Thread]] = []

    def start(self, worker: Worker, cpu: int | None = None) -> None:
        """Have a worker run in a thread of its own, on one CPU if wanted; raises as check does."""
        self.check()
        thread = threading.Thread(
            target=self._work, args=(worker, cpu), name=worker.name, daemon=True
        )
        self._started.append((worker, thread))
        thread.start()
        if self.failed:  # of another, which may not have seen this one
            worker.stop()

    def end(self, worker: Worker) -> None:
        """Stop a worker before the others, and join it; raises as check does."""
        (at,) = [at for at, (each, _) in enumerate(self._started) if each is worker]
        self._end(*self._started.pop(at))
        self.check()

    def check(self) -> None:
        """Raise what the first worker that failed raised."""
        if self.failed:
            raise self.failed

    def result(self, future: "Future[T]", timeout_s: float) -> T:
        """Wait for what a :class:`Runner` was asked for, and return it.

        Raises what the first worker that failed raised, else what came of it, else KvmtestError.
        """
        try:
            return future.result(timeout_s)
        except Exception as error:
            self.check()
            if not future.done():
                raise KvmtestError(f"no result in {timeout_s:g} s; try again") from error
            raise

    def _work(self, worker: Worker, cpu: int | None) -> None:
        try:
            if cpu is not None:
                _pin(worker.name, cpu)
            worker.run()
        except BaseException as error:
            self._fail(error)
            for each, _ in tuple(self._started):
                each.stop()

    def _end(self, worker: Worker, thread: threading.Thread) -> None:
        worker.stop()
        thread.join(self._patience_s)
        if thread.is_alive():
            late = f"{worker.name} did not stop in {self._patience_s:g} s; see what holds it"
            self._fail(KvmtestError(late))

    def _fail(self, error: BaseException) -> None:
        self.failed = self.failed or error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._started:
            self._end(*self._started.pop())
        if error is None:
            self.check()


class Runner:
    """A worker that does what it is asked for, in turn: what a vCPU's own thread has to do.

    ``interrupt`` ends what it is doing, from another thread, and is called when it is stopped.
    """

    def __init__(self, name: str, interrupt: Callable[[], None]) -> None:
        self.name = name
        self._interrupt = interrupt
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._asked: list[Future[Any]] = []
        self._is_stopped = False
        self._lock = threading.Lock()

    def ask(self, do: Callable[[], T]) -> "Future[T]":
        """Have it call ``do``; what is not begun when it is stopped is cancelled."""
        future: Future[T] = Future()

        def task() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(do())
                except BaseException as error:
                    future.set_exception(error)

        with self._lock:
            if self._is_stopped:
                future.cancel()
            else:
                self._asked = [*(each for each in self._asked if not each.done()), future]
                self._tasks.put(task)
        return future

    def run(self) -> None:
        """Do what it is asked for, until stopped."""
        while task := self._tasks.get():
            task()

    def stop(self) -> None:
        """Interrupt it, and have it do nothing more."""
        with self._lock:
            self._is_stopped = True
            for future in self._asked:
                future.cancel()
        self._tasks.put(None)
        self._interrupt()


def _pin(name: str, cpu: int) -> None:
    try:
        os.sched_setaffinity(0, {cpu})  # of this thread alone
    except OSError as error:
        why = f"{name} can't run on CPU {cpu} ({error.strerror})"
        raise KvmtestError(f"{why}; use another CPU") from None
