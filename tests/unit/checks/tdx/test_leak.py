"""The figures of events that count TDs are what the windows hold, for each value of the knob."""

import random

import pytest

from kvmtest.checks.tdx.leak import figures
from kvmtest.judge import Reading, Verdict, judge
from kvmtest.judge.samples import Arm, Samples, Window

ARMS = (Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON)
GUEST, BOTH = "cpu/instructions/kG", "cpu/instructions/k"


def taken(*, off: int = 0, on: int = 0, counts_tds: bool = True, rounds: int = 9) -> Samples:
    """Take windows of all arms; an SMI is a VM-exit, and what it gains is counted in host mode."""
    chance, samples = random.Random(1), Samples()
    per_smi = {Arm.QUIET: 0, Arm.KNOB_OFF: off, Arm.KNOB_ON: on}
    for at in range(len(ARMS) * rounds):
        arm = ARMS[at % len(ARMS)]
        smis = 0 if arm is Arm.QUIET else 2 + at // len(ARMS) % 3
        exits = chance.randint(1, 4) + smis
        executed = 1000 + chance.randint(0, 50)
        guests = executed if counts_tds else 0
        counted = {GUEST: guests, BOTH: guests + 70 * exits + 500 + per_smi[arm] * smis}
        known = dict.fromkeys(counted, executed)
        samples.windows.append(
            Window(arm, at * 100, at * 100 + 90, counted, known, exits, smis, exits)
        )
    return samples


def observed(readings: list[Reading], what: str) -> object:
    (reading,) = [r for r in readings if r.what == what]
    return reading.observed


def test_each_event_has_a_figure_for_each_value_of_the_knob() -> None:
    readings = figures(taken(off=900, on=30), "MSR 0x34")
    assert observed(readings, f"{BOTH} per SMI with freeze_on_smi=0") == pytest.approx(900)
    assert observed(readings, f"{BOTH} per SMI with freeze_on_smi=1") == pytest.approx(30)
    for value in (0, 1):
        assert observed(readings, f"{GUEST} per SMI with freeze_on_smi={value}") == 0
        told = observed(readings, f"SMIs that MSR 0x34 counted with freeze_on_smi={value}")
        assert told == "27 in 9 windows, 0 in guest mode"
    assert judge(readings).verdict is Verdict.MEASURED


def test_an_event_that_does_not_count_tds_is_told_as_such() -> None:
    readings = figures(taken(off=900, counts_tds=False), "MSR 0x34")
    for value in (0, 1):
        figure = observed(readings, f"{GUEST} per SMI with freeze_on_smi={value}")
        assert figure == "the event does not count TDs"


def test_without_smis_nothing_is_made_up() -> None:
    samples = taken()
    samples.windows[:] = [w for w in samples.windows if w.arm is Arm.QUIET]
    told = [reading.observed for reading in figures(samples, "MSR 0x34")]
    assert told == ["0 in 0 windows, 0 in guest mode"] * 2
