"""Whether KVM gives guests the CPU's own counters is told by its module's parameter."""

import json
from pathlib import Path

import pytest
from support.stand_in import intel_host, write

from kvmtest.cli import main
from kvmtest.host.as_json import host_facts
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.facts.mediated_pmu import mediated_pmu
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing

PARAMETER = "/sys/module/kvm_intel/parameters/enable_mediated_pmu"
AMD = KvmModule("kvm_amd", False, {"enable_mediated_pmu": "Y"}, {"enable_pmu": "Y"}, 0)
HIDDEN = KvmModule("kvm_intel", False, {"enable_mediated_pmu": None}, {}, 0)


@pytest.mark.parametrize(("text", "is_on"), [("Y", True), ("N", False)])
def test_it_is_a_fact_of_the_host(tmp_path: Path, text: str, is_on: bool) -> None:
    tree = intel_host(tmp_path)
    write(tree, PARAMETER, f"{text}\n")
    assert host_facts(Machine(tree)).mediated_pmu is is_on


@pytest.mark.parametrize(("text", "said"), [("Y", "on: guests get the CPU's own"), ("N", "off")])
def test_doctor_tells_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    tree = intel_host(tmp_path)
    write(tree, PARAMETER, f"{text}\n")
    assert main(["doctor", "--seconds", "0", "--root", str(tmp_path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "mediated PMU" in line]
    assert row.split("mediated PMU")[1].strip().startswith(said)
    assert main(["doctor", "--seconds", "0", "--json", "--root", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["host"]["mediated_pmu"] is (text == "Y")


def test_it_is_of_the_vendor_module_whichever_that_is() -> None:
    assert mediated_pmu(AMD) is True


def test_a_kernel_before_it_says_since_when_there_is_one(tmp_path: Path) -> None:
    said = Machine(intel_host(tmp_path)).mediated_pmu
    assert isinstance(said, Missing)
    assert said.what == "kvm_intel has no parameter enable_mediated_pmu"
    assert "7.0" in said.remedy


def test_a_parameter_that_can_not_be_read_is_not_taken_for_an_old_kernel() -> None:
    assert mediated_pmu(HIDDEN) == Missing(
        "parameter enable_mediated_pmu of kvm_intel can't be read", "run as root"
    )


def test_without_kvm_the_reason_is_that(tmp_path: Path) -> None:
    none = Missing("KVM is not loaded", "modprobe kvm_intel")
    assert mediated_pmu(none) is none


def test_a_reloaded_module_is_asked_anew(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    write(tree, PARAMETER, "N\n")
    machine = Machine(tree)
    assert machine.mediated_pmu is False
    write(tree, PARAMETER, "Y\n")
    machine.forget_kvm()
    assert machine.mediated_pmu is True
