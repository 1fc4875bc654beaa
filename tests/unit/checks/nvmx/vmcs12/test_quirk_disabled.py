"""nvmx.vmcs12.quirk-disabled: on a KVM with the quirk, on each mutant, and without a control."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict

PROPERTY = "nvmx.vmcs12.quirk-disabled"


def test_a_kvm_with_the_quirk_passes(decide: Decide) -> None:
    decided = decide(PROPERTY)
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"guest"}), decided.reason


@pytest.mark.parametrize(("owner", "mutant"), mutants_of(PROPERTY))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("hidden", ["MSRs", "faults"])
def test_without_a_control_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide(PROPERTY, hides=hidden).verdict is Verdict.INCONCLUSIVE


def test_a_bit_that_was_never_taken_shows_nothing_when_it_is_refused(decide: Decide) -> None:
    decided = decide(PROPERTY, "vmcs12-bit-14-refused")
    assert decided.verdict is Verdict.INCONCLUSIVE
    assert "look at nvmx.vmcs12.freeze-bit" in decided.reason
