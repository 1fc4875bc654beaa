"""nvmx.vmcs12.freeze-bit: with the quirk, without, on each mutant, and without a control."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict

PROPERTY = "nvmx.vmcs12.freeze-bit"
#: What SMIs alone show.
BY_LEAK = {"vmcs12-bit-14-passed"}


def test_a_kvm_with_the_quirk_passes(decide: Decide) -> None:
    decided = decide(PROPERTY)
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"guest", "vmcs"}), decided.reason


def test_a_kvm_without_the_quirk_passes_if_it_refuses_the_bit(decide: Decide) -> None:
    decided = decide(PROPERTY, "quirk-missing")
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"guest", "vmcs"}), decided.reason


@pytest.mark.parametrize(
    ("owner", "mutant"), [each for each in mutants_of(PROPERTY) if each[1] not in BY_LEAK]
)
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("fault", ["l1-without-host-bit", "guest-sees-bit"])
def test_what_l1_and_l2_run_with_and_see_is_claimed_too(decide: Decide, fault: str) -> None:
    assert decide(PROPERTY, fault).verdict is Verdict.FAIL


@pytest.mark.parametrize("hidden", ["knob", "MSRs", "faults"])
def test_without_a_control_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide(PROPERTY, hides=hidden).verdict is Verdict.INCONCLUSIVE
