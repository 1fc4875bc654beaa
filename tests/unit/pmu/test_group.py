"""Groups count on this machine: software events anywhere, hardware events where there are any."""

import errno
import mmap
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.stand_in import as_nobody

from kvmtest.errors import UsageError
from kvmtest.host.facts.perf_pmus import hardware_pmu, perf_event_paranoid
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError, CounterGroup, Event, find_event
from kvmtest.pmu.group import _attributes

HERE = Tree()
FAULTS = ("page-faults", "minor-faults", "major-faults")


def group(
    *names: str, tid: int | None = None, cpu: int | None = None, pinned: bool = False
) -> CounterGroup:
    return CounterGroup(
        HERE, [find_event(HERE, name) for name in names], tid=tid, cpu=cpu, pinned=pinned
    )


@pytest.fixture(autouse=True)
def _allowed() -> None:
    try:
        group("context-switches").close()
    except CounterError as error:
        pytest.skip(f"needs perf: {error}")


def test_what_an_event_excludes_and_its_leaders_pinning_are_asked_for() -> None:
    event = Event("x", "cpu", 4, 5, 6, 7, frozenset({"exclude_host", "exclude_kernel"}))
    leader, other = _attributes(event, True, True), _attributes(event, False, True)
    assert (leader.type, leader.config, leader.config1, leader.config2) == (4, 5, 6, 7)
    asked = ("pinned", "disabled", "exclude_host", "exclude_kernel", "exclude_guest", "inherit")
    assert [getattr(leader, bit) for bit in asked] == [1, 1, 1, 1, 0, 0]
    assert [getattr(other, bit) for bit in asked] == [0, 0, 1, 1, 0, 0]
    assert _attributes(event, True, False).pinned == 0


def touch(pages: int) -> None:
    """Take that many page faults."""
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = 1


@contextmanager
def sleeper() -> Iterator[tuple[int, Callable[[int], None]]]:
    """Give the id of a thread, and what makes it sleep n times."""
    asked, done = threading.Semaphore(0), threading.Semaphore(0)
    order: list[int] = []

    def work() -> None:
        while True:
            asked.acquire()
            for _ in range(order[-1]):
                # Long enough that its timer does not expire before it sleeps.
                time.sleep(1e-3)
            done.release()
            if not order[-1]:
                return

    def sleep(times: int) -> None:
        order.append(times)
        asked.release()
        done.acquire()

    thread = threading.Thread(target=work)
    thread.start()
    assert thread.native_id
    try:
        yield thread.native_id, sleep
    finally:
        sleep(0)
        thread.join()


def test_a_threads_sleeps_are_switches_of_that_thread_alone() -> None:
    with sleeper() as (tid, sleep), group("context-switches", tid=tid) as switches:
        sleep(7)
        assert switches.read().values == (0,)  # disabled at first
        switches.enable()
        for times in (1, 40):
            before = switches.read()
            sleep(times)
            assert (switches.read() - before).of("context-switches") >= times
        before = switches.read()
        for _ in range(100):
            time.sleep(1e-6)  # ours
        assert (switches.read() - before).of("context-switches") < 50


def test_a_cpu_counts_whatever_runs_on_it() -> None:
    cpu = min(os.sched_getaffinity(0))
    with sleeper() as (tid, sleep):
        os.sched_setaffinity(tid, {cpu})
        with group("context-switches", cpu=cpu) as switches:
            switches.enable()
            sleep(40)
            assert switches.read().of("context-switches") >= 40


@contextmanager
def on_cpu(tid: int, cpu: int) -> Iterator[None]:
    before = os.sched_getaffinity(tid)
    os.sched_setaffinity(tid, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(tid, before)


def test_a_thread_that_leaves_the_groups_cpu_makes_it_refuse() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs a second CPU")
    with sleeper() as (tid, sleep), group("context-switches", tid=tid, cpu=cpus[0]) as switches:
        switches.enable()
        with on_cpu(tid, cpus[0]):
            sleep(40)
            assert switches.read().of("context-switches") >= 40
        with on_cpu(tid, cpus[1]):
            sleep(40)
            with pytest.raises(CounterError, match="multiplexed") as refused:
                switches.read()
    assert f"keep the thread on CPU {cpus[0]}" in refused.value.missing.remedy


@pytest.mark.parametrize("pinned", [False, True])
def test_counts_of_a_group_agree(pinned: bool) -> None:
    with group(*FAULTS, pinned=pinned) as faults:
        faults.enable()
        touch(100)
        counts = faults.read()
    assert counts.of("page-faults") >= 100
    assert counts.of("page-faults") == counts.of("minor-faults") + counts.of("major-faults")
    assert counts.names == FAULTS
    assert counts.enabled_ns == counts.running_ns > 0


def test_a_whole_group_is_disabled_and_reset() -> None:
    with group(*FAULTS[:2]) as faults:
        faults.enable()
        touch(10)
        faults.disable()
        counts = faults.read()
        assert min(counts.values) >= 10
        touch(10)
        assert faults.read() == counts
        faults.reset()
        assert faults.read().values == (0, 0)
        touch(10)
        faults.enable()
        touch(10)
        assert 20 > min(faults.read().values) >= 10


def test_the_kernels_part_is_left_out() -> None:
    with group("minor-faults:u", "minor-faults:k") as faults:
        faults.enable()
        touch(100)
        # From memory that the kernel writes to for us.
        with mmap.mmap(-1, 50 * mmap.PAGESIZE) as memory, Path("/dev/zero").open("rb", 0) as zeros:
            zeros.readinto(memory)
        user, kernel = faults.read().values
    assert user >= 100
    assert 50 <= kernel < 100


def fake(counters: CounterGroup, data: bytes) -> None:
    """Have the group's descriptor give these bytes, then end of file."""
    out, into = os.pipe()
    os.write(into, data)
    os.close(into)
    os.dup2(out, counters._leader)
    os.close(out)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (
            (1000, 500),
            "page-faults, minor-faults: the group was multiplexed: it counted 500 ns of 1000",
        ),
        ((1000, 0), "never given its counters"),
        (None, "the pinned group did not get its counters"),
    ],
)
def test_estimates_are_refused(times: tuple[int, int] | None, words: str) -> None:
    with group(*FAULTS[:2]) as faults:
        ids = faults._format._ids
        fake(faults, struct.pack("=7Q", 2, *times, 1, ids[0], 2, ids[1]) if times else b"")
        with pytest.raises(CounterError) as refused:
            faults.read()
    assert words in str(refused.value)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_group_that_fails_leaves_nothing_open() -> None:
    before = descriptors()
    with pytest.raises(CounterError, match="0x7f/") as refused:
        group("task-clock", "msr/event=0x7f/")
    assert refused.value.errno == errno.EINVAL
    assert descriptors() == before
    with group(*FAULTS):
        assert descriptors() == before + 3
    assert descriptors() == before


def test_a_closed_group_reads_nobody_elses_file() -> None:
    closed = group("task-clock")
    closed.close()
    with Path("/dev/zero").open("rb"), pytest.raises(OSError, match="Bad file descriptor"):
        closed.read()


@pytest.mark.parametrize("names", [(), ("task-clock", "task-clock")])
def test_a_group_has_events_that_can_be_told_apart(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="a group needs one event or more"):
        group(*names)


def test_a_user_without_rights_is_told_the_paranoid_level() -> None:
    level = perf_event_paranoid(HERE)
    if not isinstance(level, int) or level < 2:
        pytest.skip("needs kernel.perf_event_paranoid of 2 or more")
    with as_nobody(), pytest.raises(CounterError, match=f"paranoid is {level}"):
        group("task-clock")


def test_a_thread_that_is_gone_is_named() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(CounterError, match="ESRCH"):
        group("task-clock", tid=gone.pid)


def test_instructions_are_counted_or_the_missing_pmu_is_named() -> None:
    missing = hardware_pmu(HERE)
    if isinstance(missing, Missing):
        with pytest.raises(CounterError) as refused:
            group("instructions:u")
        assert refused.value.missing == missing
        assert refused.value.errno in {errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV}
        return
    with group("instructions:u", "cycles:u", pinned=True) as counters:
        counters.enable()
        before = counters.read()
        sum(range(10**5))
        assert (counters.read() - before).of("instructions:u") > 10**5
