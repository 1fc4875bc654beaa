"""host.knob-effective follows the MSRs of every CPU, and its controls can fail."""

from collections.abc import Sequence
from pathlib import Path

import pytest
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
