"""host.knob-effective and host.hotplug follow the MSRs of every CPU; their controls can fail."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.debugctl_model import Svm, Vmx
from support.fake_kvm import Decide, fake_kvm, mutants_of
from support.observing import context_of, controls, judged, observe
from support.stand_in import (
    KNOB,
    intel_host,
)

from kvmtest.checks import check_of
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM, MsrAccess
from kvmtest.host.machine import Machine
from kvmtest.judge import Absence, Judgement, Verdict
from kvmtest.properties import find


class FollowingMsrs(MsrAccess):
    """Stands in for MSRs: DEBUGCTL says what the knob says, but for CPUs that are deaf."""

    deaf: Sequence[int] = ()
    tsc_step = 1000
    reads = 0

    def read(self, index: int, cpu: int) -> int:
        type(self).reads += 1
        if index != IA32_DEBUGCTL:
            return type(self).reads * self.tsc_step
        on = cpu not in self.deaf and self.tree.read(KNOB) == "1"
        return IA32_DEBUGCTL_FREEZE_WHILE_SMM if on else 0


def knob_effective(root: Path, msrs: type[FollowingMsrs], knob: int = 1) -> Judgement:
    tree = intel_host(root, knob=knob)
    machine = Machine(tree)
    vars(machine)["msr"] = msrs(tree, (0, 1), None)
    observations = observe("host.knob-effective", machine)
    assert tree.read(KNOB) == str(knob), "the knob is not put back"
    assert len(controls(observations)) == 2
    return judged(observations)


@pytest.mark.parametrize("knob", [0, 1])
def test_knob_effective_passes_where_every_cpu_follows(tmp_path: Path, knob: int) -> None:
    judgement = knob_effective(tmp_path, FollowingMsrs, knob)
    assert judgement.verdict is Verdict.PASS
    assert "(and 7 more)" in judgement.reason, "two CPUs, four writes"


@pytest.mark.parametrize("cpu", [0, 1])
def test_knob_effective_fails_where_one_cpu_does_not_follow(tmp_path: Path, cpu: int) -> None:
    class Deaf(FollowingMsrs):
        deaf = (cpu,)

    judgement = knob_effective(tmp_path, Deaf)
    assert judgement.verdict is Verdict.FAIL
    assert f"MSR 0x1d9 bit 14 of CPU {cpu} with the knob at 1: 0, expected 1" in judgement.reason


def test_knob_effective_decides_nothing_where_the_tsc_stands_still(tmp_path: Path) -> None:
    class Frozen(FollowingMsrs):
        tsc_step = 0

    judgement = knob_effective(tmp_path, Frozen)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "the TSC of CPU 0" in judgement.reason


def test_dead_msr_files_are_no_proof_against_the_knob(tmp_path: Path) -> None:
    observations = observe("host.knob-effective", Machine(intel_host(tmp_path)))
    assert judged(observations).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("gone", [KNOB, "/dev/cpu/0/msr"])
def test_knob_effective_is_absent_without_knob_or_msrs(tmp_path: Path, gone: str) -> None:
    tree = intel_host(tmp_path)
    tree.path(gone).unlink()
    (absence,) = observe("host.knob-effective", Machine(tree))
    assert isinstance(absence, Absence)


def test_knob_effective_writes_the_knob_both_ways_through_the_journal(tmp_path: Path) -> None:
    machine = Machine(intel_host(tmp_path, knob=1))
    with context_of(machine) as context:
        list(check_of(find("host.knob-effective"))(context))
        (change,) = context.journal.changes
        assert (change.path, change.old, change.writes) == (KNOB, "1", 4)


def test_a_cpu_that_comes_online_with_the_knob_s_bit_passes_by_each_witness(
    decide: Decide,
) -> None:
    decided = decide("host.hotplug")
    assert decided.verdict is Verdict.PASS, decided.reason
    assert decided.speakers == {"hostmsr", "vmcs", "runflags"}


@pytest.mark.parametrize(("owner", "mutant"), mutants_of("host.hotplug"))
def test_a_cpu_that_comes_online_without_the_bit_fails(
    decide: Decide, owner: str, mutant: str
) -> None:
    decided = decide(owner, mutant)
    assert decided.verdict is Verdict.FAIL
    assert "after CPU 1 was offline while freeze_on_smi went to 1: 0" in decided.reason


@pytest.mark.parametrize("hidden", ["knob", "offline"])
def test_without_a_control_hotplug_decides_nothing(decide: Decide, hidden: str) -> None:
    assert decide("host.hotplug", hides=hidden).verdict is Verdict.INCONCLUSIVE


def test_on_amd_no_entry_on_a_cpu_that_came_online_loads_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_kvm(tmp_path, monkeypatch, Svm) as context:
        observations = list(check_of(find("host.hotplug"))(context))
    assert judged(observations).verdict is Verdict.PASS


def test_the_kernel_s_refusal_to_let_a_cpu_go_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_kvm(tmp_path, monkeypatch, Vmx) as context:
        switch = context.machine.tree.path("/sys/devices/system/cpu/cpu1/online")
        switch.unlink()
        # Nobody may write it, not even root.
        switch.symlink_to("/proc/sys/kernel/ostype")
        observations = list(check_of(find("host.hotplug"))(context))
    assert {type(each) for each in observations} == {Absence}
    assert "cpu1/online: Permission denied" in judged(observations).reason


def test_a_process_that_is_bound_to_one_cpu_takes_none_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_kvm(tmp_path, monkeypatch, Vmx, cpus={0}) as context:
        observations = list(check_of(find("host.hotplug"))(context))
        assert "cpu1" not in str(context.journal.changes)
    assert "may run on one CPU only" in judged(observations).reason
