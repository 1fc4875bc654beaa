"""The AMD machine: a stock kernel with kvm_amd, and SMIs that the machine really takes."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.lab_job import run_inside, run_script_inside
from support.stand_in import run_kvmtest

from kvmtest.cache import Cache
from kvmtest.errors import KvmtestError
from kvmtest.evidence import load
from kvmtest.judge import Verdict
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.emulators.emulator import Hardware
from kvmtest.lab.emulators.qemu import PC, Q35, Board, Qemu
from kvmtest.lab.saved_machine import SavedMachine
from kvmtest.lab.target import LabTarget

DECIDED = {
    "kernel.fix-present",
    "guest.rdmsr-hides",
    "svm.flag-never",
    "svm.guest.debugctl",
    "svm.guest.smm",
    "any.soak",
    "host.hotplug",
    "any.no-warnings",
}
BESIDE_GUEST = Path(__file__).with_name("smis_beside_guest.py")
EFIVARFS = Path(__file__).with_name("efivarfs_inside.py")


def lab(board: Board) -> LabTarget:
    try:
        qemu, cache = Qemu.find(board), Cache.default()
        kernel = resolve(None, None, cache, print, needed=qemu.modules)
    except KvmtestError as error:
        pytest.skip(f"needs QEMU and a kernel of Debian's archive: {error}")
    return LabTarget(SavedMachine(qemu, kernel, cache, print, print, Hardware(qemu.cpus)))


@pytest.fixture(scope="module")
def amd() -> LabTarget:
    return lab(PC)


@pytest.fixture(scope="module")
def output(amd: LabTarget, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the command, which the test below asserts."""
    folder = tmp_path_factory.mktemp("lab") / "out"
    done = run_kvmtest("lab", "run", "--machine", "amd", "-o", folder, timeout=1500)
    assert done.status == 0, done.err
    return folder


def test_a_stock_kernel_passes_whatever_the_machine_can_show(output: Path) -> None:
    verdicts = {result.id: result.verdict for result in load(output).results}
    assert {name for name, v in verdicts.items() if v is Verdict.PASS} == DECIDED
    assert {verdicts[name] for name in verdicts.keys() - DECIDED} == {Verdict.SKIP}


def test_what_is_not_decided_says_what_it_lacks(output: Path) -> None:
    reasons = {result.id: result.reason for result in load(output).results}
    assert reasons["vmx.entry.fresh"].startswith("KVM here is kvm_amd, not kvm_intel")
    assert reasons["host.knob-effective"].startswith("AMD CPUs have no FREEZE_WHILE_SMM bit")
    assert "no PMU" in reasons["svm.leak.guest-only"]


def test_evidence_says_that_it_is_of_a_lab_and_what_it_booted(output: Path, amd: LabTarget) -> None:
    evidence = load(output)
    machine = evidence.machine.lab
    assert evidence.machine.kind == "lab"
    assert (machine.emulator, machine.model) == ("QEMU", "EPYC")
    assert machine.details.cpus == 2
    assert machine.details.kernel_digest == amd.kernel.digest
    assert evidence.kernel.release == amd.kernel.release


def probe(where: LabTarget, source: str, count: int = 40, rate: str = "20") -> dict[str, Any]:
    """Return what kvmtest smi probe says of a source inside, after ``count`` triggers."""
    words = ["smi", "probe", "--source", source, "--count", str(count), "--rate", rate, "--json"]
    outcome = run_inside(where, words)
    (proof,) = json.loads(outcome.printed)["sources"].values()
    assert outcome.status == 0
    assert proof["proved"]
    assert proof["quiet"] == {"0": 0, "1": 0}
    assert isinstance(proof, dict)
    return proof


def test_the_smi_command_port_is_proved_by_a_count_that_is_exact(amd: LabTarget) -> None:
    proof = probe(amd, "apm-port")
    assert (proof["sent"], proof["counted"]) == (40, {"0": 40, "1": 0})


@pytest.fixture(scope="module")
def uefi() -> LabTarget:
    return lab(Q35)


@pytest.mark.parametrize(
    ("source", "smis", "sent", "rate"),
    [
        ("efivar", 2, 40, "20"),
        ("efivarfs-statfs", 1, 12, "2.4"),
        ("efivar-refused", 1, 40, "20"),
        ("efivar-write", 3, 10, "5"),
    ],
)
def test_a_source_of_uefi_raises_as_many_smis_each_time_on_every_cpu(
    uefi: LabTarget, source: str, smis: int, sent: int, rate: str
) -> None:
    proof = probe(uefi, source, sent, rate)
    assert (proof["sent"], proof["counted"]) == (sent, {"0": smis * sent, "1": smis * sent})


def test_the_kernel_limits_one_source_of_uefi_and_nothing_is_left_of_another(
    uefi: LabTarget,
) -> None:
    run_script_inside(uefi, EFIVARFS)


def test_a_source_that_raises_no_smi_is_not_proved(amd: LabTarget) -> None:
    words = ["smi", "probe", "--source", "passive", "--count", "10", "--rate", "20"]
    outcome = run_inside(amd, words)
    assert outcome.status == 4
    assert "no SMI that MSR 0x34 counts" in outcome.printed


def test_smis_are_counted_exactly_while_a_guest_runs(amd: LabTarget) -> None:
    run_script_inside(amd, BESIDE_GUEST)


def test_on_a_kernel_that_had_warned_warnings_get_their_once_back(amd: LabTarget) -> None:
    warned = ["sh", "-c", "echo 512 > /proc/sys/kernel/tainted"]
    outcome = run_inside(amd, ["run", "-v", "--only", "any.no-warnings"], commands=[warned])
    assert outcome.status == 0, outcome.printed
    assert "their once was given back" in " ".join(outcome.printed.split())
