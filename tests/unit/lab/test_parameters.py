"""kvmtest/lab/parameters.py: KVM's modules are loaded anew, and have what was asked for."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kvmtest.errors import UsageError
from kvmtest.lab.parameters import Parameter, Parameters

MEDIATED = Parameter("kvm_intel", "enable_mediated_pmu", "1")
NO_PMU = Parameter("kvm", "enable_pmu", "0")


def with_these(*wanted: Parameter) -> Parameters:
    return Parameters("kvm_intel", wanted)


@pytest.mark.parametrize("parameter", [MEDIATED, NO_PMU, Parameter("kvm", "pi_inject_timer", "-1")])
def test_a_parameter_is_written_as_the_kernel_does(parameter: Parameter) -> None:
    assert Parameters.parse([str(parameter)], "kvm_intel").wanted == (parameter,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enable_mediated_pmu=1", "write it as kvm_intel.NAME=VALUE"),
        ("kvm_intel.enable_mediated_pmu", "write it as kvm_intel.NAME=VALUE"),
        ("kvm_intel.ept=$(reboot)", "write it as kvm_intel.NAME=VALUE"),
        ("kvm_intel.ept=1 nested=0", "write it as kvm_intel.NAME=VALUE"),
        ("kvm_amd.npt=1", "this machine's modules are kvm and kvm_intel"),
        ("snd.index=1", "this machine's modules are kvm and kvm_intel"),
    ],
)
def test_what_is_no_parameter_of_this_machine_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=r"--kvm-parameter .*: ") as refused:
        Parameters.parse([text], "kvm_intel")
    assert words in str(refused.value)


def test_the_vendors_module_alone_is_loaded_anew_where_that_will_do() -> None:
    unload, load, check = with_these(MEDIATED).commands
    assert unload == ["rmmod", "kvm_intel"]
    assert load == ["modprobe", "kvm_intel", "nested=1", "enable_mediated_pmu=1"]
    assert check == MEDIATED.check


def test_parameters_of_kvm_have_both_loaded_anew() -> None:
    assert with_these(MEDIATED, NO_PMU).commands[:-2] == [
        ["rmmod", "kvm_intel"],
        ["rmmod", "kvm"],
        ["modprobe", "kvm", "enable_pmu=0"],
        ["modprobe", "kvm_intel", "nested=1", "enable_mediated_pmu=1"],
    ]


def test_without_parameters_nothing_is_done() -> None:
    nothing = with_these()
    assert (nothing.commands, nothing.files, str(nothing)) == ([], {}, "")


@pytest.mark.parametrize(
    ("value", "shown", "is_so"),
    [
        ("1", "Y", True),
        ("1", "1", True),
        ("Y", "Y", True),
        ("0", "N", True),
        ("n", "N", True),
        ("16", "16", True),
        ("1", "N", False),
        ("0", "Y", False),
        ("16", "1", False),
        ("1", None, False),
    ],
)
def test_a_parameter_that_does_not_take_effect_is_told(
    tmp_path: Path, value: str, shown: str | None, is_so: bool
) -> None:
    """In the machine the shell is busybox's; this one is POSIX's, too."""
    parameter = replace(MEDIATED, value=value)
    folder = tmp_path / "sys/module/kvm_intel/parameters"
    folder.mkdir(parents=True)
    if shown is not None:
        (folder / "enable_mediated_pmu").write_text(f"{shown}\n")
    for name, data in with_these(parameter).files.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        parameter.check, cwd=tmp_path, env={**os.environ, "SYSFS": f"{tmp_path}/sys"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) is is_so
    said = f"{parameter.module}.{parameter.name} is {shown or 'unknown'}: this kernel, or this"
    assert done.stderr == ("" if is_so else f"{said} machine, does not take that value\n")
