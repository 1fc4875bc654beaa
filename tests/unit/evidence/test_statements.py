"""What each witness said: figures that a reader can check against the readings, and few words."""

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evidence_strategies import RESULTS
from support.simulated_machine import Machine

from kvmtest.evidence import Result
from kvmtest.evidence.statements import (
    PerSmi,
    SmmCount,
    events,
    power,
    statements,
    words,
)
from kvmtest.judge import Absence, Reading, Verdict, claim, control, measure
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Samples, Window
from kvmtest.missing import Missing

HELD = control("vmcs", "the dump is whole", "whole", "whole", "report this kernel")
BROKEN = control("vmcs", "the dump is whole", "torn", "whole", "report this kernel")
RIGHT, WRONG = (claim("vmcs", "bit 14", observed, 1) for observed in (1, 0))
HANDLER = 11
COUNTER = "instructions:k"


def result(*readings: Reading, absences: Sequence[Absence] = ()) -> Result:
    return Result("any.soak", Verdict.PASS, "", readings=list(readings), absences=list(absences))


def said(*readings: Reading, absences: Sequence[Absence] = ()) -> str:
    return words(result(*readings, absences=absences))


def leaking(part: float) -> list[Reading]:
    """Return the readings of a machine that counts so large a part of SMM with the knob on."""
    machine = Machine(handler=HANDLER, leak=part)
    return conclude(machine.samples(Random(1)))


def after(state: str, counted: dict[Arm, int]) -> list[Reading]:
    """Return the readings of windows without a state, and with it, counting so much per SMI."""
    samples = Samples()
    rows = [(Arm.QUIET, "", 0), (Arm.KNOB_OFF, "", HANDLER)]
    rows += [(arm, state, per_smi) for arm, per_smi in counted.items()]
    for number in range(8 * len(rows)):
        arm, history, per_smi = rows[number % len(rows)]
        smis = 0 if arm is Arm.QUIET else 5
        began = number * 1_100_000
        counted, known = {COUNTER: 50_000 + per_smi * smis}, {COUNTER: 50_000}
        ended = began + 1_000_000
        samples.windows.append(
            Window(arm, began, ended, counted, known, 0, smis, smis, state=history)
        )
    return conclude(samples)


# Claims and controls


def test_a_witness_says_how_many_of_its_claims_held() -> None:
    assert said(HELD, RIGHT, RIGHT, WRONG, RIGHT) == "vmcs 3/4"


def test_witnesses_speak_in_the_order_of_their_readings() -> None:
    btf = [control("btf", "a member", True, True, ""), claim("btf", "the fix", True, True)]
    assert said(HELD, *btf, RIGHT) == "vmcs 1/1 · btf 1/1"


def test_a_broken_control_is_told() -> None:
    assert said(HELD, BROKEN, RIGHT) == "vmcs 1/1 (control 1/2)"
    (statement,) = statements(result(HELD, BROKEN, RIGHT))
    assert statement.doubt.startswith("vmcs: control did not hold")
    assert (statement.held, statement.controls_held) == (1, 1)


def test_a_broken_control_is_told_without_any_claim() -> None:
    assert said(BROKEN) == "vmcs (control 0/1)"


def test_a_claim_without_a_control_is_doubtful() -> None:
    assert said(RIGHT) == "vmcs 1/1 (no control)"


def test_a_control_without_a_claim_says_nothing() -> None:
    assert said(HELD) == ""


def test_figures_are_counted_only_where_nobody_claims() -> None:
    figure = measure("runflags", "raised", 1)
    assert said(HELD, RIGHT, figure) == "vmcs 1/1"
    assert said(figure, figure) == "runflags 2 figures"


def test_who_could_not_look_comes_last_and_says_nothing() -> None:
    gone = Absence("leak", Missing("no SMI source"))
    assert said(HELD, RIGHT, absences=[gone]) == "vmcs 1/1"
    last = statements(result(HELD, RIGHT, absences=[gone]))[-1]
    assert (last.witness, last.absences) == ("leak", [gone])


# The leak experiment


@pytest.mark.parametrize(
    ("part", "expected"), [(0.0, "leak 0.00 of 11.0"), (1.0, "leak 11.0 of 11.0 (0/1)")]
)
def test_a_leak_is_told_per_smi(part: float, expected: str) -> None:
    assert said(*leaking(part)) == expected


def test_a_count_has_both_arms_with_intervals_and_smis() -> None:
    (statement,) = statements(result(*leaking(0.0)))
    count = statement.worst
    assert count
    assert count.off
    assert count.on
    assert count.holds
    assert count.off.mean == pytest.approx(HANDLER, abs=count.off.half)
    assert count.on.mean == pytest.approx(0, abs=count.on.half)
    assert count.off.smis
    assert count.on.smis


def test_a_state_with_the_knob_on_is_compared_with_the_reference() -> None:
    readings = after("after a toggle", {Arm.KNOB_ON: 0})
    assert said(*readings) == "leak 0.00 of 11.0"
    (count,) = statements(result(*readings))[0].counts
    assert (count.state, count.off) == ("after a toggle", None)
    assert count.reference.smis == 40


def test_a_state_with_the_knob_off_must_count_all_again() -> None:
    assert said(*after("after a toggle", {Arm.KNOB_OFF: 11})) == "leak off 11.0 of 11.0"
    kept = after("after a toggle", {Arm.KNOB_OFF: 0})
    assert said(*kept) == "leak off 0.00 of 11.0 (0/1)"


def test_of_both_states_the_worse_is_told() -> None:
    good_on = {Arm.KNOB_ON: 0, Arm.KNOB_OFF: 0}
    good_off = {Arm.KNOB_ON: 11, Arm.KNOB_OFF: 11}
    assert said(*after("after a toggle", good_on)) == "leak off 0.00 of 11.0 (1/2)"
    assert said(*after("after a toggle", good_off)) == "leak 11.0 of 11.0 (1/2)"


def test_what_was_decided_is_told_before_what_was_not() -> None:
    def count(mean: float, holds: bool | None) -> SmmCount:
        off = PerSmi(10.0, 1.0, 40)
        return SmmCount("a", "", off, off, PerSmi(mean, 1.0, 40), holds)

    (statement,) = statements(result(*leaking(0.0)))
    both = replace(statement, counts=[count(9.0, None), count(0.0, True)])
    assert str(both.worst) == "0.00 of 10.0"


def test_evidence_without_figures_still_says_which_claims_held() -> None:
    bare = [replace(reading, raw={}) for reading in leaking(0.0)]
    assert said(*bare) == "leak 1/1"


def test_the_power_is_that_of_the_weakest_counter() -> None:
    fine = measure("leak", "smallest leak of a", 0.4, least_percent_of_smis=25.0)
    coarse = measure("leak", "smallest leak of b", 0.6, least_percent_of_smis=19.0)
    assert power([result(fine), result(coarse)]) == (0.6, 25.0)
    assert power([result(HELD)]) is None


# Numbers


@pytest.mark.parametrize(
    ("count", "reference", "expected"),
    [
        (11.0, None, "11.0"),
        (0.0, 11.0, "0.00"),
        (-0.0004, 11.0, "0.00"),
        (-0.31, 11.0, "-0.31"),
        (10.96, 11.0, "11.0"),
        (5230.4, None, "5230"),
        (1.2, 5230.4, "1.2"),
        (0.42, None, "0.420"),
        (0.0, None, "0.0"),
        (0.0, 0.0, "0.0"),
    ],
)
def test_a_count_has_digits_as_its_reference_needs(
    count: float, reference: float | None, expected: str
) -> None:
    assert events(count, reference) == expected


@given(st.floats(-1e12, 1e12), st.one_of(st.none(), st.floats(-1e12, 1e12)))
def test_any_count_is_a_number(count: float, reference: float | None) -> None:
    assert math.isfinite(float(events(count, reference)))


@given(RESULTS)
def test_any_result_has_words(made: Result) -> None:
    assert words(made).count("\n") == 0 or any("\n" in each.witness for each in made.readings)
