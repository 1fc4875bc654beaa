"""Windows told apart by what their vCPUs went through: exact cases by hand."""

import dataclasses
from collections.abc import Mapping

import pytest

from kvmtest.judge import Judgement, Reading, Role, Verdict, claim, control, judge
from kvmtest.judge.leak import conclude, conclude_again
from kvmtest.judge.samples import Arm, Samples, Window
from kvmtest.judge.states import WindowGroup, groups

OFF, ON = WindowGroup(Arm.KNOB_OFF, "after it"), WindowGroup(Arm.KNOB_ON, "after it")
REFERENCE = WindowGroup(Arm.KNOB_OFF, "")
RIGHT = {REFERENCE: [11] * 6, ON: [0] * 6, OFF: [11] * 6}
SMIS = 5


def samples(found: Mapping[WindowGroup, list[int]], quiet: int = 6, noise: int = 0) -> Samples:
    """Return windows that count so much per SMI, and quiet ones."""
    made = Samples()
    plan = [(group, per) for group, each in found.items() for per in each]
    for at, (group, per) in enumerate([*plan, *[(WindowGroup(Arm.QUIET, ""), 0)] * quiet]):
        count = 0 if group.arm is Arm.QUIET else SMIS
        counted = 50_003 + per * count + noise * (-1) ** at
        made.windows.append(
            Window(
                group.arm, at * 1_100_000, at * 1_100_000 + 1_000_000, {"instructions:k": counted},
                {"instructions:k": 50_000}, 0, count, count, state=group.state,
            )
        )  # fmt: skip
    return made


def verdict(found: Mapping[WindowGroup, list[int]]) -> Judgement:
    return judge(conclude(samples(found)))


def claims(readings: list[Reading]) -> list[Reading]:
    return [reading for reading in readings if reading.role is Role.CLAIM]


def test_what_counts_with_the_knob_off_and_not_with_it_on_passes() -> None:
    readings = conclude(samples(RIGHT))
    assert judge(readings).verdict is Verdict.PASS
    assert [reading.observed for reading in claims(readings)] == [False, True]


@pytest.mark.parametrize(
    ("group", "per", "said"),
    [
        (OFF, [0] * 6, "counts SMM after it with the knob off"),
        (OFF, [1] * 6, "counts SMM after it with the knob off"),
        (ON, [11] * 6, "counts SMM after it with the knob on"),
        (ON, [11] + [0] * 5, "counts SMM after it with the knob on"),
    ],
)
def test_either_may_fail_by_itself(group: WindowGroup, per: list[int], said: str) -> None:
    judgement = verdict(RIGHT | {group: per})
    assert judgement.verdict is Verdict.FAIL
    assert said in judgement.reason
    assert verdict({REFERENCE: RIGHT[REFERENCE], group: per}).verdict is Verdict.FAIL


@pytest.mark.parametrize("per", [[11, 0] * 3, [11] * 5 + [0]])
def test_windows_that_disagree_with_the_knob_off_decide_nothing(per: list[int]) -> None:
    assert verdict(RIGHT | {OFF: per}).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("per", "said"), [(5, Verdict.FAIL), (6, Verdict.PASS)])
def test_less_than_half_of_it_counted_is_too_little(per: int, said: Verdict) -> None:
    assert verdict(RIGHT | {OFF: [per] * 6}).verdict is said


def test_fewer_counts_than_without_smis_are_a_fault_of_the_experiment() -> None:
    assert verdict(RIGHT | {OFF: [-11] * 6}).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("off", [[0] * 6, [11, 0] * 3])
def test_without_a_reference_that_counts_nothing_is_decided(off: list[int]) -> None:
    readings = conclude(samples(RIGHT | {REFERENCE: off}))
    assert judge(readings).verdict is Verdict.INCONCLUSIVE
    assert not claims(readings)


def test_without_a_reference_nothing_is_decided() -> None:
    judgement = verdict({OFF: [11] * 6, ON: [0] * 6})
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "more SMIs in guest mode with the knob off" in judgement.reason


@pytest.mark.parametrize("group", RIGHT)
def test_each_group_needs_windows(group: WindowGroup) -> None:
    readings = conclude(samples(RIGHT | {group: RIGHT[group][:3]}))
    assert judge(readings).verdict is Verdict.INCONCLUSIVE
    assert not claims(readings)
    assert verdict(RIGHT | {group: RIGHT[group][:5]}).verdict is Verdict.PASS


def test_a_group_that_is_against_is_heard_whatever_others_leave_open() -> None:
    readings = conclude(samples(RIGHT | {OFF: [11, 0] * 3, ON: [11] * 6}))
    assert judge(readings).verdict is Verdict.FAIL
    assert [reading.what.split(" (")[0] for reading in claims(readings)] == [
        "instructions:k counts SMM after it with the knob on"
    ]


def test_where_one_is_open_others_do_not_speak_and_take_nothing_from_other_witnesses() -> None:
    readings = conclude(samples(RIGHT | {OFF: [11, 0] * 3}))
    assert not claims(readings)
    mine = [control("vmcs", "the dump", "whole", "whole", ""), claim("vmcs", "bit 14", 1, 1)]
    assert judge([*mine, *readings]).verdict is Verdict.PASS
    wrong = [mine[0], claim("vmcs", "bit 14", 0, 1)]
    assert judge([*wrong, *readings]).verdict is Verdict.FAIL


@pytest.mark.parametrize("hiding", [1, 8, 13])
def test_a_window_that_hides_an_smi_is_no_hindrance(hiding: int) -> None:
    made = samples(RIGHT)
    for at in (18, 20):  # without SMIs: what a VM-exit costs is known
        made.windows[at] = dataclasses.replace(made.windows[at], exits=1, gaps=1)
    made.windows[hiding] = dataclasses.replace(made.windows[hiding], exits=1)
    assert made.windows[hiding].guest_smis == SMIS - 1
    assert judge(conclude(made)).verdict is Verdict.PASS


def test_the_record_is_enough() -> None:
    made = samples(RIGHT | {OFF: [0] * 6})
    readings = [window.reading(at) for at, window in enumerate(made.windows)]
    assert Samples.of(readings) == made
    assert conclude_again([*readings, *conclude(made)])[len(readings) :] != []
    assert judge(conclude_again([*readings, *conclude(made)])).verdict is Verdict.FAIL


def test_groups_are_of_windows_with_smis_by_knob_and_state() -> None:
    found = groups(samples(RIGHT).windows)
    assert {group: len(windows) for group, windows in found.items()} == dict.fromkeys(RIGHT, 6)
    assert [str(group) for group in found] == [
        "with the knob off", "after it with the knob on", "after it with the knob off"
    ]  # fmt: skip
