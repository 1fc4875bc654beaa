"""Workers are started, stopped and joined in order and in time; who fails ends the others."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest

from kvmtest.errors import KvmtestError
from kvmtest.workers import Runner, Supervisor


class Fake:
    """A worker that waits for its end; ``events`` record what comes."""

    def __init__(
        self, name: str, events: list[str], do: Callable[[], object] = lambda: None
    ) -> None:
        self.name = name
        self.stopped = threading.Event()
        self.runs = threading.Event()
        self._events = events
        self._do = do

    def run(self) -> None:
        self.runs.set()
        self._do()
        assert self.stopped.wait(10)
        self._events.append(f"{self.name} ends")

    def stop(self) -> None:
        if not self.stopped.is_set():
            self._events.append(f"stop {self.name}")
        self.stopped.set()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def fail() -> None:
    raise KvmtestError("no more SMIs; give up")


def test_each_is_joined_before_the_one_that_was_started_before_it_is_stopped() -> None:
    events: list[str] = []
    with Supervisor() as workers:
        for name in "abc":
            workers.start(Fake(name, events))
        assert events == []
    assert events == ["stop c", "c ends", "stop b", "b ends", "stop a", "a ends"]


def test_one_can_be_ended_before_the_others() -> None:
    events: list[str] = []
    with Supervisor() as workers:
        first, second = Fake("first", events), Fake("second", events)
        workers.start(first)
        workers.start(second)
        workers.end(first)
        assert events == ["stop first", "first ends"]
        assert not second.stopped.is_set()
    assert events[2:] == ["stop second", "second ends"]


def test_they_are_stopped_where_the_block_raises_and_that_comes_out() -> None:
    events: list[str] = []

    def block() -> None:
        with Supervisor() as workers:
            workers.start(Fake("a", events))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert events == ["stop a", "a ends"]


def test_who_fails_stops_the_others_at_once_and_its_error_ends_the_block() -> None:
    other = Fake("other", [])

    def block() -> None:
        with Supervisor() as workers:
            workers.start(other)
            workers.start(Fake("failing", [], fail))
            assert other.stopped.wait(10)
            with pytest.raises(KvmtestError, match="no more SMIs"):
                workers.check()
            with pytest.raises(KvmtestError, match="no more SMIs"):
                workers.start(Fake("late", []))

    with pytest.raises(KvmtestError, match="no more SMIs"):
        block()


def test_one_that_is_just_being_started_when_another_fails_is_stopped_too() -> None:
    other, begun = Fake("other", []), threading.Event()

    def fail_once_begun() -> None:
        assert begun.wait(10)
        fail()

    class Late(Fake):
        @property
        def name(self) -> str:
            begun.set()
            assert other.stopped.wait(10)  # from here on nobody else stops this one
            return "late"

        @name.setter
        def name(self, name: str) -> None:
            pass

    def block() -> None:
        with Supervisor() as workers:
            workers.start(other)
            workers.start(Fake("failing", [], fail_once_begun))
            late = Late("late", [])
            workers.start(late)
            assert late.stopped.is_set()

    with pytest.raises(KvmtestError, match="no more SMIs"):
        block()


def test_what_the_block_raises_is_not_hidden_by_who_failed() -> None:
    other = Fake("other", [])

    def block() -> None:
        with Supervisor() as workers:
            workers.start(other)
            workers.start(Fake("failing", [], fail))
            assert other.stopped.wait(10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()


def test_the_first_failure_is_told_not_those_that_it_led_to() -> None:
    def fail_when_stopped() -> None:
        assert led.stopped.wait(10)
        raise ZeroDivisionError

    led = Fake("led", [], fail_when_stopped)

    def block() -> None:
        with Supervisor() as workers:
            workers.start(led)
            workers.start(Fake("failing", [], fail))
            assert led.stopped.wait(10)

    with pytest.raises(KvmtestError, match="no more SMIs"):
        block()


def test_who_does_not_stop_in_time_is_named_and_the_rest_is_stopped() -> None:
    events: list[str] = []
    release = threading.Event()
    stuck = Fake("the toggler", events, lambda: release.wait(10))

    def block() -> None:
        with Supervisor(patience_s=0.05) as workers:
            workers.start(Fake("first", events))
            workers.start(stuck)
            assert stuck.runs.wait(10)

    begun = time.monotonic()
    with pytest.raises(KvmtestError, match=r"^the toggler did not stop in 0.05 s; "):
        block()
    assert time.monotonic() - begun < 5
    assert events == ["stop the toggler", "stop first", "first ends"]
    (thread,) = [t for t in threading.enumerate() if t.name == "the toggler"]
    assert thread.daemon, "it would keep the process from its end"
    release.set()
    thread.join(10)


def test_a_thread_is_pinned_and_no_other_is() -> None:
    mine, cpu = os.sched_getaffinity(0), max(os.sched_getaffinity(0))
    seen: list[set[int]] = []
    with Supervisor() as workers:
        worker = Fake("pinned", [], lambda: seen.append(os.sched_getaffinity(0)))
        workers.start(worker, cpu)
        assert worker.runs.wait(10)
    assert seen == [{cpu}]
    assert os.sched_getaffinity(0) == mine


def test_a_cpu_that_is_not_there_is_a_failure_with_a_name() -> None:
    worker = Fake("vCPU 0", [])

    def block() -> None:
        with Supervisor() as workers:
            workers.start(worker, 8191)
            assert worker.stopped.wait(10)

    with pytest.raises(KvmtestError, match=r"vCPU 0 can't run on CPU 8191 \(Invalid argument\)"):
        block()
    assert not worker.runs.is_set()


# Runners


def test_a_runner_does_all_in_its_own_thread_in_turn() -> None:
    done: list[int] = []
    with Supervisor() as workers:
        runner = Runner("vCPU", lambda: None)
        workers.start(runner)
        threads = [runner.ask(threading.get_native_id) for _ in range(2)]
        asked = [runner.ask(lambda at=at: done.append(at)) for at in range(20)]  # type: ignore[misc]
        workers.result(asked[-1], 10)
        one, other = (workers.result(each, 10) for each in threads)
    assert done == list(range(20))
    assert one == other != threading.get_native_id()


def test_what_a_runner_is_asked_for_raises_where_it_is_waited_for() -> None:
    with Supervisor() as workers:
        runner = Runner("vCPU", lambda: None)
        workers.start(runner)
        with pytest.raises(KvmtestError, match="no more SMIs"):
            workers.result(runner.ask(fail), 10)
        assert workers.result(runner.ask(lambda: 7), 10) == 7, "it goes on"


def test_a_stopped_runner_is_interrupted_and_cancels_the_rest() -> None:
    begun, interrupted = threading.Event(), threading.Event()
    runner = Runner("vCPU", interrupted.set)

    def be_interrupted() -> bool:
        begun.set()
        return interrupted.wait(10)

    with Supervisor() as workers:
        workers.start(runner)
        running = runner.ask(be_interrupted)
        waiting = runner.ask(lambda: 7)
        assert begun.wait(10)
    assert running.result(0)
    for future in (waiting, runner.ask(lambda: 8)):
        with pytest.raises(CancelledError):
            future.result(0)


def test_who_waits_for_a_runner_is_told_who_else_failed() -> None:
    interrupted = threading.Event()
    failing = threading.Event()

    def fail_then() -> None:
        assert failing.wait(10)
        fail()

    def block() -> None:
        with Supervisor() as workers:
            runner = Runner("vCPU", interrupted.set)
            workers.start(runner)
            workers.start(Fake("failing", [], fail_then))

            def be_interrupted() -> None:
                failing.set()
                assert interrupted.wait(10)
                raise ZeroDivisionError

            workers.result(runner.ask(be_interrupted), 10)

    with pytest.raises(KvmtestError, match="no more SMIs"):
        block()


def test_no_result_in_time_is_told() -> None:
    interrupted = threading.Event()

    def block() -> None:
        with Supervisor() as workers:
            runner = Runner("vCPU", interrupted.set)
            workers.start(runner)
            workers.result(runner.ask(lambda: interrupted.wait(10)), 0.02)

    with pytest.raises(KvmtestError, match=r"no result in 0\.02 s"):
        block()
