"""nvmx.entry.*: on a KVM with the fix, on each mutant of it, and where a control does not hold."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict

L2, VMFAIL = "nvmx.entry.l2", "nvmx.entry.vmfail-reload"


@pytest.mark.parametrize(("prop", "speakers"), [(L2, {"vmcs", "runflags"}), (VMFAIL, {"vmcs"})])
def test_the_fix_passes(decide: Decide, prop: str, speakers: set[str]) -> None:
    decided = decide(prop)
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, speakers), decided.reason


@pytest.mark.parametrize(("owner", "mutant"), mutants_of("nvmx.entry."))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("fault", ["mask-missing", "turning-on-unnoticed", "no-reload-at-entry"])
def test_a_fault_of_every_entry_is_one_of_entries_to_l2(decide: Decide, fault: str) -> None:
    assert decide(L2, fault).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("prop", "hidden"),
    [(L2, "knob"), (L2, "hits"), (L2, "guests' bits"),
     (VMFAIL, "knob"), (VMFAIL, "dumps"), (VMFAIL, "guests' bits")],
)  # fmt: skip
def test_without_a_control_nothing_is_decided(decide: Decide, prop: str, hidden: str) -> None:
    assert decide(prop, hides=hidden).verdict is Verdict.INCONCLUSIVE
