"""TDCALLs: what the module answers, and what it hands to KVM."""

import pytest
from support.tdx_standin.abi import CpuidEntry
from support.tdx_standin.td import Td, TdVcpu
from support.tdx_standin.tdcall import NAMES, FatalError, Io, Mmio, Resume, completion, tdcall

PASSED = 0xFC00  # r10 to r15
ALL = frozenset(NAMES[10:])
INVALID = 0xC000010000000000
TD = Td(cpus=2, gpaw=48)
VCPU = TdVcpu(1, cpuid=(CpuidEntry(1, 0, 0, 10, 11, 12, 13), CpuidEntry(4, 1, 1, 1, 2, 3, 4)))


def called(**values: int) -> object:
    registers = dict.fromkeys(NAMES, 0) | {"rcx": PASSED} | values
    return tdcall(TD, VCPU, registers)


def test_an_out_exits_with_its_data() -> None:
    wanted = Io(0x510, 2, True, 0x5678, ALL)
    assert called(r11=30, r12=2, r13=1, r14=0x510, r15=0x12345678) == wanted


def test_an_in_exits_and_takes_what_was_read() -> None:
    assert called(r11=30, r12=4, r13=0, r14=0x60) == Io(0x60, 4, False, 0, ALL)
    assert completion(ALL, 0xABC) == {"rax": 0, "r10": 0, "r11": 0xABC}
    assert completion(ALL, None) == {"rax": 0, "r10": 0}


def test_a_register_that_is_not_passed_is_not_seen_and_not_changed() -> None:
    without_r15 = PASSED & ~(1 << 15)
    outcome = called(rcx=without_r15, r11=30, r12=1, r13=1, r14=0x510, r15=0x77)
    assert outcome == Io(0x510, 1, True, 0, ALL - {"r15"})
    assert completion(frozenset({"r10"}), 5) == {"rax": 0, "r10": 0}


@pytest.mark.parametrize("values", [
    {"r11": 30, "r12": 3, "r13": 1}, {"r11": 30, "r12": 1, "r13": 2}, {"r11": 31, "r12": 0x1D9},
    {"r11": 48, "r12": 4, "r13": 1, "r14": 0xFEC00000},
])  # fmt: skip
def test_kvm_says_invalid_operand(values: dict[str, int]) -> None:
    assert called(**values) == Resume({"rax": 0, "r10": 1 << 63}, by_kvm=True)


@pytest.mark.parametrize("leaf", [12, 0x10001, 0x10002, 0xFFFF])
def test_kvm_says_what_it_does_not_know(leaf: int) -> None:
    assert called(r11=leaf) == Resume({"rax": 0, "r10": 3}, by_kvm=True)


@pytest.mark.parametrize("bit", [0, 1, 4, 5, 32])
def test_the_module_refuses_to_pass_some_registers(bit: int) -> None:
    assert called(rcx=PASSED | 1 << bit) == Resume({"rax": INVALID | 1}, by_kvm=False)


def test_the_module_refuses_a_leaf_that_it_has_not() -> None:
    assert called(rax=99) == Resume({"rax": INVALID}, by_kvm=False)


def test_the_module_tells_of_the_td() -> None:
    outcome = called(rax=1)
    assert isinstance(outcome, Resume)
    assert not outcome.by_kvm
    assert (outcome.changes["rcx"], outcome.changes["r9"]) == (48, 1)


def test_memory_that_is_shared_exits() -> None:
    outcome = called(r11=48, r12=4, r13=1, r14=1 << 47 | 0xFEC00000, r15=9)
    assert outcome == Mmio(0xFEC00000, 4, True, 9, ALL)


def test_cpuid_comes_from_kvm() -> None:
    outcome = called(r11=10, r12=4, r13=1)
    assert isinstance(outcome, Resume)
    assert [outcome.changes[name] for name in ("r12", "r13", "r14", "r15")] == [1, 2, 3, 4]
    assert called(r11=10, r12=5) == Resume(
        {"rax": 0, "r10": 0, "r12": 0, "r13": 0, "r14": 0, "r15": 0}, by_kvm=True
    )


def test_a_fatal_error_shows_what_was_passed() -> None:
    outcome = called(r11=0x10003, r12=42, rbx=7)
    assert isinstance(outcome, FatalError)
    assert (outcome.registers["r12"], outcome.registers["rbx"]) == (42, 0)


def test_kvms_own_hypercalls_are_unknown() -> None:
    assert called(r10=1) == Resume({"rax": 0, "r10": -1000 & (1 << 64) - 1}, by_kvm=True)
