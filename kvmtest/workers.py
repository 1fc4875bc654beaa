"""Workers
=======

Threads that work beside an experiment, and the supervisor that starts, stops and joins them. They
take their stamps from one clock, the TSC.
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

#: How long a worker may take to stop, even in an emulated machine.
PATIENCE_S = 10.0


class Worker(Protocol):
    """A task for a thread of its own."""

    @property
    def name(self) -> str:
        """What the worker is, in words."""

    def run(self) -> None:
        """Work until done or stopped; may raise anything."""

    def stop(self) -> None:
        """Make :meth:`run` return soon; from any thread, even before it began or after it ended."""


class Supervisor:
    """A context manager that stops and joins all workers at its end, the newest first.

    When a worker fails the others are stopped at once, and its error is raised at the end of the
    block, unless the block raises one itself. A worker that does not stop within ``patience_s`` is
    a KvmtestError; its thread is left alone, and ends with the process.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.failed: BaseException | None = None
        self._patience_s = patience_s
        self._started: list[tuple[Worker, threading.Thread]] = []

    def start(self, worker: Worker, cpu: int | None = None) -> None:
        """Run a worker in a thread of its own, pinned to ``cpu`` if given; raises as ``check``."""
        self.check()
        thread = threading.Thread(
            target=self._work, args=(worker, cpu), name=worker.name, daemon=True
        )
        self._started.append((worker, thread))
        thread.start()
        if self.failed:  # Another worker failed, and may not have seen this one.
            worker.stop()

    def end(self, worker: Worker) -> None:
        """Stop and join one worker before the others; raises as ``check``."""
        (at,) = [at for at, (each, _) in enumerate(self._started) if each is worker]
        self._end(*self._started.pop(at))
        self.check()

    def check(self) -> None:
        """Raise the error of the first worker that failed."""
        if self.failed:
            raise self.failed

    def result(self, future: "Future[T]", timeout_s: float) -> T:
        """Wait for a result that a :class:`Runner` was asked for, and return it.

        Raises the error of the first worker that failed, else the task's own, else KvmtestError
        after ``timeout_s``.
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
    """A worker that runs tasks one after the other, such as those of a vCPU's own thread.

    ``interrupt`` ends the task that runs, from another thread; :meth:`stop` calls it.
    """

    def __init__(self, name: str, interrupt: Callable[[], None]) -> None:
        self.name = name
        self._interrupt = interrupt
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._asked: list[Future[Any]] = []
        self._is_stopped = False
        self._lock = threading.Lock()

    def ask(self, do: Callable[[], T]) -> "Future[T]":
        """Queue a call of ``do``; a stop cancels what has not begun."""
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
        """Run the queued tasks until stopped."""
        while task := self._tasks.get():
            task()

    def stop(self) -> None:
        """Interrupt the task that runs, and run no more."""
        with self._lock:
            self._is_stopped = True
            for future in self._asked:
                future.cancel()
        self._tasks.put(None)
        self._interrupt()


def _pin(name: str, cpu: int) -> None:
    try:
        os.sched_setaffinity(0, {cpu})  # This thread's alone.
    except OSError as error:
        why = f"{name} can't run on CPU {cpu} ({error.strerror})"
        raise KvmtestError(f"{why}; use another CPU") from None
