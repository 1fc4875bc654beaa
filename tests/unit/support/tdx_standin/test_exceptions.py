"""Delivery of #VE to a TD, over page tables, an IDT and a TSS in its memory."""

import struct

import pytest
from support.tdx_standin.entry_state import SystemRegisters, registers, system_registers
from support.tdx_standin.exceptions import VIRTUALIZATION, Undeliverable, deliver, translate

PML4, PDPT, DIRECTORY, TABLE, IDT, TSS, STACK = (at << 12 for at in range(1, 8))
HANDLER = 0x1234_5678_9ABC
SYSTEM = SystemRegisters(True, 0, 0x10, TSS, IDT, 0xFFF, PML4)
REGISTERS = {"rip": 0x8000, "rsp": 0x9008, "rflags": 0x10246}


class Memory(dict[int, bytes]):
    """Pages by address; what is not there raises KeyError, a LookupError."""

    def get_bytes(self, gpa: int, size: int) -> bytes:
        return self[gpa & ~0xFFF][gpa & 0xFFF :][:size]

    def put(self, gpa: int, data: bytes) -> None:
        at, page = gpa & 0xFFF, bytearray(self.get(gpa & ~0xFFF, bytes(4096)))
        page[at : at + len(data)] = data
        self[gpa & ~0xFFF] = bytes(page)


@pytest.fixture
def memory() -> Memory:
    memory = Memory()
    for table, entry in ((PML4, PDPT), (PDPT, DIRECTORY), (DIRECTORY, TABLE)):
        memory.put(table, struct.pack("<Q", entry | 3))
    memory.put(TABLE, struct.pack("<512Q", *(page << 12 | 3 for page in range(512))))
    low, middle, high = HANDLER & 0xFFFF, HANDLER >> 16 & 0xFFFF, HANDLER >> 32
    gate = struct.pack("<HHBBHII", low, 0x08, 1, 0x8E, middle, high, 0)
    memory.put(IDT + 16 * VIRTUALIZATION, gate)
    memory.put(TSS + 0x24, struct.pack("<Q", STACK + 0x800))
    memory.put(STACK, bytes(4096))
    return memory


def delivered(memory: Memory, vector: int = VIRTUALIZATION) -> dict[str, int]:
    return deliver(vector, REGISTERS, SYSTEM, memory.get_bytes, memory.put)


def test_the_handler_gets_a_frame_on_its_own_stack(memory: Memory) -> None:
    after = delivered(memory)
    assert after == {"rip": HANDLER, "rsp": STACK + 0x800 - 40, "rflags": 0x46}
    frame = struct.unpack("<5Q", memory.get_bytes(after["rsp"], 40))
    assert frame == (0x8000, 0x08, 0x10246, 0x9008, 0x10)


def test_without_a_stack_of_its_own_it_gets_an_aligned_one(memory: Memory) -> None:
    memory.put(IDT + 16 * VIRTUALIZATION + 4, b"\0")
    assert delivered(memory)["rsp"] == 0x9000 - 40


@pytest.mark.parametrize("vector", [13, 0xFF])
def test_no_gate_is_a_triple_fault(memory: Memory, vector: int) -> None:
    with pytest.raises(Undeliverable):
        delivered(memory, vector)


def test_a_stack_without_memory_is_a_triple_fault(memory: Memory) -> None:
    memory.put(TABLE, bytes(8) * 512)
    with pytest.raises(Undeliverable):
        delivered(memory)


def test_large_pages_are_walked(memory: Memory) -> None:
    memory.put(DIRECTORY + 8, struct.pack("<Q", 0x40000000 | 0x83))
    assert translate(SYSTEM, memory.get_bytes, 0x212345) == 0x40012345
    memory.put(PDPT + 8, struct.pack("<Q", 0x80000000 | 0x83))
    assert translate(SYSTEM, memory.get_bytes, 0x40212345) == 0x80212345


def test_a_tds_first_state_is_32_bit_code_at_cpl_0() -> None:
    system = SystemRegisters.unpack(system_registers(0xFEE00800))
    assert system == SystemRegisters(False, 0, 0, 0, 0, 0, 0)
    values = struct.unpack("<18Q", registers(48, 1, 0x77, 0x806F8))
    rbx, rcx, rdx, rsi, r8, rip = (values[at] for at in (1, 2, 3, 4, 8, 16))
    assert (rbx, rcx, rdx, rsi, r8, rip) == (48, 0x77, 0x806F8, 1, 0x77, 0xFFFFFFF0)
