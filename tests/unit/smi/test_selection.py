"""The fastest source is used, or two in turns where it is slow."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import pytest

from kvmtest.smi import FAST_HZ, Periodic, Proved, Triggered, best


def triggered(name: str, fire: Callable[[], None] = lambda: None) -> Triggered:
    return Triggered(name, f"fires {name}", "nothing", 100, 1, lambda: nullcontext(fire))


def waiting(name: str) -> Periodic:
    return Periodic(name, "waits", "nothing", 100, lambda _, __: nullcontext(None))


def test_a_fast_source_does_alone() -> None:
    slow, fast = Proved(triggered("a"), 2.4, 0.001), Proved(triggered("b"), FAST_HZ, 0.001)
    assert best([slow, fast]) is fast


def test_one_slow_source_is_used_as_it_is() -> None:
    slow = Proved(triggered("a"), 2.4, 0.001)
    assert best([slow]) is slow


def test_of_slow_ones_the_two_fastest_are_used_together() -> None:
    found = [
        Proved(triggered(name), rate, 0.001) for name, rate in zip("abc", (2, 1, 3), strict=True)
    ]
    both = best(found)
    assert both.source.name == "c and a"
    assert both.rate_hz == pytest.approx(5)
    assert both.source.fastest_hz == pytest.approx(5)


def test_what_can_t_be_triggered_is_not_fired_in_turns() -> None:
    waits, slow = Proved(waiting("a"), 3), Proved(triggered("b"), 2, 0.001)
    assert best([waits, slow]) is waits
    assert best([Proved(waiting("a"), 1), slow]) is slow


def test_together_they_take_no_more_of_the_machine_than_each_may_alone() -> None:
    # Each takes a twentieth of the time by itself.
    found = [Proved(triggered("a"), 5, 0.01), Proved(triggered("b"), 2.5, 0.02)]
    both = best(found)
    assert both.rate_hz == pytest.approx(7.5 / 2)


def test_each_keeps_to_its_own_rate() -> None:
    fired: dict[str, list[float]] = {"a": [], "b": []}
    found = [
        Proved(triggered(name, lambda name=name: fired[name].append(time.monotonic())), rate)  # type: ignore[misc]
        for name, rate in (("a", 15.0), ("b", 10.0))
    ]
    source = best(found).source
    assert isinstance(source, Triggered)
    with source.opened() as fire:
        for _ in range(10):
            fire()
    assert min(b - a for a, b in pairwise(fired["a"])) >= 1 / 15
    assert min(b - a for a, b in pairwise(fired["b"])) >= 1 / 10
    assert len(fired["a"]) + len(fired["b"]) == 10
    assert min(len(fired["a"]), len(fired["b"])) >= 3
