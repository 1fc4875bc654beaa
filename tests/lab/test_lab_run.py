"""A stock kernel in the lab, and the same with the fix reverted: green and red."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.intel_lab import DECIDED, LEAKS, LOST_UPDATE, NEED_COUNTERS
from support.lab_job import run_script_inside
from support.stand_in import run_kvmtest

from kvmtest.evidence import Evidence, load
from kvmtest.evidence.model import Result
from kvmtest.judge import Role, Verdict
from kvmtest.judge.samples import Arm, Samples
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.lab.mutants import find
from kvmtest.lab.target import LabTarget
from kvmtest.smi.sources.lab import TURNS
from kvmtest.target import Job, TargetFailed

# Those of them that the leak walk has a step for.
WALKED = {
    "vmx.entry.fresh",
    "vmx.entry.toggled",
    "vmx.guest.wrmsr-refused",
    "vmx.guest.write-keeps-host-bit",
    "nvmx.entry.l2",
    "nvmx.entry.vmfail-reload",
    "nvmx.vmcs12.freeze-bit",
    "nvmx.restore",
}
COUNTERS_INSIDE = Path(__file__).with_name("counters_inside.py")
GUESTS_INSIDE = Path(__file__).with_name("guests_inside.py")
L1_INSIDE = Path(__file__).with_name("l1_inside.py")


def verdicts(evidence: Evidence) -> dict[str, Verdict]:
    return {result.id: result.verdict for result in evidence.results}


@pytest.fixture(scope="module")
def stock(kernel: BootableKernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the command, which the test below asserts."""
    output = tmp_path_factory.mktemp("lab") / "out"
    done = run_kvmtest("lab", "run", "-o", output, timeout=1500)
    assert done.status == 0, done.err
    assert done.out.startswith("PASS: the fix works in Linux ")
    assert ", 1 known defect, " in done.out
    assert len(done.out.splitlines()) <= 40
    return output


def test_a_stock_kernel_passes_whatever_the_machine_can_show(stock: Path, lab: LabTarget) -> None:
    evidence = load(stock)
    found = verdicts(evidence)
    counted = Verdict.PASS if lab.machine.emulator.details.get("pmu") else Verdict.SKIP
    assert {name: found.pop(name) for name in NEED_COUNTERS} == dict.fromkeys(
        NEED_COUNTERS, counted
    )
    assert {name for name, v in found.items() if v is Verdict.PASS} == DECIDED
    assert found[LOST_UPDATE] is Verdict.FAIL


def test_the_schedules_find_the_lost_update_by_themselves(stock: Path) -> None:
    (result,) = (r for r in load(stock).results if r.id == LOST_UPDATE)
    played = [r for r in result.readings if "schedules of" in r.what]
    claims = [(r.observed, r.raw["first"]) for r in played if r.role is Role.CLAIM]
    assert claims == [(1, "e0"), (6, "r0 e1, e0 r1, e0 i1, e0 e1, e0 k1, …")]
    # Those that the model of a KVM with this bug says, and no others.
    assert [r.observed for r in played if r.role is Role.MEASURE] == ["1, these", "6, these"]


def test_leaks_are_looked_for_where_other_witnesses_look_too(stock: Path, lab: LabTarget) -> None:
    speaking = {
        result.id
        for result in load(stock).results
        if any(r.witness == "leak" and r.role is Role.CLAIM for r in result.readings)
    }
    counts = lab.machine.emulator.details.get("pmu")
    assert speaking == ({LOST_UPDATE, *LEAKS, *WALKED} if counts else set())


def test_evidence_says_that_it_is_of_a_lab_and_what_it_booted(
    stock: Path, kernel: BootableKernel, lab: LabTarget
) -> None:
    evidence = load(stock)
    machine = evidence.machine.lab
    assert evidence.machine.kind == "lab"
    assert evidence.kernel.release == kernel.release
    assert machine.emulator == "Bochs"
    assert machine.details.kernel_digest == kernel.digest
    assert machine.details.image_digest == lab.machine.image_digest
    assert machine.details.modules == "the kernel's own"


def test_the_console_is_kept_and_everything_else_of_a_run(stock: Path) -> None:
    names = {path.name for path in stock.iterdir()}
    assert names == {"console.log", "evidence.json", "junit.xml", "kernel.log", "ktap.txt"}


def test_a_kvm_with_the_fix_reverted_is_judged_by_one_command(
    lab: LabTarget, built: Callable[..., Path], tmp_path: Path
) -> None:
    modules = built(find("fix-reverted").patch)
    done = run_kvmtest("lab", "run", "--modules", modules, "-o", tmp_path / "out", timeout=1500)
    assert done.status == 1, done.err
    evidence = load(tmp_path / "out")
    found = verdicts(evidence)
    entries = ("fresh", "toggled", "toggled-back", "after-emulation")
    assert {found[f"vmx.entry.{name}"] for name in entries} == {Verdict.FAIL}
    assert found["any.soak"] is Verdict.FAIL
    assert found["kernel.fix-present"] is Verdict.FAIL
    if lab.machine.emulator.details.get("pmu"):
        assert {found[name] for name in LEAKS} == {Verdict.FAIL}
    assert found["host.knob-effective"] is Verdict.PASS
    assert evidence.exit_status == 1
    details = evidence.machine.lab.details
    assert details.modules_laid_over == "kvm.ko, kvm-intel.ko"
    for path in modules.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"{path.name} (sha256 {digest})" in details.modules
    assert details.start == "restored from a saved machine"


def test_why_the_kernel_refuses_a_module_is_said(
    kernel: BootableKernel, lab: LabTarget, tmp_path: Path
) -> None:
    (own,) = [module for module in kernel.load_order("kvm_intel") if module.name == "kvm_intel"]
    # A symbol that nobody exports takes the place of one that kvm does.
    name = b"kvm_emulate_wrmsr"
    assert name in own.data
    (tmp_path / "kvm-intel.ko").write_bytes(own.unsigned.replace(name, b"kvm_emulate_nomsr"))
    with pytest.raises(TargetFailed, match=r"\(the kernel: .*Unknown symbol kvm_emulate_nomsr"):
        lab.run(Job(modules=tmp_path))


@pytest.fixture
def counting(lab: LabTarget) -> LabTarget:
    """The lab, where its machines have counters."""
    if not lab.machine.emulator.details.get("pmu"):
        pytest.skip("the distribution's emulator has no counters")
    return lab


def leaks_where(lab: LabTarget, words: list[str], commands: list[list[str]]) -> Result:
    only = ["--only", "vmx.leak.host-events"]
    (result,) = lab.run(Job([*only, *words], commands=commands)).evidence.results
    return result


def wrmsr(msr: int, value: int) -> list[list[str]]:
    """Return what writes an MSR of CPU 0."""
    data = value.to_bytes(8, "little")
    write = f"import os; os.pwrite(os.open('/dev/cpu/0/msr', os.O_WRONLY), {data!r}, {msr})"
    return [["/bin/python3", "-c", write]]


def fault(msr: int) -> list[list[str]]:
    """Return what switches on a fault of the emulated CPU (docs/lab-pmu.md)."""
    return wrmsr(msr, 1)


def test_without_smis_nothing_is_decided(counting: LabTarget) -> None:
    result = leaks_where(counting, ["--smi-source", "passive"], [])
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "no SMI" in result.reason


def test_thirty_smis_that_are_asked_for_one_by_one_decide(counting: LabTarget) -> None:
    two = counting.with_hardware(replace(counting.machine.hardware, cpus=2))
    # Long enough for a gap where the TSC goes on in steps.
    result = leaks_where(two, ["--smi-source", "apm-port"], wrmsr(0x4B500004, TURNS))
    assert result.verdict is Verdict.PASS
    windows = [w for w in Samples.of(result.readings).windows if w.smis]
    assert {w.smis for w in windows} == {1}
    interleaved = [w for w in windows if w.arm in (Arm.KNOB_OFF, Arm.KNOB_ON)]
    assert 30 <= len(interleaved) <= len(windows) <= 36
    assert sum(w.guest_smis == 1 for w in windows) >= 30


def test_toggles_come_at_exact_points_of_two_vcpus_runs(lab: LabTarget) -> None:
    two = lab.with_hardware(replace(lab.machine.hardware, cpus=2))
    names = ("vmx.entry.schedules", "vmx.entry.toggled-running")
    evidence = two.run(Job([f"--only={name}" for name in names])).evidence
    assert verdicts(evidence) == dict.fromkeys(names, Verdict.PASS)
    spoken = {r.witness for result in evidence.results for r in result.readings}
    assert {"vmcs", "runflags"} <= spoken


def test_a_cpu_goes_and_comes_with_the_knob_s_bit(lab: LabTarget) -> None:
    two = lab.with_hardware(replace(lab.machine.hardware, cpus=2))
    evidence = two.run(Job(["--only=host.hotplug"])).evidence
    (result,) = evidence.results
    assert result.verdict is Verdict.PASS
    assert {reading.witness for reading in result.readings} == {"hostmsr", "vmcs", "runflags"}
    (change,) = (each for each in evidence.journal.changes if "cpu1/online" in each.sentence)
    assert (change.old, change.new, change.undone) == ("1", "1", True)


def test_with_a_dead_counter_nothing_is_decided(counting: LabTarget) -> None:
    result = leaks_where(counting, [], fault(0x4B500002))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "counts the guest: no" in result.reason


def test_with_a_knob_that_does_not_reach_the_msr_nothing_is_decided(counting: LabTarget) -> None:
    result = leaks_where(counting, [], fault(0x4B500003))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "the host's bit 14" in result.reason


def test_a_machine_that_was_booted_judges_like_one_that_was_restored(
    stock: Path, lab: LabTarget
) -> None:
    outcome = LabTarget(replace(lab.machine, cold=True)).run(Job())
    assert verdicts(outcome.evidence) == verdicts(load(stock))
    assert outcome.exit_status == 0
    assert outcome.evidence.machine.lab.details.start == "booted"


def test_l1_and_l2_take_commands_over_each_transport(lab: LabTarget) -> None:
    run_script_inside(lab, GUESTS_INSIDE)


def test_an_l1_with_code_of_its_own_makes_an_l2(lab: LabTarget) -> None:
    run_script_inside(lab, L1_INSIDE)


def test_counters_agree_and_a_guest_has_them_if_its_vm_was_asked_for_a_pmu(
    counting: LabTarget,
) -> None:
    run_script_inside(counting, COUNTERS_INSIDE)
