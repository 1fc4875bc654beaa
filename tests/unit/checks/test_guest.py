"""guest.rdmsr-hides fails where a guest sees the bit, and its controls can fail."""

import pytest
from support.fake_kvm import Decide, mutants_of
from support.observing import controls, judged, observe
from support.stand_in import (
    need_kvm,
)

from kvmtest.checks import guest as guest_view
from kvmtest.checks.witnesses import guest as guest_witness
from kvmtest.guests import Guest, long_guest
from kvmtest.host.facts.msr import IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.judge import Reading, Role, Verdict
from kvmtest.kvm import Vcpu, Vm
from kvmtest.missing import Missing


def without_knob() -> Machine:
    """Return this machine, its knob out of reach: a test changes nothing on it."""
    need_kvm()
    machine = Machine(Tree())
    vars(machine)["knob"] = Missing("the knob is left alone in tests")
    return machine


def test_rdmsr_hides_has_controls_that_hold_here() -> None:
    if Tree().read("/sys/module/kvm/parameters/ignore_msrs") not in (None, "N"):
        pytest.skip("needs kvm.ignore_msrs=N: an MSR that is none is to fault")
    observations = observe("guest.rdmsr-hides", without_knob())
    found = controls(observations)
    assert [c.agrees for c in found] == [True] * 3, list(map(str, found))
    claims = [o for o in observations if isinstance(o, Reading) and o.role is Role.CLAIM]
    assert len(claims) == 2
    assert judged(observations).verdict in (Verdict.PASS, Verdict.FAIL)


#: IA32_SYSENTER_ESP: like DEBUGCTL an MSR that a guest has, and here it shows bit 14.
IA32_SYSENTER_ESP = 0x175


@pytest.mark.parametrize("value", [IA32_DEBUGCTL_FREEZE_WHILE_SMM, 0x7FFF])
def test_rdmsr_hides_fails_where_a_guest_sees_the_bit(
    monkeypatch: pytest.MonkeyPatch, value: int
) -> None:
    def showing(vm: Vm, vcpu: Vcpu) -> Guest:
        vcpu.set_msr(IA32_SYSENTER_ESP, value)
        return long_guest(vm, vcpu)

    monkeypatch.setattr(guest_view, "long_guest", showing)
    monkeypatch.setattr(guest_view, "IA32_DEBUGCTL", IA32_SYSENTER_ESP)
    judgement = judged(observe("guest.rdmsr-hides", without_knob()))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.reason.startswith("guest: bit 14 in the guest's RDMSR 0x1d9: 1, expected 0")


def test_rdmsr_hides_does_not_take_other_bits_for_the_host_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def showing(vm: Vm, vcpu: Vcpu) -> Guest:
        vcpu.set_msr(IA32_SYSENTER_ESP, 0x3FFF)
        return long_guest(vm, vcpu)

    monkeypatch.setattr(guest_view, "long_guest", showing)
    monkeypatch.setattr(guest_view, "IA32_DEBUGCTL", IA32_SYSENTER_ESP)
    assert judged(observe("guest.rdmsr-hides", without_knob())).verdict is not Verdict.FAIL


def test_rdmsr_hides_decides_nothing_where_the_guest_shows_other_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The TSC is never what was put into it a moment ago.
    monkeypatch.setattr(guest_witness, "IA32_SYSENTER_EIP", 0x10)
    judgement = judged(observe("guest.rdmsr-hides", without_knob()))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "control did not hold" in judgement.reason


@pytest.mark.parametrize(
    "property_id", ["kernel.fix-present", "host.knob-effective", "guest.rdmsr-hides"]
)
def test_a_check_of_the_live_machine_leaves_its_files_alone(property_id: str) -> None:
    if property_id == "guest.rdmsr-hides":
        need_kvm()
    machine = Machine(Tree())
    knob = machine.knob
    before = None if isinstance(knob, Missing) else knob.values()
    observe(property_id, machine)
    assert before == (None if isinstance(knob, Missing) else knob.values())


# On a fake KVM

PROPERTY = "guest.rdmsr-hides"


def test_the_fix_passes(decide: Decide) -> None:
    decided = decide(PROPERTY)
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"guest"}), decided.reason


@pytest.mark.parametrize(("owner", "mutant"), mutants_of(PROPERTY))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("hidden", ["knob", "MSRs", "faults"])
def test_without_a_control_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide(PROPERTY, hides=hidden).verdict is Verdict.INCONCLUSIVE
