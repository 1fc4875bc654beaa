"""nvmx.vmcs12.validity: on a KVM with the fix, on each mutant of it, and without a control."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict

PROPERTY = "nvmx.vmcs12.validity"


def test_the_fix_passes(decide: Decide) -> None:
    decided = decide(PROPERTY)
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"guest"}), decided.reason


@pytest.mark.parametrize(("owner", "mutant"), mutants_of(PROPERTY))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("mutant", ["vmcs12-bit-14-refused", "quirk-not-asked"])
def test_bit_14_is_another_propertys(decide: Decide, mutant: str) -> None:
    assert decide(PROPERTY, mutant).verdict is Verdict.PASS


@pytest.mark.parametrize("hidden", ["knob", "MSRs", "faults"])
def test_without_a_control_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide(PROPERTY, hides=hidden).verdict is Verdict.INCONCLUSIVE
