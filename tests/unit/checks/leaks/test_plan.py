"""Slow SMIs get as many windows as they need, and how long that takes is known before."""

import math

import pytest

from kvmtest.checks.leaks.plan import BY_ONES, MOST_S, Plan, Windows
from kvmtest.judge.excess import WINDOWS
from kvmtest.judge.samples import Arm

#: The free space of efivarfs, as often as the kernel lets through.
STATFS = Windows(0.08, 2.4, by_ones=True)


def test_a_verdict_of_two_and_a_half_smis_a_second_takes_less_than_two_minutes() -> None:
    plan = Plan.of(STATFS)
    first, last = plan.seconds(STATFS)
    assert first < 15
    assert last < 60


def test_the_judge_is_first_asked_after_thirty_smis_and_twice_at_most() -> None:
    assert Plan.of(STATFS).smis(STATFS) == (30, 90)


def test_each_stage_has_windows_of_every_arm_for_the_judge() -> None:
    for rounds in BY_ONES.stages:
        for arm in (Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON):
            assert rounds * BY_ONES.order.count(arm) >= WINDOWS


@pytest.mark.parametrize(("window_s", "rate_hz"), [(2.0, 0.1), (2.0, 0.05), (0.7, 1.0)])
def test_of_smis_that_are_waited_for_as_many_come_and_other_windows_are_quiet(
    window_s: float, rate_hz: float
) -> None:
    windows = Windows(window_s, rate_hz, waited=True)
    plan = Plan.of(windows)
    first = plan.stages[0] * len(plan.order)
    with_smis = first * (1 - math.exp(-windows.smis))
    assert 30 <= with_smis <= 33
    assert first - with_smis >= 25
    assert Arm.QUIET not in plan.order
    assert plan.smis(windows)[0] == pytest.approx(plan.seconds(windows)[0] * rate_hz, rel=0.1)


def test_smis_that_come_once_a_minute_are_too_slow() -> None:
    windows = Windows(2.0, 1 / 60, waited=True)
    assert Plan.of(windows).seconds(windows)[0] > MOST_S
