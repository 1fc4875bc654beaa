"""vmx.guest.*: on a KVM with the fix, on each mutant of it, and where a control does not hold."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict
from kvmtest.lab.mutants import find

WRITES = {
    "wrmsr-refused": {"guest", "vmcs"},
    "write-keeps-host-bit": {"guest", "vmcs"},
    "rtm-debug": {"guest"},
}


@pytest.mark.parametrize("has_rtm", [True, False])
@pytest.mark.parametrize(("name", "witnesses"), WRITES.items())
def test_the_fix_passes_by_each_witness(
    decide: Decide, name: str, witnesses: set[str], *, has_rtm: bool
) -> None:
    decided = decide(f"vmx.guest.{name}", has_rtm=has_rtm)
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, witnesses), decided.reason


@pytest.mark.parametrize(("owner", "mutant"), mutants_of("vmx.guest."))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    has_rtm = "rtm" in find(mutant).cpu_flags
    assert decide(owner, mutant, has_rtm=has_rtm).verdict is Verdict.FAIL


@pytest.mark.parametrize("hidden", ["MSRs", "faults"])
@pytest.mark.parametrize("name", WRITES)
def test_where_the_guest_reads_msrs_wrongly_nothing_is_decided(
    decide: Decide, name: str, hidden: str
) -> None:
    assert decide(f"vmx.guest.{name}", hides=hidden).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("hidden", ["knob", "guests' bits"])
@pytest.mark.parametrize("name", ["wrmsr-refused", "write-keeps-host-bit"])
def test_where_the_host_s_bit_is_not_seen_nothing_is_decided(
    decide: Decide, name: str, hidden: str
) -> None:
    assert decide(f"vmx.guest.{name}", hides=hidden).verdict is Verdict.INCONCLUSIVE
