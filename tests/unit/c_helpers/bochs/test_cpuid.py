"""c_helpers/bochs/cpuid.cc: a feature is shown where it was asked for, and nothing else changes."""

import subprocess
from pathlib import Path

import pytest
from support.bochs_part import needs_compiler, program

from kvmtest.lab.emulators.bochs.built import SHOWN

pytestmark = needs_compiler

# Prints the registers of a leaf and a subleaf that had 0x100 in each.
DRIVER = """
#include "emulator.h"
#include "instrument.h"

int main(int, char **argv)
{
	cpuid_function_t registers = { 0x100, 0x100, 0x100, 0x100 };

	BX_INSTR_CPUID(strtoul(argv[1], NULL, 0), strtoul(argv[2], NULL, 0), &registers);
	printf("%x %x %x %x", registers.eax, registers.ebx, registers.ecx, registers.edx);
	return 0;
}
"""
UNCHANGED = "100 100 100 100"
WITH_RTM = "100 900 100 100"  # leaf 7, EBX bit 11


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("cpuid") / "program", DRIVER, "cpuid.cc")


def cpuid(emulator: Path, leaf: int, subleaf: int, **environment: str) -> str:
    words = [emulator, str(leaf), str(subleaf)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("features", ["rtm", "rtm,amx", "amx,rtm", "rt,rtmx,rtm,x"])
def test_a_feature_is_shown_in_its_register(emulator: Path, features: str) -> None:
    assert cpuid(emulator, 7, 0, KVMTEST_CPU_FEATURES=features) == WITH_RTM


@pytest.mark.parametrize("features", ["", "rt", "rtmx", "xrtm", "rtm x", "amx,avx", "RTM"])
def test_other_names_show_nothing(emulator: Path, features: str) -> None:
    assert cpuid(emulator, 7, 0, KVMTEST_CPU_FEATURES=features) == UNCHANGED


@pytest.mark.parametrize(("leaf", "subleaf"), [(7, 1), (6, 0), (0x80000007, 0)])
def test_other_leaves_are_unchanged(emulator: Path, leaf: int, subleaf: int) -> None:
    assert cpuid(emulator, leaf, subleaf, KVMTEST_CPU_FEATURES="rtm") == UNCHANGED


def test_unasked_nothing_is_shown(emulator: Path) -> None:
    assert cpuid(emulator, 7, 0) == UNCHANGED


def test_each_feature_that_the_command_takes_is_known(emulator: Path) -> None:
    for feature in SHOWN:
        leaves = {cpuid(emulator, leaf, 0, KVMTEST_CPU_FEATURES=feature) for leaf in (1, 7)}
        assert leaves > {UNCHANGED}
