"""--require makes a FAIL of what is demanded and not met, says why, and touches nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.judge import (
    Absence,
    Judgement,
    Reading,
    Role,
    Verdict,
    claim,
    control,
    judge,
    measure,
)  # fmt: skip
from kvmtest.judge.requirements import Demand, Kind, enforce, unmet
from kvmtest.missing import Missing

DECIDED = Demand("any.soak", Kind.PROPERTY, "any.soak")
BY_VMCS = Demand("witness:vmcs", Kind.WITNESS, "vmcs")
HAS_TDX = Demand("feature:tdx", Kind.FEATURE, "tdx")
NO_TDX = Demand("feature:tdx", Kind.FEATURE, "tdx", "TDX is off; load kvm_intel with tdx=1")
ABSENT = [Absence("vmcs", Missing("no dump", "use Linux 5.2"))]

UNDECIDED = [Verdict.SKIP, Verdict.INCONCLUSIVE]
verdicts = st.sampled_from(Verdict)
demands = st.sampled_from([DECIDED, BY_VMCS, HAS_TDX, NO_TDX])


def speaking(witness: str, agrees: bool = True, held: bool = True) -> list[Reading]:
    return [control(witness, "control", held, True, "mend"), claim(witness, "bit", agrees, True)]


def enforced(readings: list[Reading], *asked: Demand) -> Judgement:
    return enforce(judge(readings, ABSENT), asked, readings, ABSENT)


# A property


@pytest.mark.parametrize("verdict", UNDECIDED)
def test_a_property_that_is_not_decided_fails_and_says_by_whom(verdict: Verdict) -> None:
    twice = [DECIDED, Demand("x", Kind.PROPERTY, "x")]
    assert enforce(Judgement(verdict, "no BTF"), twice) == Judgement(
        Verdict.FAIL, f"--require any.soak --require x, but {verdict}: no BTF"
    )


@pytest.mark.parametrize("verdict", sorted(set(Verdict) - set(UNDECIDED)))
def test_a_property_that_is_decided_stays_as_it_is(verdict: Verdict) -> None:
    judgement = Judgement(verdict, "because")
    assert enforce(judgement, [DECIDED]) is judgement


# A witness


def test_a_witness_that_spoke_with_its_controls_held_has_met_it() -> None:
    for agrees in (True, False):
        readings = speaking("vmcs", agrees)
        assert enforced(readings, BY_VMCS) == judge(readings, ABSENT)


def test_a_witness_that_was_not_there_fails_what_another_decided() -> None:
    judgement = enforced(speaking("runflags"), BY_VMCS)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.reason.startswith(
        "--require witness:vmcs, but vmcs did not look: no dump; use Linux 5.2; without it PASS: "
    )


def test_a_witness_whose_control_broke_fails() -> None:
    readings = [*speaking("vmcs", held=False), *speaking("runflags", agrees=False)]
    assert judge(readings).verdict is Verdict.FAIL, "by the other witness"
    assert "--require witness:vmcs, but vmcs: control did not hold" in (
        enforced(readings, BY_VMCS).reason
    )


def test_a_witness_that_ran_controls_alone_did_not_speak() -> None:
    readings = [control("vmcs", "control", True, True, ""), *speaking("runflags")]
    assert "but vmcs did not look" in enforced(readings, BY_VMCS).reason
    figures = [*readings, measure("vmcs", "dumps", 3)]
    assert "but vmcs did not look" in enforced(figures, BY_VMCS).reason, "a figure is no claim"


def test_figures_are_all_that_a_property_without_a_claim_has() -> None:
    readings = [control("vmcs", "control", True, True, ""), measure("vmcs", "dumps", 3)]
    assert enforced(readings, BY_VMCS).verdict is Verdict.MEASURED
    assert enforced([measure("vmcs", "dumps", 3)], BY_VMCS).reason.startswith(
        "--require witness:vmcs, but vmcs: no control was run; without it MEASURED: dumps: 3"
    )


def test_another_s_undecided_control_is_not_the_witness_s() -> None:
    readings = [*speaking("vmcs"), *speaking("runflags", held=False)]
    assert judge(readings).verdict is Verdict.INCONCLUSIVE
    assert enforced(readings, BY_VMCS).verdict is Verdict.INCONCLUSIVE


# A feature


@given(verdicts)
def test_a_feature_that_is_there_asks_nothing_more(verdict: Verdict) -> None:
    judgement = Judgement(verdict, "because")
    assert enforce(judgement, [HAS_TDX]) is judgement


def test_a_feature_that_is_missing_fails_and_is_named_once() -> None:
    skipped = Judgement(Verdict.SKIP, f"KVM is old; {NO_TDX.lacks}")
    assert enforce(skipped, [NO_TDX]).reason == f"--require feature:tdx, but SKIP: {skipped.reason}"
    passed = Judgement(Verdict.PASS, "because")
    assert enforce(passed, [NO_TDX]).reason == (
        f"--require feature:tdx, but {NO_TDX.lacks}; without it PASS: because"
    )


# All


@given(verdicts, st.lists(demands, max_size=4))
def test_a_demand_that_is_not_met_never_passes(verdict: Verdict, asked: list[Demand]) -> None:
    judgement = Judgement(verdict, "because")
    after = enforce(judgement, asked)
    broken = [demand for demand in asked if unmet(demand, judgement)]
    if verdict is Verdict.ERROR:
        assert after is judgement, "it fails as an error"
    elif broken:
        assert after.verdict is Verdict.FAIL
        assert all(f"--require {demand.text}" in after.reason for demand in broken)
    else:
        assert after is judgement


@given(verdicts)
def test_what_is_not_required_stays_as_it_is(verdict: Verdict) -> None:
    judgement = Judgement(verdict, "because")
    assert enforce(judgement, []) is judgement


@given(st.lists(st.sampled_from(Role), max_size=4), st.booleans())
def test_a_witness_is_never_met_without_a_claim_and_a_control(
    roles: list[Role], agrees: bool
) -> None:
    readings = [Reading("vmcs", role, "x", agrees, True) for role in roles]
    met = not unmet(BY_VMCS, Judgement(Verdict.PASS, "by another"), readings)
    assert met is (Role.CLAIM in roles and Role.CONTROL in roles and agrees)
