"""A watch counts each SMI once, forgets no CPU, and takes one more look when it is to end."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.smi.watch import RECENT_S, Tally, watch


class Count:
    """A count that wraps at 100, and rises by what the test says at each read."""

    name = "the test"
    is_since_reset = True

    def __init__(self, *rises: tuple[int, int]) -> None:
        self.cpus = (0, 5)
        self._values = {0: 90, 5: 7}
        self._rises = iter(rises)

    def read(self, cpu: int) -> int:
        return self._values[cpu]

    def read_all(self) -> dict[int, int]:
        before = dict(self._values)
        for cpu, rise in zip(self.cpus, next(self._rises, (0, 0)), strict=True):
            self._values[cpu] = (self._values[cpu] + rise) % 100
        return before

    def increase(self, before: int, after: int) -> int:
        return (after - before) % 100

    def close(self) -> None:
        pass


def waits(times: int) -> Callable[[float], bool]:
    """Return a pause that is cut short after so many."""
    left = iter(range(times))
    return lambda _: next(left, None) is not None


def test_it_counts_across_a_wrap_and_remembers_when() -> None:
    began = time.time()
    *_, tally = watch(Count((20, 0), (0, 1), (0, 0)), 1, None, waits(2))
    assert tally.smis == {0: 20, 5: 1}
    assert tally.rises == {}
    assert began <= tally.last[0] <= tally.last[5] <= time.time()


def test_a_cpu_without_smis_has_a_row_and_no_time() -> None:
    *_, tally = watch(Count((20, 0)), 1, None, waits(0))
    first, second = tally.rows
    assert (first.cpu, first.smis, second.cpu, second.smis, second.last) == (0, 20, 5, 0, None)
    assert first.last is not None


def test_what_came_since_the_last_look_is_seen_when_it_is_to_end() -> None:
    tallies = [dict(tally.smis) for tally in watch(Count((1, 1), (2, 0)), 1, None, waits(1))]
    assert tallies == [{0: 0, 5: 0}, {0: 1, 5: 1}, {0: 3, 5: 1}]


def test_it_ends_after_its_time_with_a_look_at_the_end() -> None:
    *looks, tally = watch(Count(), 0.04, 0.1)
    assert tally.seconds >= 0.1
    assert 1 <= len(looks) <= 3


@pytest.mark.parametrize(("interval", "longest"), [(60, 0.1), (0.04, 0.04)])
def test_it_waits_an_interval_but_not_beyond_its_time(interval: float, longest: float) -> None:
    waited: list[float] = []

    def pause(seconds: float) -> bool:
        waited.append(seconds)
        return False

    list(watch(Count(), interval, 0.1, pause))
    (seconds,) = waited
    assert 0 <= seconds <= longest


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.01, 30)), min_size=1))
def test_the_rate_is_of_the_last_seconds(looks: list[tuple[int, float]]) -> None:
    tally, now = Tally.of((3,), 0.0), 0.0
    came: list[tuple[float, int]] = []
    for rise, later in looks:
        now += later
        came.append((now, rise))
        tally.add({3: rise}, now, now)
    (row,) = tally.rows
    # From the youngest look that is as old as that, or the first.
    times = [0.0, *(at for at, _ in came[:-1])]
    begin = max((at for at in times if at <= now - RECENT_S), default=0.0)
    expected = sum(rise for at, rise in came if at > begin) / (now - begin)
    assert row.rate_hz == pytest.approx(expected)
    assert row.smis == sum(rise for _, rise in came)
