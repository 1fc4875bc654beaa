"""bzImage
=======

The file that a boot loader boots (Documentation/arch/x86/boot.rst): what its header says, the
vmlinux inside, and the same kernel made flat, with nothing left to decompress.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmtest.errors import EnvironmentUnfit
from kvmtest.guests.image import IMAGES
from kvmtest.kernels.compression import Corrupt, decompress, name_of
from kvmtest.kernels.elf import ElfError, machine_name, reading

__all__ = [
    "STUB",
    "BzImageError",
    "CannotFlatten",
    "check_architecture",
    "flatten",
    "is_bzimage",
    "version",
    "vmlinux",
]

#: The code ahead of a flat kernel.
STUB = IMAGES / "flat_kernel.elf"

# struct setup_header (arch/x86/include/uapi/asm/bootparam.h): offset in the file, and format.
_FIELDS = {
    "setup_sects": (0x1F1, "<B"),
    "syssize": (0x1F4, "<I"),
    "boot_flag": (0x1FE, "<H"),
    "header": (0x202, "<I"),
    "version": (0x206, "<H"),
    "kernel_version": (0x20E, "<H"),
    "loadflags": (0x211, "<B"),
    "code32_start": (0x214, "<I"),
    "relocatable_kernel": (0x234, "<B"),
    "xloadflags": (0x236, "<H"),
    "payload_offset": (0x248, "<I"),
    "payload_length": (0x24C, "<I"),
    "pref_address": (0x258, "<Q"),
    "init_size": (0x260, "<I"),
    "handover_offset": (0x264, "<I"),
    "kernel_info_offset": (0x268, "<I"),
}
_HEADER_END = 0x26C
_BOOT_FLAG = 0xAA55
_HDRS = 0x53726448
_LOADED_HIGH = 1 << 0
_KERNEL_64 = 1 << 0
"""The bit of xloadflags (XLF_KERNEL_64) that 64-bit kernels have since Linux 3.8."""
_WITH_XLOADFLAGS = 0x20C
"""The protocol's first version with it."""
_SECTOR = 512
_PARAGRAPH = 16
_WITH_PAYLOAD = 0x208
"""The protocol's first version with payload_offset."""
_FLAT_PROTOCOL = 0x20D
"""The last one without kernel_info_offset (0x20e was withdrawn)."""

_MAPPED = 1 << 32
"""What the stub of a flat kernel identity-maps."""
_KERNEL_ALIGNMENT = 2 << 20
"""startup_64 refuses to run at other addresses (arch/x86/kernel/head_64.S)."""
_MOST_GAPS = 16 << 20
"""Between a kernel's segments, in bytes: stock kernels have 1 MiB, but a damaged file may have
them anywhere below 4 GiB, and what is between them is written as zeroes."""


# Kernels of other architectures (their headers: arch/*/…/image.h, drivers/firmware/efi/libstub/
# zboot-header.S), and what kernels are packed in: offset, magic, and words.
_FOREIGN = (
    (56, b"ARM\x64", "but a kernel for arm64, the lab's machines are x86-64"),
    (36, b"\x18\x28\x6f\x01", "but a kernel for 32-bit ARM, the lab's machines are x86-64"),
    (56, b"RSC\x05", "but a kernel for RISC-V, the lab's machines are x86-64"),
    (4, b"zimg", "but a kernel of another architecture in a program for EFI"),
    (0, b"\xed\xab\xee\xdb", "but an RPM; unpack it (rpm2cpio FILE | cpio -id), name the folder"),
    (0, b"MZ", "but another program for EFI; give the vmlinuz that is in it"),
)


class BzImageError(EnvironmentUnfit):
    """It is no bzImage, or a damaged one."""


class CannotFlatten(BzImageError):
    """This kernel must be booted as it is."""


@dataclass(frozen=True, slots=True)
class _Segment:
    address: int
    """Physical."""
    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class _Stub:
    """The code ahead of a flat kernel, guests/flat_kernel.S."""

    data: bytes
    base: int
    end: int
    parameters: int


def is_bzimage(image: bytes) -> bool:
    """Tell whether ``image`` begins like a bzImage."""
    return (
        len(image) >= _HEADER_END
        and _get(image, "boot_flag") == _BOOT_FLAG
        and _get(image, "header") == _HDRS
    )


def check_architecture(image: bytes) -> None:
    """Raise BzImageError where a bzImage that was not made flat is a 32-bit kernel."""
    _check(image)
    if _get(image, "version") >= _WITH_XLOADFLAGS and not _get(image, "xloadflags") & _KERNEL_64:
        raise BzImageError("it is a 32-bit x86 kernel, the lab's machines are x86-64")


def version(image: bytes) -> str:
    """Return its kernel version string, ``6.1.0-47-amd64 (…) #1 SMP … Debian 6.1.170-3 (…)``.

    Raises BzImageError.
    """
    _check(image)
    start = _get(image, "kernel_version") + _SECTOR
    end = image.find(b"\0", start, _setup_size(image))
    text = image[start:end].decode(errors="replace") if end > start > _SECTOR else ""
    if not text.isprintable() or not text.split():
        raise BzImageError("the bzImage has no kernel version string; it is damaged")
    return text


def vmlinux(image: bytes) -> bytes:
    """Return the ELF file inside, decompressed; relocations for KASLR may follow it.

    Raises BzImageError, and EnvironmentUnfit where a library to decompress it is missing.
    """
    _check(image)
    start = _setup_size(image) + _get(image, "payload_offset")
    payload = image[start : start + _get(image, "payload_length")]
    if _get(image, "version") < _WITH_PAYLOAD or not payload:
        raise BzImageError("the bzImage's header names no payload; it is flat or very old")
    try:
        elf = decompress(payload)
    except Corrupt as error:
        raise BzImageError(f"can't take vmlinux out of the bzImage: {error}") from None
    declared = int.from_bytes(payload[-4:], "little")
    if len(elf) != declared:
        raise BzImageError(
            f"the bzImage is damaged: {len(elf)} bytes came out of it, it says {declared}"
        )
    if not elf.startswith(b"\x7fELF"):
        raise BzImageError("what the bzImage holds is no ELF file")
    return elf


def flatten(image: bytes) -> bytes:
    """Return a bzImage of the same vmlinux, which a small stub puts in place without decompressing.

    Boots from BIOS only, and without KASLR whatever the command line says. Raises CannotFlatten
    where this kernel can't be booted so, BzImageError where it is damaged, and EnvironmentUnfit
    where a library to decompress it is missing.
    """
    entry, segments = _segments(vmlinux(image))
    start = min(segment.address for segment in segments)
    end = max(segment.address + segment.size for segment in segments)
    stub = _stub(STUB)
    _check_fit(image, stub, start, end, entry)
    span = max(segment.address + len(segment.data) for segment in segments) - start
    if span - sum(len(segment.data) for segment in segments) > _MOST_GAPS:
        raise CannotFlatten("this kernel can't be made flat: its segments lie far apart")
    memory = bytearray(span)
    for segment in segments:
        at = segment.address - start
        memory[at : at + len(segment.data)] = segment.data
    kernel = bytes(memory).rstrip(b"\0")
    kernel += bytes(-len(kernel) % _PARAGRAPH)
    zeroes = max(0, end - start - len(kernel) + 3) // 4
    code = bytearray(stub.data)
    struct.pack_into(
        "<4I", code, stub.parameters - stub.base, start, len(kernel) // 4, zeroes, entry
    )
    setup = bytearray(image[: _setup_size(image)])
    changes = {
        "syssize": (len(code) + len(kernel)) // _PARAGRAPH,
        "version": min(_get(image, "version"), _FLAT_PROTOCOL),
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
        offset, form = _FIELDS[name]
        struct.pack_into(form, setup, offset, value)
    # An EFI firmware that took the PE header at its word would jump to what is no longer there.
    if setup.startswith(b"MZ"):
        setup[:2] = bytes(2)
    return bytes(setup + code) + kernel


def _get(image: bytes, field: str) -> int:
    offset, form = _FIELDS[field]
    value: int = struct.unpack_from(form, image, offset)[0]
    return value


def _setup_size(image: bytes) -> int:
    # 0 stands for 4 (boot.rst, "setup_sects").
    return ((_get(image, "setup_sects") or 4) + 1) * _SECTOR


def _check(image: bytes) -> None:
    if not is_bzimage(image):
        raise BzImageError(f"it is no bzImage, {_what(image)}")
    if len(image) <= _setup_size(image):
        raise BzImageError("the bzImage ends within its setup code; it is cut off")
    if not _get(image, "loadflags") & _LOADED_HIGH:
        raise BzImageError("it is a zImage, which is loaded low; build a bzImage")


def _what(image: bytes) -> str:
    """Say what a file that is no bzImage is, and what to give instead."""
    if image.startswith(b"\x7fELF"):
        try:
            with reading(image) as elf:
                machine = machine_name(elf["e_machine"])
        except ElfError:
            return "but a damaged ELF file; give arch/x86/boot/bzImage"
        return f"but an ELF file for {machine}, such as vmlinux; give arch/x86/boot/bzImage"
    for offset, magic, words in _FOREIGN:
        if image[offset : offset + len(magic)] == magic:
            return words
    if name := name_of(image):
        return f"but a file that is compressed with {name}; unpack it, and name what comes out"
    return "its header lacks the boot flag or HdrS"


def _check_fit(image: bytes, stub: _Stub, start: int, end: int, entry: int) -> None:
    """Raise CannotFlatten unless the stub can place [start, end) and jump to ``entry`` there."""
    preferred = _get(image, "pref_address")
    conditions = (
        (_get(image, "code32_start") == stub.base, "it is not loaded at 1 MiB"),
        (start == preferred, f"it is linked at {start:#x} and wants to be at {preferred:#x}"),
        (start % _KERNEL_ALIGNMENT == 0, f"it is linked at {start:#x}, which is not aligned"),
        (start >= stub.end, f"it is linked at {start:#x}, where its own bytes are loaded"),
        (end - start <= _get(image, "init_size"), "it is larger than its header says"),
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


def _stub(path: Path) -> _Stub:
    """Read the assembled stub; raises EnvironmentUnfit where it is missing or damaged."""
    try:
        with reading(path.read_bytes()) as file:
            segment = next(s for s in file.iter_segments() if s["p_type"] == "PT_LOAD")
            table: Any = file.get_section_by_name(".symtab")
            symbols = {s.name: s["st_value"] for s in table.iter_symbols()}
            return _Stub(
                segment.data(), symbols["start"], symbols["image_end"], symbols["parameters"]
            )
    except (OSError, KeyError, StopIteration, ElfError) as error:
        raise EnvironmentUnfit(
            f"the stub of flat kernels, {path}, is not usable ({error}); "
            "build it again (make, or pip install)"
        ) from None
