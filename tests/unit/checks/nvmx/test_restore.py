"""nvmx.restore: on a KVM with the fix, on each mutant of it, and where a control does not hold."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict

PROPERTY = "nvmx.restore"
#: The bit of vmcs02 alone is wrong, which only SMIs show: tests/unit/checks/leaks/test_walk.py.
BY_LEAK = "restored-without-host-bit"


def test_the_fix_passes(decide: Decide) -> None:
    decided = decide(PROPERTY)
    assert decided.verdict is Verdict.PASS, decided.reason
    assert decided.speakers == {"guest", "vmcs", "runflags"}


@pytest.mark.parametrize(("owner", "mutant"), mutants_of(PROPERTY))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    expected = Verdict.PASS if mutant == BY_LEAK else Verdict.FAIL
    assert decide(owner, mutant).verdict is expected


@pytest.mark.parametrize("mutant", ["l1-without-host-bit", "flag-not-in-l2", "mask-missing"])
def test_a_stale_bit_fails(decide: Decide, mutant: str) -> None:
    assert decide(PROPERTY, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("mutant", ["vmcs12-bit-14-refused", "quirk-not-offered"])
def test_bit_14_is_to_be_taken_where_kvm_says_so_and_nowhere_else(
    decide: Decide, mutant: str
) -> None:
    assert decide(PROPERTY, mutant).verdict is Verdict.FAIL


def test_dumps_that_are_cut_off_claim_nothing(decide: Decide) -> None:
    assert decide(PROPERTY, hides="dumps").speakers == {"guest", "runflags"}


@pytest.mark.parametrize("hidden", ["knob", "guests' bits", "hits", "function", "MSRs"])
def test_without_a_control_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide(PROPERTY, hides=hidden).verdict is Verdict.INCONCLUSIVE
