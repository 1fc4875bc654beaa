"""Processor modes
===============

Puts a vCPU into real mode, or into 64-bit mode with paging, descriptor tables and an IDT made of
the image's exception stubs. guests/layout.h says where in memory each table is. A TD's registers
can't be set: it finds the same tables in its memory, and goes into 64-bit mode by itself.
"""

import struct
from functools import cache
from typing import Any

from kvmtest._native import lib
from kvmtest.kvm import Memory, Vcpu

from .image import Image

__all__ = ["enter_long_mode", "enter_real_mode", "write_long_mode"]

# Bit 1, which is always set, and IF: a guest that spins can always be interrupted.
RFLAGS = 0x202
# Control register bits, Intel SDM volume 3, 2.5.
CR0_PE, CR0_MP, CR0_ET, CR0_NE, CR0_PG = 1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
# Those of 64-bit mode.
CR0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG
EFER = EFER_LME | EFER_LMA
PAGE_PRESENT, PAGE_WRITABLE, PAGE_LARGE = 1 << 0, 1 << 1, 1 << 7
GATE_INTERRUPT = 0x8E
TSS_BUSY = 11
STUBS = 32
LONG_STUB_SIZE, REAL_STUB_SIZE = 16, 8


def enter_long_mode(vcpu: Vcpu, memory: Memory, image: Image) -> None:
    """Load the image, and have the vCPU start it in 64-bit mode, the first GiB identity-mapped."""
    write_long_mode(memory, image)
    sregs = vcpu.get_sregs()
    sregs.cr0 = CR0
    sregs.cr3 = lib.GUEST_PML4
    sregs.cr4 = CR4_PAE
    sregs.efer = EFER
    _segment(sregs.cs, lib.GUEST_CODE_SELECTOR, 11)
    sregs.cs.l = 1
    for data in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _segment(data, lib.GUEST_DATA_SELECTOR, 3)
        data.db = 1
    _task_state(sregs.tr, image)
    sregs.ldt.unusable = 1
    sregs.gdt.base = image.symbols["gdt"]
    sregs.gdt.limit = image.symbols["gdt_end"] - image.symbols["gdt"] - 1
    sregs.idt.base = lib.GUEST_IDT
    sregs.idt.limit = 256 * 16 - 1
    vcpu.set_sregs(sregs)
    _start(vcpu, image)


def write_long_mode(memory: Memory, image: Image) -> None:
    """Write the image, page tables and an IDT, all that 64-bit mode needs in memory."""
    memory.write(image.address, image.data)
    _write_page_tables(memory)
    _write_idt(memory, image)


def enter_real_mode(vcpu: Vcpu, memory: Memory, image: Image) -> None:
    """Load the image, and have the vCPU start it in real mode, all segments at 0."""
    memory.write(image.address, image.data)
    vectors = _vector_table(image.symbols["exception_stubs"], image.symbols["interrupt"])
    memory.write(lib.GUEST_IVT, vectors)
    sregs = vcpu.get_sregs()
    for segment in (sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        segment.base = segment.selector = 0
    vcpu.set_sregs(sregs)
    _start(vcpu, image)


@cache
def _vector_table(stubs: int, interrupt: int) -> bytes:
    """Return real mode's vectors, each an offset in segment 0; constant for an image."""
    targets = [stubs + vector * REAL_STUB_SIZE for vector in range(STUBS)]
    return struct.pack("<256I", *targets, *[interrupt] * (256 - STUBS))


def _start(vcpu: Vcpu, image: Image) -> None:
    regs = vcpu.get_regs()
    regs.rip = image.symbols["start"]
    regs.rsp = lib.GUEST_STACK
    regs.rflags = RFLAGS
    vcpu.set_regs(regs)


def _segment(segment: Any, selector: int, kind: int) -> None:
    segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, selector
    segment.type, segment.present, segment.dpl, segment.s, segment.g = kind, 1, 0, 1, 1
    segment.db = segment.l = segment.unusable = 0


def _task_state(tr: Any, image: Image) -> None:
    tr.base = image.symbols["tss"]
    tr.limit = image.symbols["tss_end"] - image.symbols["tss"] - 1
    tr.selector, tr.type, tr.present = lib.GUEST_TSS_SELECTOR, TSS_BUSY, 1
    tr.s = tr.dpl = tr.db = tr.l = tr.g = tr.unusable = 0


def _write_page_tables(memory: Memory) -> None:
    table = PAGE_PRESENT | PAGE_WRITABLE
    memory.write(lib.GUEST_PML4, struct.pack("<Q", lib.GUEST_PDPT | table))
    memory.write(lib.GUEST_PDPT, struct.pack("<Q", lib.GUEST_PAGE_DIRECTORY | table))
    memory.write(lib.GUEST_PAGE_DIRECTORY, _page_directory())


@cache
def _page_directory() -> bytes:
    """Return the entries that map the first GiB to itself in 2 MiB pages."""
    flags = PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE
    return struct.pack("<512Q", *(at << 21 | flags for at in range(512)))


def _write_idt(memory: Memory, image: Image) -> None:
    idt = _interrupt_table(image.symbols["exception_stubs"], image.symbols["interrupt"])
    memory.write(lib.GUEST_IDT, idt)


@cache
def _interrupt_table(stubs: int, interrupt: int) -> bytes:
    """Return 64-bit mode's gates; constant for an image."""
    idt = bytearray()
    for vector in range(256):
        target = stubs + vector * LONG_STUB_SIZE if vector < STUBS else interrupt
        # Exceptions run on IST 1, a stack of their own.
        stack = 1 if vector < STUBS else 0
        low = struct.pack("<HHBBH", target & 0xFFFF, lib.GUEST_CODE_SELECTOR, stack,
                          GATE_INTERRUPT, target >> 16 & 0xFFFF)  # fmt: skip
        idt += low + struct.pack("<II", target >> 32, 0)
    return bytes(idt)
