"""host/changes/toggler.py: two texts in turn, on files that take them and files that do not."""

import os
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.host.changes.toggler import Toggler
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.workers import Supervisor

#: What a stop may take, in seconds; the least of some attempts counts.
PROMPT = 0.05


@pytest.fixture
def knob(tmp_path: Path) -> Path:
    path = tmp_path / "freeze_on_smi"
    path.write_text("0\n")
    return path


def open_files() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    files, threads = open_files(), threading.active_count()
    yield
    assert open_files() == files
    assert threading.active_count() == threads


def run(toggler: Toggler) -> Toggler:
    """Run a toggler to its end in this thread, and close it."""
    try:
        toggler.run()
    finally:
        toggler.close()
    return toggler


@pytest.mark.parametrize(("limit", "left"), [(1, "1\n"), (2, "0\n"), (3, "1\n"), (1000, "0\n")])
def test_the_first_text_written_is_the_second_and_then_they_alternate(
    knob: Path, limit: int, left: str
) -> None:
    toggler = run(Toggler(knob, limit=limit, stamps=limit))
    assert toggler.writes == limit
    assert [toggle.value for toggle in toggler.stamps] == [(at + 1) % 2 for at in range(limit)]
    assert knob.read_text() == left


def test_texts_are_written_whole_at_the_start_of_the_file(knob: Path) -> None:
    run(Toggler(knob, ("off", "enabled"), limit=1))
    assert knob.read_text() == "enabled"
    run(Toggler(knob, ("off", "on"), limit=2))
    assert knob.read_text() == "offbled"


def test_stamps_are_the_newest_in_order(knob: Path) -> None:
    before = lib.clock_tsc()
    toggler = run(Toggler(knob, limit=105, stamps=10))
    after = lib.clock_tsc()
    flat = [tsc for toggle in toggler.stamps for tsc in toggle[1:]]
    assert len(flat) == 20
    assert flat == sorted(set(flat))
    assert before < flat[0]
    assert flat[-1] < after
    assert [toggle.value for toggle in toggler.stamps] == [0, 1] * 5  # writes 96 to 105


def test_without_room_there_are_no_stamps(knob: Path) -> None:
    assert run(Toggler(knob, limit=5)).stamps == []


def test_fewer_writes_than_room_are_all_there(knob: Path) -> None:
    assert len(run(Toggler(knob, limit=3, stamps=10)).stamps) == 3


def test_it_is_never_faster_than_asked_for(knob: Path) -> None:
    interval, limit = 0.002, 20
    start = time.monotonic()
    toggler = run(Toggler(knob, interval=interval, limit=limit, stamps=limit))
    took = time.monotonic() - start
    assert toggler.writes == limit
    assert took >= interval * (limit - 1)


def test_intervals_are_random_within_their_bounds_and_the_same_for_a_seed(knob: Path) -> None:
    def intervals(seed: int, interval: float = 0.002) -> list[float]:
        toggler = run(
            Toggler(knob, interval=interval, spread=0.004, seed=seed, limit=20, stamps=20)
        )
        hz = tsc_hz()
        return [(b.tsc_before - a.tsc_before) / hz for a, b in pairwise(toggler.stamps)]

    def likeness(seeds: tuple[int, int]) -> int:
        one, other = map(intervals, seeds)
        # A write may come late, and the next one after it in time.
        assert sum(one) > 0.002 * 19 * 0.99
        assert max(one) - min(one) > 0.002
        return sum(abs(a - b) < 0.0005 for a, b in zip(one, other, strict=True))

    # A busy machine can be late at every write of one run, not at those of all.
    tries = range(5)
    assert any(likeness((1, 1)) > likeness((1, 2)) + 4 for _ in tries)
    assert any(sum(intervals(1)) < 0.006 * 19 + 0.05 for _ in tries)
    assert max(intervals(1, interval=0.0)) > 0.001


def test_without_an_interval_it_goes_as_fast_as_the_file(knob: Path) -> None:
    def rate(interval: float) -> float:
        start = time.monotonic()
        run(Toggler(knob, interval=interval, limit=30))
        return 30 / (time.monotonic() - start)

    assert rate(0) > 3 * rate(0.002)


@pytest.mark.parametrize("interval", [0.0, 0.001, 3600.0])
def test_a_stop_is_prompt_whatever_the_interval(knob: Path, interval: float) -> None:
    def took() -> float:
        with Toggler(knob, interval=interval) as toggler, Supervisor() as workers:
            workers.start(toggler)
            while toggler.writes == 0:
                pass
            start = time.monotonic()
        return time.monotonic() - start

    assert min(took() for _ in range(5)) < PROMPT


def test_stop_ends_a_run_in_a_thread_of_ones_own(knob: Path) -> None:
    toggler = Toggler(knob, interval=3600)
    thread = threading.Thread(target=toggler.run)
    thread.start()
    while toggler.writes == 0:
        pass
    toggler.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert toggler.writes == 1
    toggler.close()


def test_a_stop_before_the_run_leaves_the_file_alone(knob: Path) -> None:
    toggler = Toggler(knob)
    toggler.stop()
    toggler.stop()
    assert run(toggler).writes == 0
    assert knob.read_text() == "0\n"


def test_other_threads_go_on_while_it_writes(knob: Path) -> None:
    limit = 1_000_000
    with Toggler(knob, limit=limit) as toggler, Supervisor() as workers:
        workers.start(toggler)
        for _ in range(1000):
            before = toggler.writes
    # It had far from ended, so it did not hold the interpreter's lock for all that while.
    assert before < limit


def test_a_full_device_is_named_with_its_errno() -> None:
    toggler = Toggler(Path("/dev/full"))
    with pytest.raises(KvmtestError, match=r"^/dev/full: write: No space left .* \(ENOSPC\); "):
        run(toggler)
    assert toggler.writes == 0


def test_a_pipe_is_refused_by_name(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(KvmtestError, match=r"fifo: write: .*\(ESPIPE\); give it a file"):
            run(Toggler(fifo))
    finally:
        os.close(reader)


def test_an_error_in_a_thread_is_raised_by_its_supervisor() -> None:
    def write_until_it_fails() -> None:
        with Toggler(Path("/dev/full")) as toggler, Supervisor() as workers:
            workers.start(toggler)
            while not workers.failed:
                pass

    with pytest.raises(KvmtestError, match="ENOSPC"):
        write_until_it_fails()


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KvmtestError, match=r"nosuch: open: .*\(ENOENT\); check that"):
        Toggler(tmp_path / "nosuch")
    with pytest.raises(KvmtestError, match=r"\(EISDIR\)"):
        Toggler(tmp_path)


def test_a_closed_toggler_says_so(knob: Path) -> None:
    toggler = run(Toggler(knob, limit=1))
    toggler.close()
    toggler.stop()
    with pytest.raises(KvmtestError, match=r"\(EBADF\); make a new toggler"):
        toggler.run()


def test_a_write_that_does_not_come_back_holds_nobody_up(
    knob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toggler = Toggler(knob)
    monkeypatch.setattr("kvmtest.host.changes.toggler.PATIENCE_S", 0.01)
    with toggler._running:
        toggler.close()
        assert os.fstat(toggler._native.fd)
    toggler.close()


@pytest.mark.parametrize("interval", [-1, float("nan"), float("inf"), 1e9])
def test_an_interval_that_is_none_is_refused(knob: Path, interval: float) -> None:
    with pytest.raises(ValueError, match="a toggler's interval is 0 to"):
        Toggler(knob, interval=interval)


def test_a_spread_that_is_none_is_refused(knob: Path) -> None:
    with pytest.raises(ValueError, match="a toggler's spread is 0 to"):
        Toggler(knob, spread=-1)


@pytest.mark.parametrize("texts", [(), ("1",), ("0", "1", "2")])
def test_there_are_two_texts(knob: Path, texts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a toggler has two texts"):
        Toggler(knob, texts)
