"""Windows with toggles in them: which SMIs are whose, and whether the counter follows the knob."""

import dataclasses
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.simulated_machine import Machine

from kvmtest.judge import Reading, Role, Verdict, judge
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Gap, Samples, Toggle, Window
from kvmtest.judge.toggled import toggled_windows

LAB = Machine(handler=11, exits=1, toggled=12)
COUNTER = "instructions:k"


def window(gaps: int, exits: int, smis: int | None = None, vcpu: int = 0) -> Window:
    smis = gaps - exits if smis is None else smis
    counts = {COUNTER: 50_000}
    return Window(Arm.MIXED, 1000, 9000, counts, counts, exits, smis, gaps, vcpu)


def split(
    toggles: list[tuple[int, int, int]], gaps: list[tuple[int, int]], made: Window
) -> tuple[int, int, int] | None:
    """Return the window's: the value at its begin, SMIs with the knob off at least, at most."""
    samples = Samples(
        [made], [Gap(*gap, made.vcpu) for gap in gaps], [Toggle(*toggle) for toggle in toggles]
    )
    parts = toggled_windows(samples)
    assert len(parts) <= 1
    return (parts[0].begins, parts[0].off_least, parts[0].off_most) if parts else None


OFF_THEN_ON = [(0, 100, 110), (1, 5000, 5100)]
THREE = [(2000, 2010), (5010, 5090), (7000, 7010)]


@pytest.mark.parametrize(
    ("toggles", "gaps", "made", "expected"),
    [
        (OFF_THEN_ON, THREE, window(3, 1), (0, 1, 1)),
        ([(1, 100, 110), (0, 5000, 5100)], THREE, window(3, 1), (1, 1, 1)),
        # Twice: off, on, off.
        ([*OFF_THEN_ON, (0, 6000, 6100)], [*THREE, (6010, 6090)], window(4, 2), (0, 2, 2)),
        # Another exit may be any gap.
        (OFF_THEN_ON, THREE, window(3, 2), (0, 0, 1)),
        # Two gaps at the write: one is its VM-exit, the other either's.
        (OFF_THEN_ON, [*THREE, (5095, 5099)], window(4, 1), (0, 1, 2)),
        # As near to the write as it is long.
        (OFF_THEN_ON, [(2000, 2010), (4910, 4915), (5010, 5090)], window(3, 1), (0, 1, 2)),
        (OFF_THEN_ON, [(2000, 2010), (4880, 4890), (5010, 5090)], window(3, 1), (0, 2, 2)),
        # A gap that is not recorded, an SMI in host mode, and no SMI.
        (OFF_THEN_ON, THREE[:2], window(3, 1), None),
        (OFF_THEN_ON, THREE, window(3, 1, smis=3), None),
        (OFF_THEN_ON, THREE[:1], window(1, 1, smis=0), None),
        # More writes than VM-exits, and nobody knows the knob's state at the begin.
        (OFF_THEN_ON, THREE, window(3, 0), None),
        ([(1, 5000, 5100)], THREE, window(3, 1), None),
        ([(0, 900, 1010), (1, 5000, 5100)], THREE, window(3, 1), None),
    ],
)
def test_smis_are_told_by_the_knobs_state_at_their_time(
    toggles: list[tuple[int, int, int]],
    gaps: list[tuple[int, int]],
    made: Window,
    expected: tuple[int, int, int] | None,
) -> None:
    assert split(toggles, gaps, made) == expected


def test_another_vcpus_gaps_are_left_alone() -> None:
    samples = Samples(
        [window(3, 1), window(3, 1, vcpu=1)],
        [Gap(*gap, vcpu) for gap in THREE for vcpu in (1, 0)],
        [Toggle(*toggle) for toggle in OFF_THEN_ON],
    )
    assert [part.off_most for part in toggled_windows(samples)] == [1, 1]


@given(seed=st.integers(0, 10**6), goes_on=st.booleans())
def test_the_truth_is_never_outside_what_is_told(seed: int, goes_on: bool) -> None:
    machine = dataclasses.replace(LAB, exits=4, goes_on=goes_on)
    for part in toggled_windows(machine.samples(Random(seed))):
        # What is counted above the guest's and the VM-exits' tells how many SMIs were.
        made = part.window
        counted = (made.counted[COUNTER] - made.known[COUNTER] - 3 - made.exits) // 11
        if goes_on:
            assert counted == (0 if part.begins else part.smis)
        else:
            assert part.off_least <= counted <= part.off_most


def followed(machine: Machine) -> list[Reading]:
    readings = conclude(machine.samples(Random(3)))
    return [reading for reading in readings if "follows toggles" in reading.what]


def test_a_counter_that_follows_the_knob_agrees() -> None:
    readings = followed(LAB)
    assert [(reading.role, reading.agrees) for reading in readings] == 2 * [(Role.CLAIM, True)]
    assert "begin with the knob off (" in readings[0].what
    assert "begin with the knob on (" in readings[1].what


def test_a_kvm_that_goes_on_with_the_old_state_fails_both_ways() -> None:
    machine = dataclasses.replace(LAB, goes_on=True)
    readings = followed(machine)
    assert [(reading.role, reading.agrees) for reading in readings] == 2 * [(Role.CLAIM, False)]
    judged = judge(conclude(machine.samples(Random(3))))
    assert judged.verdict is Verdict.FAIL
    assert "follows toggles" in judged.reason


def test_what_is_not_sure_is_a_figure() -> None:
    noisy = dataclasses.replace(LAB, handler=1e5, kind="gaussian", noise=500, variation=1)
    assert {reading.role for reading in followed(noisy)} <= {Role.MEASURE}


def test_no_toggled_window_says_nothing() -> None:
    assert followed(dataclasses.replace(LAB, toggled=0)) == []
