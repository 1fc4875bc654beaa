"""svm.flag-never on a KVM and its mutants."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict


def test_a_kvm_without_a_host_owned_bit_passes_by_each_witness(decide: Decide) -> None:
    decided = decide("svm.flag-never")
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"hostmsr", "runflags"})


@pytest.mark.parametrize(("owner", "mutant"), mutants_of("svm.flag-never"))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("hidden", ["hits", "function"])
def test_without_a_control_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide("svm.flag-never", hides=hidden).verdict is Verdict.INCONCLUSIVE
