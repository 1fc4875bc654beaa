"""kvmtest/kernels/data_flow.py: which bits of a value reach which place."""

from pathlib import Path

import pytest
from support.kvm_code import compiled

from kvmtest.kernels.data_flow import Event, Kind, Place, Sources, Value, follow
from kvmtest.kernels.machine_code import MachineCode

HOST = Sources({Place(528): "host", Place(8, "owner"): "owned"}, ("", "flags"), (0x2802, "field"))
ALL = (1 << 64) - 1


def of_kind(kind: Kind, folder: Path, assembly: str, sources: Sources = HOST) -> list[Event]:
    """Return what a function of these lines (AT&T syntax) does, of one kind."""
    lines = "".join(f'"{line.strip()}\\n"' for line in assembly.strip().splitlines())
    text = f'asm(".globl f\\n.type f, @function\\nf:\\n" {lines} "ret\\n.size f, . - f\\n");'
    code = MachineCode(compiled(text, folder))
    (function,) = code.parts("f")
    return [event for event in follow(code, function, sources) if event.kind is kind]


def written(folder: Path, assembly: str) -> Value:
    """Return what is written to the VMCS field at last."""
    lines = assembly + "\nmov $0x2802, %r11d\nvmwrite %rax, %r11"
    return of_kind(Kind.VMWRITE, folder, lines)[-1].value


@pytest.mark.parametrize(
    ("assembly", "bits"),
    [
        ("mov 528(%rdi), %rax", ALL),
        ("mov 528(%rdi), %eax", 0xFFFFFFFF),
        ("mov 528(%rdi), %rax\nand $0x4000, %eax", 0x4000),
        ("mov 528(%rdi), %rax\nand $0xbf, %ah", ALL & ~0x4000),
        ("mov 528(%rdi), %rax\nbtr $14, %rax", ALL & ~0x4000),
        ("mov 528(%rdi), %rax\nand $-0x4001, %rax", ALL & ~0x4000),
        ("movzbl 529(%rdi), %eax\nand $0x40, %eax", 0x40),
        ("mov 528(%rdi), %rax\nshr $14, %rax\nand $1, %eax", 1),
        ("mov 528(%rdi), %rax\nshr $14, %rax\nshl $14, %rax", ALL & ~0x3FFF),
        ("mov 528(%rdi), %rax\nand $0x4000, %eax\nrol $50, %rax", ALL),
        ("mov 528(%rdi), %rax\nmov %rax, 8(%rsp)\nxor %eax, %eax\nmov 8(%rsp), %rax", ALL),
        ("mov 528(%rdi), %rax\nxor %eax, %eax", 0),
        ("mov 528(%rdi), %rax\ncall other", 0),
        ("mov 528(%rdi), %rbx\ncall other\nmov %rbx, %rax", ALL),
        ("xor %eax, %eax\ntest %ecx, %ecx\njz 1f\nmov 528(%rdi), %rax\n1:", ALL),
        ("mov 528(%rdi), %rcx\nxor %eax, %eax\ncmovz %rcx, %rax", ALL),
        ("mov 528(%rdi), %rcx\nand $0x4000, %ecx\nmov 528(%rdi), %rax\nand $1, %eax\n"
         "or %rcx, %rax", 0x4001),
    ],
)  # fmt: skip
def test_bits_of_the_host_s_value_that_reach_a_vmwrite(
    tmp_path: Path, assembly: str, bits: int
) -> None:
    assert written(tmp_path, assembly).of("host") == bits


def test_a_write_of_another_field_is_none(tmp_path: Path) -> None:
    lines = "mov $0x2804, %eax\nmov 528(%rdi), %rcx\nvmwrite %rcx, %rax"
    assert of_kind(Kind.VMWRITE, tmp_path, lines) == []


@pytest.mark.parametrize(
    ("assembly", "source", "bits"),
    [
        ("test $4, %sil", "flags", 4),
        ("and $4, %esi", "flags", 4),
        ("bt $2, %rsi", "flags", 4),
        ("testb $0x40, 529(%rdi)", "host", 0x4000),
        ("testl $0x4000, 528(%rdi)", "host", 0x4000),
        ("mov 528(%rdi), %rdx\nand $0x40, %dh", "host", 0x4000),
    ],
)
def test_bits_that_are_tested(tmp_path: Path, assembly: str, source: str, bits: int) -> None:
    found = of_kind(Kind.TEST, tmp_path, assembly)
    assert [event.value.of(source) for event in found] == [bits]


def test_a_locked_instruction_does_what_it_does_unlocked(tmp_path: Path) -> None:
    found = of_kind(Kind.SET, tmp_path, "lock btsl $2, 8(%rdi)\nlock btrl $3, 8(%rdi)")
    assert [event.constant for event in found] == [4]


def test_a_comparison_names_both_sides(tmp_path: Path) -> None:
    lines = "mov $0x2802, %eax\nvmread %rax, %rcx\nmov 528(%rdi), %rdx\nxor %rcx, %rdx"
    (compared,) = of_kind(Kind.COMPARE, tmp_path, lines)
    assert (compared.value.of("host"), compared.other.of("field")) == (ALL, ALL)


def test_a_store_names_its_place(tmp_path: Path) -> None:
    lines = "mov 528(%rdi), %rax\nmov %rax, 16(%rdi)\nmov %rax, owner+8(%rip)"
    found = of_kind(Kind.STORE, tmp_path, lines)
    assert [event.place for event in found] == [Place(16), Place(8, "owner")]


def test_a_mask_in_memory_is_known_by_its_symbol(tmp_path: Path) -> None:
    (mask,) = of_kind(Kind.MASK, tmp_path, "mov 528(%rdi), %rax\nand owner+8(%rip), %rax")
    assert (mask.value.of("host"), mask.other.of("owned")) == (ALL, ALL)


@pytest.mark.parametrize("read", ["mov $0x1d9, %ecx\nrdmsr", "mov $0x1d9, %edi\ncall read_msr"])
def test_an_msr_is_read_by_the_instruction_or_a_function(tmp_path: Path, read: str) -> None:
    sources = Sources({Place(528): "host"}, msr=(0x1D9, "msr"))
    lines = f"mov %rdi, %rbx\n{read}\ncmp 528(%rbx), %rax"
    (compared,) = of_kind(Kind.COMPARE, tmp_path, lines, sources)
    assert compared.value.of("msr")


def test_what_follows_an_indirect_jump_is_looked_at(tmp_path: Path) -> None:
    found = of_kind(Kind.TEST, tmp_path, "jmp *%rax\nmov 528(%rdi), %rax\ntest $0x4000, %eax")
    assert [event.value.of("host") for event in found] == [0x4000]


def test_a_loop_ends(tmp_path: Path) -> None:
    lines = "mov 528(%rdi), %rax\n1: shl $1, %rax\nmov %rax, %rcx\ndec %esi\njnz 1b"
    assert written(tmp_path, lines).of("host") == ALL & ~1
