"""The bytes of the reproducers' guests are what their assembly says."""

import subprocess
from pathlib import Path

import pytest

from kvmtest.checks.stimuli.emulation import OUT_AND_AGAIN
from kvmtest.reproducers.guest_code import GUEST_CODE


@pytest.mark.parametrize("name", GUEST_CODE)
def test_an_assembler_makes_the_same_of_it(name: str, tmp_path: Path) -> None:
    text = "\n".join(assembly for assembly, _ in GUEST_CODE[name].instructions) + "\n"
    made, flat = tmp_path / "code.o", tmp_path / "code"
    subprocess.run(["as", "--64", "-o", made], input=text, text=True, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", made, flat], check=True)
    assert flat.read_bytes() == GUEST_CODE[name].code


def test_the_emulated_code_is_that_of_the_checks() -> None:
    assert GUEST_CODE["out_and_again"].code == OUT_AND_AGAIN


def test_an_instruction_is_found_by_its_assembly() -> None:
    code = GUEST_CODE["read_dr6"]
    assert code.offset("mov %db6, %rax") == 1
    assert code.code[1:].startswith(b"\x0f\x21")
