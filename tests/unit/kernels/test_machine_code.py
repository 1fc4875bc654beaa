"""kvmtest/kernels/machine_code.py: functions by name, and what their instructions refer to."""

from pathlib import Path

import pytest
from support.kvm_code import compiled, linked

from kvmtest.kernels.elf import ElfError
from kvmtest.kernels.machine_code import MachineCode, Reference

TEXT = """
extern int other(int);
int table[4] = { 1, 2, 3, 4 };
static int __attribute__((noinline)) near(int a) { return a + table[2]; }
int far(int a) { return near(a) + other(a) + 0x2802; }
"""


def code(folder: Path, *options: str) -> MachineCode:
    return MachineCode(compiled(TEXT, folder, *options))


def test_a_function_is_found_by_its_name_in_the_source(tmp_path: Path) -> None:
    text = TEXT.replace("near(int a)", 'near(int a) asm("near.constprop.0");\nint near(int a)', 1)
    found = MachineCode(compiled(text.replace("static int", "int", 1), tmp_path)).parts("near")
    assert [each.name for each in found] == ["near.constprop.0"]
    assert found[0].source_name == "near"


def test_calls_are_known_with_and_without_relocations(tmp_path: Path) -> None:
    image = code(tmp_path)
    (far,) = image.parts("far")
    assert image.targets(far) >= {"near", "other", "__fentry__"}


def test_calls_in_a_linked_file_are_known(tmp_path: Path) -> None:
    image = MachineCode(linked([compiled(TEXT, tmp_path)], tmp_path))
    (far,) = image.parts("far")
    assert image.targets(far) == {"near", "__fentry__"}


@pytest.mark.parametrize("is_linked", [False, True])
def test_an_operand_in_memory_refers_to_a_variable(tmp_path: Path, is_linked: bool) -> None:
    data = compiled(TEXT, tmp_path)
    image = MachineCode(linked([data], tmp_path) if is_linked else data)
    (near,) = image.parts("near")
    found = {image.reference(near, each) for each in image.instructions(near)}
    assert Reference("table", 8) in found


def test_data_is_the_initial_value(tmp_path: Path) -> None:
    image = code(tmp_path)
    assert image.data("table")[8:12] == bytes([3, 0, 0, 0])
    assert image.data("nothing") == b""


def test_data_that_begins_as_zero_is_zero(tmp_path: Path) -> None:
    assert MachineCode(compiled("int zero[2];", tmp_path)).data("zero") == bytes(8)


def test_functions_are_found_by_their_bytes(tmp_path: Path) -> None:
    image = code(tmp_path)
    assert [each.name for each in image.holding(b"\x02\x28\x00\x00")] == ["far"]


def test_without_symbols_there_are_no_functions(tmp_path: Path) -> None:
    image = MachineCode(compiled("int table[4];", tmp_path))
    assert image.parts("far") == []


@pytest.mark.parametrize("cut", [0, 3, 100, 700])
def test_a_damaged_file_is_an_error_of_elf(tmp_path: Path, cut: int) -> None:
    data = compiled(TEXT, tmp_path)
    with pytest.raises(ElfError):
        MachineCode(data[:cut])
