"""Flat kernels
============

A bzImage made flat: the same kernel with nothing left to decompress, which takes an emulated
machine a minute. A small stub (guests/flat_kernel.S) puts it in place.
"""

import struct
from dataclasses import dataclass

from kvmtest.guests.image import IMAGES
from kvmtest.kernels.bzimage import (
    PARAGRAPH,
    SETUP_HEADER,
    BzImageError,
    header_field,
    setup_size,
    vmlinux,
)
from kvmtest.kernels.elf import ElfError, reading

from .stub import Stub

__all__ = ["STUB", "CannotFlatten", "flatten"]

#: The code ahead of a flat kernel.
STUB = IMAGES / "flat_kernel.elf"

_FLAT_PROTOCOL = 0x20D
"""The last one without kernel_info_offset (0x20e was withdrawn)."""

_MAPPED = 1 << 32
"""What the stub of a flat kernel identity-maps."""
_KERNEL_ALIGNMENT = 2 << 20
"""startup_64 refuses to run at other addresses (arch/x86/kernel/head_64.S)."""
_MOST_GAPS = 16 << 20
"""Between a kernel's segments, in bytes: stock kernels have 1 MiB, but a damaged file may have
them anywhere below 4 GiB, and what is between them is written as zeroes."""


class CannotFlatten(BzImageError):
    """This kernel must be booted as it is."""


@dataclass(frozen=True, slots=True)
class _Segment:
    address: int
    """Physical."""
    data: bytes
    size: int


def flatten(image: bytes) -> bytes:
    """Return a bzImage of the same vmlinux, which a small stub puts in place without decompressing.

    Boots from BIOS only, and without KASLR whatever the command line says. Raises CannotFlatten
    where this kernel can't be booted so, BzImageError where it is damaged, and EnvironmentUnfit
    where a library to decompress it is missing.
    """
    entry, segments = _segments(vmlinux(image))
    start = min(segment.address for segment in segments)
    end = max(segment.address + segment.size for segment in segments)
    stub = Stub.read(STUB, "the stub of flat kernels", "image_end", "parameters")
    _check_fit(image, stub, start, end, entry)
    span = max(segment.address + len(segment.data) for segment in segments) - start
    if span - sum(len(segment.data) for segment in segments) > _MOST_GAPS:
        raise CannotFlatten("this kernel can't be made flat: its segments lie far apart")
    memory = bytearray(span)
    for segment in segments:
        at = segment.address - start
        memory[at : at + len(segment.data)] = segment.data
    kernel = bytes(memory).rstrip(b"\0")
    kernel += bytes(-len(kernel) % PARAGRAPH)
    zeroes = max(0, end - start - len(kernel) + 3) // 4
    code = bytearray(stub.data)
    struct.pack_into(
        "<4I", code, stub.symbols["parameters"] - stub.base, start, len(kernel) // 4, zeroes, entry
    )
    setup = bytearray(image[: setup_size(image)])
    changes = {
        "syssize": (len(code) + len(kernel)) // PARAGRAPH,
        "version": min(header_field(image, "version"), _FLAT_PROTOCOL),
        "code32_start": stub.base,
        "relocatable_kernel": 0,
        # No entry in 64-bit mode, none from EFI, none above 4 GiB.
        "xloadflags": 0,
        "handover_offset": 0,
        "payload_offset": 0,
        "payload_length": 0,
        "pref_address": stub.base,
        "init_size": end - stub.base,
        "kernel_info_offset": 0,
    }
    for name, value in changes.items():
        offset, form = SETUP_HEADER[name]
        struct.pack_into(form, setup, offset, value)
    # An EFI firmware that took the PE header at its word would jump to what is no longer there.
    if setup.startswith(b"MZ"):
        setup[:2] = bytes(2)
    return bytes(setup + code) + kernel


def _check_fit(image: bytes, stub: Stub, start: int, end: int, entry: int) -> None:
    """Raise CannotFlatten unless the stub can place [start, end) and jump to ``entry`` there."""
    preferred = header_field(image, "pref_address")
    conditions = (
        (header_field(image, "code32_start") == stub.base, "it is not loaded at 1 MiB"),
        (start == preferred, f"it is linked at {start:#x} and wants to be at {preferred:#x}"),
        (start % _KERNEL_ALIGNMENT == 0, f"it is linked at {start:#x}, which is not aligned"),
        (
            start >= stub.symbols["image_end"],
            f"it is linked at {start:#x}, where its own bytes are loaded",
        ),
        (end - start <= header_field(image, "init_size"), "it is larger than its header says"),
        (end <= _MAPPED, f"it ends at {end:#x}, above 4 GiB"),
        (start <= entry < end, f"its entry point {entry:#x} is outside of it"),
    )
    for holds, problem in conditions:
        if not holds:
            raise CannotFlatten(f"this kernel can't be made flat: {problem}")


def _segments(elf: bytes) -> tuple[int, list[_Segment]]:
    """Return the physical entry point and what is loaded."""
    try:
        with reading(elf) as file:
            machine, entry = file["e_machine"], file["e_entry"]
            loaded = [s for s in file.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_memsz"]]
            segments = [_Segment(s["p_paddr"], s.data(), s["p_memsz"]) for s in loaded]
    except ElfError as error:
        raise BzImageError(f"can't read the vmlinux in the bzImage: {error}") from None
    if machine != "EM_X86_64" or not segments:
        raise CannotFlatten("this kernel can't be made flat: its vmlinux is no 64-bit x86 program")
    end = 0
    for segment in sorted(segments, key=lambda segment: segment.address):
        if segment.address < end or segment.size < len(segment.data):
            raise CannotFlatten("this kernel can't be made flat: its segments overlap")
        end = segment.address + segment.size
    return entry, segments
