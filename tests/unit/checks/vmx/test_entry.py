"""vmx.entry.*: on a KVM with the fix, on each mutant of it, and where a control does not hold."""

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.judge import Verdict

ENTRIES = {
    "fresh": {"vmcs", "runflags"},
    "toggled": {"vmcs", "runflags"},
    "toggled-running": {"vmcs", "runflags"},
    "toggled-back": {"vmcs"},
    "migrated": {"vmcs"},
    "schedules": {"vmcs"},
    "flag-economy": {"runflags"},
}
#: What, where it is hidden, breaks a control of a witness.
CONTROLS = {"vmcs": ["dumps", "guests' bits"], "runflags": ["hits", "function"]}


@pytest.mark.parametrize(("name", "witnesses"), ENTRIES.items())
def test_the_fix_passes_by_each_witness(decide: Decide, name: str, witnesses: set[str]) -> None:
    decided = decide(f"vmx.entry.{name}")
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, witnesses), decided.reason


@pytest.mark.parametrize(("owner", "mutant"), mutants_of("vmx.entry."))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("name", ENTRIES)
def test_without_a_knob_that_reaches_every_cpu_nothing_is_decided(
    decide: Decide, name: str
) -> None:
    decided = decide(f"vmx.entry.{name}", hides="knob")
    assert decided.verdict is Verdict.INCONCLUSIVE
    assert "the host's bit 14 (CPU 0,1)" in decided.reason


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (name, hidden)
        for name, (witness, *others) in ENTRIES.items()
        if not others
        for hidden in CONTROLS[witness]
    ],
)
def test_where_the_only_witness_has_no_control_nothing_is_decided(
    decide: Decide, name: str, hidden: str
) -> None:
    assert decide(f"vmx.entry.{name}", hides=hidden).verdict is Verdict.INCONCLUSIVE


def test_without_whole_dumps_the_run_flags_decide(decide: Decide) -> None:
    decided = decide("vmx.entry.toggled", hides="dumps")
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"runflags"})


def test_a_toggle_is_lost_where_kvm_emulates(decide: Decide) -> None:
    assert decide("vmx.entry.after-emulation").verdict is Verdict.FAIL


def test_where_it_is_mended_that_no_toggle_is_lost_passes(decide: Decide) -> None:
    assert decide("vmx.entry.after-emulation", "emulation-mended").verdict is Verdict.PASS
