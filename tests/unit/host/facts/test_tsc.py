"""kvmtest/host/facts/tsc.py: the TSC's frequency."""

import time

import pytest

from kvmtest._native import lib
from kvmtest.host.facts.tsc import tsc_hz


def test_it_tells_how_fast_the_tsc_goes() -> None:
    tsc_hz.cache_clear()
    ticks, seconds = lib.clock_tsc(), time.monotonic()
    time.sleep(0.2)
    measured = (lib.clock_tsc() - ticks) / (time.monotonic() - seconds)
    assert tsc_hz() == pytest.approx(measured, rel=0.01)


def test_it_is_measured_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = tsc_hz()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("measured again"))
    assert tsc_hz() == first
