"""The verdict rules, against the words of the design, over every case."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.judge import (
    Absence,
    Judgement,
    Reading,
    Role,
    Scalar,
    Verdict,
    claim,
    control,
    judge,
    measure,
    skip,
    witnesses_against,
)
from kvmtest.judge.samples import Arm, Window
from kvmtest.missing import Missing

REMEDY = "plug it in"


class Said(NamedTuple):
    """What one witness says of the claim, and what its control did."""

    claim: str
    control: str


CLAIMS = {"for": [True], "against": [False], "both": [True, False], "silent": []}
CONTROLS = {"held": [True], "broken": [False], "half": [True, False], "none": []}
EVERY_WITNESS = [Said(*pair) for pair in itertools.product(CLAIMS, CONTROLS)]
EVERY_PAIR = list(itertools.product(EVERY_WITNESS, repeat=2))


def readings_of(witness: str, said: Said) -> list[Reading]:
    made = [control(witness, f"{witness} c", ok, True, REMEDY) for ok in CONTROLS[said.control]]
    return made + [claim(witness, f"{witness} says", ok, True) for ok in CLAIMS[said.claim]]


def oracle(witnesses: Sequence[Said]) -> Verdict:
    """Say what the design says, in its order of words and not in the code's."""
    speakers = [w for w in witnesses if w.claim != "silent"]
    against = [w for w in speakers if w.claim in ("against", "both")]
    # "FAIL: a witness speaks against the claim and its control held."
    if any(w.control == "held" for w in against):
        return Verdict.FAIL
    # "PASS: at least one witness speaks for the claim, none against, and each control held."
    if speakers and not against and all(w.control == "held" for w in speakers):
        return Verdict.PASS
    # "INCONCLUSIVE: a witness was there but its control did not hold, or ... decide nothing."
    return Verdict.INCONCLUSIVE


@pytest.mark.parametrize("witnesses", EVERY_PAIR, ids=lambda p: " ".join(map("/".join, p)))
def test_two_witnesses_in_every_state_are_judged_as_the_design_says(
    witnesses: tuple[Said, Said],
) -> None:
    one, two = witnesses
    readings = readings_of("btf", one) + readings_of("guest", two)
    assert judge(readings).verdict is oracle(witnesses)


@pytest.mark.parametrize("pair", EVERY_PAIR)
def test_witnesses_against_are_those_that_alone_make_a_fail(pair: tuple[Said, Said]) -> None:
    said = [readings_of(name, each) for name, each in zip("ab", pair, strict=True)]
    alone = [n for n, each in zip("ab", said, strict=True) if judge(each).verdict is Verdict.FAIL]
    assert witnesses_against([reading for each in said for reading in each]) == alone


def test_the_table_has_every_decided_verdict() -> None:
    found = {oracle(pair) for pair in EVERY_PAIR}
    assert found == {Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE}


# Readings at random

WITNESSES = st.sampled_from(["leak", "vmcs", "btf"])
SCALARS: st.SearchStrategy[Scalar] = (
    st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a"]) | st.none() | st.just(1.0)
)
READINGS = st.builds(
    Reading,
    witness=WITNESSES,
    role=st.sampled_from(Role),
    what=st.just("x"),
    observed=SCALARS,
    expected=SCALARS,
    time=st.just(0.0),
    remedy=st.sampled_from(["", REMEDY]),
)
ABSENCES = st.builds(Absence, WITNESSES, st.builds(Missing, st.just("gone"), st.just("")))
MANY = st.lists(READINGS, max_size=8)


@given(st.data(), MANY, st.lists(ABSENCES, max_size=2))
def test_the_verdict_does_not_depend_on_the_order(
    data: st.DataObject, readings: list[Reading], absences: list[Absence]
) -> None:
    shuffled = data.draw(st.permutations(readings))
    turned = data.draw(st.permutations(absences))
    assert judge(shuffled, turned).verdict is judge(readings, absences).verdict


@given(MANY, WITNESSES)
def test_a_control_that_agrees_never_turns_pass_into_anything_else(
    readings: list[Reading], witness: str
) -> None:
    before = judge(readings).verdict
    after = judge([*readings, control(witness, "one more", 1, 1, REMEDY)]).verdict
    assert before is not Verdict.PASS or after is Verdict.PASS


@given(MANY, READINGS)
def test_a_control_that_breaks_never_makes_a_decision(
    readings: list[Reading], reading: Reading
) -> None:
    broken = control(reading.witness, "one more", True, False, REMEDY)
    before, after = judge(readings).verdict, judge([*readings, broken]).verdict
    if after in (Verdict.PASS, Verdict.FAIL):
        assert before in (Verdict.PASS, Verdict.FAIL)


def held(witness: str, readings: Iterable[Reading]) -> bool:
    controls = [r for r in readings if r.witness == witness and r.role is Role.CONTROL]
    return bool(controls) and all(r.agrees for r in controls)


@given(MANY, st.lists(ABSENCES, max_size=2))
def test_nothing_passes_or_fails_without_a_claim_and_a_held_control(
    readings: list[Reading], absences: list[Absence]
) -> None:
    verdict = judge(readings, absences).verdict
    claims = [r for r in readings if r.role is Role.CLAIM]
    if verdict is Verdict.PASS:
        assert claims
        assert all(r.agrees and held(r.witness, readings) for r in claims)
    if verdict is Verdict.FAIL:
        assert any(not r.agrees and held(r.witness, readings) for r in claims)


@given(MANY, st.lists(ABSENCES, max_size=2))
def test_every_judgement_has_a_reason_and_none_is_an_error(
    readings: list[Reading], absences: list[Absence]
) -> None:
    judgement = judge(readings, absences)
    assert judgement.reason
    assert judgement.verdict is not Verdict.ERROR


# Agreement


@pytest.mark.parametrize(
    ("observed", "expected"), [(True, 1), (1, True), (0, False), (False, 0), (None, False)]
)
def test_a_bool_never_equals_a_number_or_nothing(observed: Scalar, expected: Scalar) -> None:
    assert not claim("btf", "x", observed, expected).agrees


@given(SCALARS)
def test_a_scalar_agrees_with_itself(value: Scalar) -> None:
    assert claim("btf", "x", value, value).agrees


def test_a_claim_of_one_where_true_is_expected_fails() -> None:
    readings = [control("btf", "c", True, True, ""), claim("btf", "the bit", 1, True)]
    assert judge(readings).verdict is Verdict.FAIL


# Reasons


def test_a_failure_names_witness_observation_and_expectation() -> None:
    readings = [
        control("guest", "c", 7, 7, ""),
        claim("guest", "bit 14 in RDMSR 0x1d9", 1, 0),
        claim("guest", "bit 14 in KVM_GET_MSRS", 1, 0),
    ]
    reason = "guest: bit 14 in RDMSR 0x1d9: 1, expected 0 (and 1 more against)"
    assert judge(readings).reason == reason


def test_a_broken_control_says_what_would_decide_it() -> None:
    readings = [
        control("hostmsr", "the TSC moved", False, True, "read the machine's own MSRs"),
        claim("hostmsr", "bit 14", 1, 1),
    ]
    assert judge(readings).reason == (
        "hostmsr: control did not hold: the TSC moved: no, expected yes; "
        "read the machine's own MSRs"
    )


def test_a_witness_without_a_control_is_told() -> None:
    assert judge([claim("btf", "x", 1, 1)]).reason == "btf: no control was run"


def test_a_pass_tells_who_was_not_asked_and_why() -> None:
    readings = [control("btf", "c", 1, 1, ""), claim("btf", "the member", True, True)]
    absent = Absence("vmcs", Missing("KVM here is kvm_pvm", "run on Intel"))
    reason = judge(readings, [absent]).reason
    assert reason == "btf: the member: yes; not asked: vmcs (KVM here is kvm_pvm)"


@pytest.mark.parametrize(
    ("count", "told"), [(1, "; 0: 0"), (2, "; 0: 0; 1: 1"), (5, "; 0: 0; 1: 1; 3 more figures")]
)
def test_a_pass_tells_its_first_figures(count: int, told: str) -> None:
    figures = [measure("leak", f"{number}", number) for number in range(count)]
    readings = [control("leak", "c", 1, 1, ""), claim("leak", "x", True, True), *figures]
    assert judge(readings).reason == f"leak: x: yes{told}"


def test_figures_without_a_claim_are_measured() -> None:
    judgement = judge([control("leak", "c", 1, 1, ""), measure("leak", "SMM events", 12)])
    assert judgement.verdict is Verdict.MEASURED
    assert judgement.reason == "SMM events: 12"


def test_samples_are_no_figures() -> None:
    sample = Window(Arm.QUIET, 0, 1, {"cycles": 5}, {}, exits=0, smis=0, gaps=0).reading(0)
    assert judge([sample]).verdict is Verdict.INCONCLUSIVE
    passed = judge([sample, control("leak", "c", 1, 1, ""), claim("leak", "x", True, True)])
    assert passed == Judgement(Verdict.PASS, "leak: x: yes")


def test_figures_beside_a_control_that_did_not_hold_decide_nothing() -> None:
    judgement = judge([control("vmcs", "the dump", 1, 2, "mend it"), measure("vmcs", "bits", 12)])
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "the dump: 1, expected 2; mend it" in judgement.reason


def test_nobody_who_could_look_is_a_skip_with_the_way_to_one() -> None:
    absent = Absence("leak", Missing("there is no PMU", "give it one"))
    judgement = judge([], [absent, absent])
    assert judgement.verdict is Verdict.SKIP
    assert judgement.reason == "leak: there is no PMU; give it one"


GONE = Absence("leak", Missing("KVM gives guests no PMU", "load kvm with enable_pmu=1"))


def test_a_reason_that_comes_after_controls_held_is_the_skip_s() -> None:
    judgement = judge([control("leak", "SMIs come", 3, 3, "")], [GONE])
    assert judgement.verdict is Verdict.SKIP
    assert judgement.reason == "leak: KVM gives guests no PMU; load kvm with enable_pmu=1"


def test_a_reason_after_a_control_that_broke_is_no_skip() -> None:
    judgement = judge([control("leak", "SMIs come", 0, 3, "name another source")], [GONE])
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reason.endswith("SMIs come: 0, expected 3; name another source")


def test_a_witness_that_looked_and_said_nothing_is_not_excused_by_another_s_absence() -> None:
    judgement = judge([control("vmcs", "the dump", 1, 1, "")], [GONE])
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reason == (
        "vmcs: no claim was made, though its controls held; "
        "not asked: leak (KVM gives guests no PMU); report a bug of kvmtest"
    )


def test_figures_tell_who_was_not_asked() -> None:
    judgement = judge([measure("guest", "SMM events", 12)], [GONE])
    assert judgement.verdict is Verdict.MEASURED
    assert judgement.reason == "SMM events: 12; not asked: leak (KVM gives guests no PMU)"


@given(MANY, st.lists(ABSENCES, max_size=2))
def test_nobody_is_told_to_run_it_again_for_want_of_a_reason(
    readings: list[Reading], absences: list[Absence]
) -> None:
    assert "run it again" not in judge(readings, absences).reason


@given(MANY, st.lists(ABSENCES, min_size=1, max_size=2))
def test_the_reason_of_an_absence_survives_where_nothing_is_claimed(
    readings: list[Reading], absences: list[Absence]
) -> None:
    silent = [r for r in readings if r.role is not Role.CLAIM]
    judgement = judge(silent, absences)
    broken = [r for r in silent if r.role is Role.CONTROL and not r.agrees]
    assert "gone" in judgement.reason or broken
    if judgement.verdict is Verdict.SKIP:
        assert {r.witness for r in silent if r.role is Role.CONTROL} <= {
            a.witness for a in absences
        }


def test_no_readings_at_all_decide_nothing() -> None:
    assert judge([]).verdict is Verdict.INCONCLUSIVE


def test_a_skip_says_each_reason_once() -> None:
    assert skip(["a", "b", "a"]).reason == "a; b"
