"""A TD vCPU's registers at its first entry, as KVM_SET_REGS and KVM_SET_SREGS take them.

Intel TDX Module Base Architecture Specification, "Initial State of TD VCPU": 32-bit protected mode
without paging, at 4 GiB - 16, EFER.LME set already.
"""

import struct
from typing import NamedTuple, Self

RESET_VECTOR = 0xFFFFFFF0
_RFLAGS = 0x2
_CR0_PE_NE, _CR4_MCE = 0x21, 0x40
_EFER_LME_NXE = 1 << 8 | 1 << 11
_CODE, _DATA, _TSS_BUSY, _LDT = 11, 3, 11, 2
_FLAT = 0xFFFFFFFF

#: struct kvm_regs.
REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11",
             "r12", "r13", "r14", "r15", "rip", "rflags")  # fmt: skip
REGS = struct.Struct("<18Q")
# struct kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable.
_SEGMENT = struct.Struct("<QIH9Bx")
_DPL, _L = 5, 8
# struct kvm_dtable: base, limit.
_TABLE = struct.Struct("<QH6x")
# CR0, CR2, CR3, CR4, CR8, EFER, APIC base.
_CONTROL = struct.Struct("<7Q")
# CS to GS, SS, TR, LDT; GDT, IDT; control registers; interrupt_bitmap.
_SS, _TR, _SEGMENTS = 5, 6, 8
_IDT_AT = _SEGMENTS * _SEGMENT.size + _TABLE.size
_CONTROL_AT = _IDT_AT + _TABLE.size
SREGS_SIZE = _CONTROL_AT + _CONTROL.size + 32
_EFER_LMA = 1 << 10


def registers(gpaw: int, number: int, rcx: int, signature: int) -> bytes:
    """Return the general registers; ``signature`` is CPUID leaf 1's EAX."""
    values = dict.fromkeys(REGISTERS, 0)
    values |= {"rbx": gpaw, "rcx": rcx, "r8": rcx, "rdx": signature, "rsi": number}
    values |= {"rip": RESET_VECTOR, "rflags": _RFLAGS}
    return REGS.pack(*values.values())


def system_registers(apic_base: int) -> bytes:
    """Return the segments, control registers and tables."""
    code = _SEGMENT.pack(0, _FLAT, 0, _CODE, 1, 0, 1, 1, 0, 1, 0, 0)
    data = _SEGMENT.pack(0, _FLAT, 0, _DATA, 1, 0, 1, 1, 0, 1, 0, 0)
    task = _SEGMENT.pack(0, 0xFFFF, 0, _TSS_BUSY, 1, 0, 0, 0, 0, 0, 0, 0)
    ldt = _SEGMENT.pack(0, 0xFFFF, 0, _LDT, 1, 0, 0, 0, 0, 0, 0, 1)
    tables = _TABLE.pack(0, 0) * 2
    control = _CONTROL.pack(_CR0_PE_NE, 0, 0, _CR4_MCE, 0, _EFER_LME_NXE, apic_base)
    return code + data * 5 + task + ldt + tables + control + bytes(32)


class SystemRegisters(NamedTuple):
    """What the stand-in needs of struct kvm_sregs."""

    is_64_bit: bool
    cpl: int
    ss_selector: int
    tr_base: int
    idt_base: int
    idt_limit: int
    cr3: int

    @classmethod
    def unpack(cls, sregs: bytes) -> Self:
        code = _SEGMENT.unpack_from(sregs)
        stack = _SEGMENT.unpack_from(sregs, _SS * _SEGMENT.size)
        task = _SEGMENT.unpack_from(sregs, _TR * _SEGMENT.size)
        _, _, cr3, _, _, efer, _ = _CONTROL.unpack_from(sregs, _CONTROL_AT)
        base, limit = _TABLE.unpack_from(sregs, _IDT_AT)
        is_64_bit = bool(efer & _EFER_LMA and code[_L])
        return cls(is_64_bit, stack[_DPL], stack[2], task[0], base, limit, cr3)
