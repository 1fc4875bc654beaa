"""Delivery of an exception to 64-bit code at CPL 0, by hand (SDM volume 3, 7.12 and 7.14).

The plain VM's KVM can't be asked for a #VE: AMD's CPUs know none.
"""

import struct
from collections.abc import Callable, Mapping

from .entry_state import SystemRegisters

VIRTUALIZATION = 20
_GATE = struct.Struct("<HHBBHII")
_PRESENT, _LARGE = 1 << 0, 1 << 7
_ADDRESS = (1 << 52) - (1 << 12)
#: TF, IF, NT and RF.
_CLEARED = 1 << 8 | 1 << 9 | 1 << 14 | 1 << 16

#: Read or write memory by guest-physical address; raise LookupError where there is none.
Read = Callable[[int, int], bytes]
Write = Callable[[int, bytes], None]


class Undeliverable(Exception):
    """The exception ends in a triple fault."""


def deliver(
    vector: int, registers: Mapping[str, int], system: SystemRegisters, read: Read, write: Write
) -> dict[str, int]:
    """Push a frame without error code, and return the registers at the handler's beginning."""
    try:
        gate = _read(system, read, system.idt_base + 16 * vector, 16)
        low, selector, ist, kind, middle, high, _ = _GATE.unpack(gate)
        if not kind & 0x80 or 16 * vector + 15 > system.idt_limit:
            raise Undeliverable(f"no gate for vector {vector}")
        rsp = registers["rsp"]
        if ist & 7:
            at = system.tr_base + 0x24 + 8 * ((ist & 7) - 1)
            rsp = int.from_bytes(_read(system, read, at, 8), "little")
        frame = struct.pack("<5Q", registers["rip"], selector, registers["rflags"],
                            registers["rsp"], system.ss_selector)  # fmt: skip
        rsp = (rsp & ~15) - len(frame)
        write(translate(system, read, rsp), frame)
    except LookupError as error:
        raise Undeliverable(f"vector {vector}: {error}") from error
    rip = low | middle << 16 | high << 32
    return {"rip": rip, "rsp": rsp, "rflags": registers["rflags"] & ~_CLEARED}


def translate(system: SystemRegisters, read: Read, linear: int) -> int:
    """Walk four levels of page tables. Raises LookupError where nothing is mapped."""
    table = system.cr3
    for shift in (39, 30, 21, 12):
        at = (table & _ADDRESS) + 8 * (linear >> shift & 0x1FF)
        table = int.from_bytes(read(at, 8), "little")
        if not table & _PRESENT:
            raise LookupError(f"{linear:#x} is not mapped")
        if shift == 12 or (table & _LARGE and shift < 39):
            inside = (1 << shift) - 1
            return (table & _ADDRESS & ~inside) | (linear & inside)
    raise AssertionError("unreachable")


def _read(system: SystemRegisters, read: Read, linear: int, size: int) -> bytes:
    # None of what is read here crosses a page.
    return read(translate(system, read, linear), size)
