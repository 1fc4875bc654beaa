"""SMIs come while a block is run, never faster than asked for, and stop with it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import pytest

from kvmtest.errors import KvmtestError, UsageError
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.smi import Periodic, Triggered


def triggered(fire: Callable[[], None], events: list[str] | None = None) -> Triggered:
    @contextmanager
    def opened() -> Iterator[Callable[[], None]]:
        yield fire
        if events is not None:
            events.append("closed")

    return Triggered("test", "fires", "nothing", 1000, 1, opened)


class Fires:
    """Counts, and says when it was fired ``wanted`` times; fails on that one if told so."""

    def __init__(self, wanted: int, error: Exception | None = None) -> None:
        self.count = 0
        self.enough = threading.Event()
        self._wanted = wanted
        self._error = error

    def __call__(self) -> None:
        self.count += 1
        if self.count == self._wanted:
            self.enough.set()
            if self._error:
                raise self._error


def test_it_fires_in_another_thread_at_the_rate_and_never_faster() -> None:
    fires = Fires(5)
    with triggered(fires).raising(200) as raising:
        assert fires.enough.wait(10)
    starts = [trigger.before for trigger in raising.triggers]
    gaps = [b - a for a, b in pairwise(starts)]
    assert len(gaps) >= 4
    # The TSC's frequency is known to a thousandth or so.
    assert min(gaps) > 0.99 * tsc_hz() / 200
    assert all(trigger.before < trigger.after for trigger in raising.triggers)
    assert len(raising.triggers) == fires.count
    assert raising.raised is None


def test_after_a_trigger_that_took_long_there_is_a_rest_all_the_same() -> None:
    fires, never = Fires(4), threading.Event()

    def slow() -> None:
        never.wait(0.015)
        fires()

    with triggered(slow).raising(100) as raising:
        assert fires.enough.wait(10)
    rests = [b.before - a.after for a, b in pairwise(raising.triggers)]
    assert min(rests) > 0.99 * tsc_hz() / 200


def test_it_stops_at_once_and_closes_after_the_last_trigger() -> None:
    fires, events = Fires(1), list[str]()
    begun = time.monotonic()
    with triggered(fires, events).raising(0.01):
        assert fires.enough.wait(10)
        assert events == []
    assert time.monotonic() - begun < 50
    assert fires.count == 1
    assert events == ["closed"]
    assert threading.active_count() == 1


def test_a_failed_trigger_ends_it_and_is_raised_at_the_end_of_the_block() -> None:
    fires = Fires(3, KvmtestError("no SMI; give up"))
    with ExitStack() as stack:
        raising = stack.enter_context(triggered(fires).raising(1000))
        assert fires.enough.wait(10)
        end = stack.pop_all()
    with pytest.raises(KvmtestError, match="no SMI; give up"):
        end.close()
    assert fires.count == 3
    assert len(raising.triggers) == 2


def test_what_the_block_raises_is_not_hidden_by_a_failed_trigger() -> None:
    fires = Fires(1, KvmtestError("no SMI; give up"))
    with pytest.raises(ZeroDivisionError), triggered(fires).raising(1000):
        1 / (not fires.enough.wait(10))


@pytest.mark.parametrize("rate_hz", [0, -1, 1000.5, float("nan")])
def test_a_rate_that_it_does_not_bear_is_refused_before_anything_is_fired(rate_hz: float) -> None:
    fires = Fires(0)
    with (
        pytest.raises(UsageError, match="SMI source test takes rates up to 1000 Hz"),
        triggered(fires).raising(rate_hz),
    ):
        pass
    assert fires.count == 0


def periodic(events: list[object]) -> Periodic:

    @contextmanager
    def switched(rate_hz: float, outside_guests: bool) -> Iterator[Callable[[], int]]:
        events.append((rate_hz, outside_guests))
        yield lambda: 7
        events.append("off")

    return Periodic("test", "comes", "nothing", 1000, switched)


def test_a_periodic_source_is_on_during_the_block_and_says_how_many_it_raised() -> None:
    events: list[object] = []
    with periodic(events).raising(50) as raising:
        assert events == [(50, False)]
        assert raising.raised is None
    assert events == [(50, False), "off"]
    assert raising.raised == 7
    assert raising.triggers == []


def test_a_periodic_source_can_be_asked_for_smis_outside_guests() -> None:
    events: list[object] = []
    with periodic(events).raising(50, outside_guests=True):
        pass
    assert events[0] == (50, True)
    with pytest.raises(UsageError), periodic(events).raising(2000):
        pass
