"""nvmx.vmcs12.save: on a KVM with the fix, on each mutant of it, and without a control."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict

PROPERTY = "nvmx.vmcs12.save"


def test_the_fix_passes(decide: Decide) -> None:
    decided = decide(PROPERTY)
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"guest"}), decided.reason


def test_a_kvm_without_the_quirk_passes_too(decide: Decide) -> None:
    decided = decide(PROPERTY, "quirk-not-offered")
    assert decided.verdict is Verdict.PASS, decided.reason


@pytest.mark.parametrize(("owner", "mutant"), mutants_of(PROPERTY))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("hidden", ["knob", "MSRs"])
def test_without_a_control_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide(PROPERTY, hides=hidden).verdict is Verdict.INCONCLUSIVE
