"""bzImage
=======

The file that a boot loader boots (Documentation/arch/x86/boot.rst): what its header says, and the
vmlinux inside.
"""

import struct

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.compression import Corrupt, decompress, name_of
from kvmtest.kernels.elf import ElfError, machine_name, reading

__all__ = [
    "PARAGRAPH",
    "SETUP_HEADER",
    "BzImageError",
    "check_architecture",
    "header_field",
    "is_bzimage",
    "setup_size",
    "version",
    "vmlinux",
]

#: struct setup_header (arch/x86/include/uapi/asm/bootparam.h): offset in the file, and format.
SETUP_HEADER = {
    "setup_sects": (0x1F1, "<B"),
    "syssize": (0x1F4, "<I"),
    "boot_flag": (0x1FE, "<H"),
    "header": (0x202, "<I"),
    "version": (0x206, "<H"),
    "kernel_version": (0x20E, "<H"),
    "type_of_loader": (0x210, "<B"),
    "loadflags": (0x211, "<B"),
    "code32_start": (0x214, "<I"),
    "ramdisk_image": (0x218, "<I"),
    "ramdisk_size": (0x21C, "<I"),
    "heap_end_ptr": (0x224, "<H"),
    "cmd_line_ptr": (0x228, "<I"),
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
PARAGRAPH = 16
"""The unit of syssize, in bytes."""
_WITH_PAYLOAD = 0x208
"""The protocol's first version with payload_offset."""
# Kernels of other architectures (their headers: arch/*/…/image.h, drivers/firmware/efi/libstub/
# zboot-header.S), and what kernels are packed in: offset, magic, and words.
_FOREIGN = (
    (56, b"ARM\x64", "but a kernel for arm64, and kvmtest is for x86-64"),
    (36, b"\x18\x28\x6f\x01", "but a kernel for 32-bit ARM, and kvmtest is for x86-64"),
    (56, b"RSC\x05", "but a kernel for RISC-V, and kvmtest is for x86-64"),
    (4, b"zimg", "but a kernel of another architecture in a program for EFI"),
    (0, b"\xed\xab\xee\xdb", "but an RPM; unpack it (rpm2cpio FILE | cpio -id), name the folder"),
    (0, b"MZ", "but another program for EFI; give the vmlinuz that is in it"),
)


class BzImageError(EnvironmentUnfit):
    """It is no bzImage, or a damaged one."""


def is_bzimage(image: bytes) -> bool:
    """Tell whether ``image`` begins like a bzImage."""
    return (
        len(image) >= _HEADER_END
        and header_field(image, "boot_flag") == _BOOT_FLAG
        and header_field(image, "header") == _HDRS
    )


def header_field(image: bytes, name: str) -> int:
    """Return a field of SETUP_HEADER; ``image`` holds the whole header."""
    offset, form = SETUP_HEADER[name]
    value: int = struct.unpack_from(form, image, offset)[0]
    return value


def setup_size(image: bytes) -> int:
    """Return the bytes ahead of the protected-mode code."""
    # 0 stands for 4 (boot.rst, "setup_sects").
    return ((header_field(image, "setup_sects") or 4) + 1) * _SECTOR


def check_architecture(image: bytes) -> None:
    """Raise BzImageError for anything but a bzImage of a 64-bit kernel; a flat one does not say."""
    _check(image)
    if (
        header_field(image, "version") >= _WITH_XLOADFLAGS
        and not header_field(image, "xloadflags") & _KERNEL_64
    ):
        raise BzImageError("it is a 32-bit x86 kernel, and kvmtest is for x86-64")


def version(image: bytes) -> str:
    """Return its kernel version string, ``6.1.0-47-amd64 (…) #1 SMP … Debian 6.1.170-3 (…)``.

    Raises BzImageError.
    """
    _check(image)
    start = header_field(image, "kernel_version") + _SECTOR
    end = image.find(b"\0", start, setup_size(image))
    text = image[start:end].decode(errors="replace") if end > start > _SECTOR else ""
    if not text.isprintable() or not text.split():
        raise BzImageError("the bzImage has no kernel version string; it is damaged")
    return text


def vmlinux(image: bytes) -> bytes:
    """Return the ELF file inside, decompressed; relocations for KASLR may follow it.

    Raises BzImageError, and EnvironmentUnfit where a library to decompress it is missing.
    """
    _check(image)
    start = setup_size(image) + header_field(image, "payload_offset")
    payload = image[start : start + header_field(image, "payload_length")]
    if header_field(image, "version") < _WITH_PAYLOAD or not payload:
        raise BzImageError("the bzImage's header names no payload; it is flat or very old")
    try:
        elf = decompress(payload)
    except Corrupt as error:
        raise BzImageError(f"can't take vmlinux out of the bzImage: {error}") from None
    declared = int.from_bytes(payload[-4:], "little")
    if len(elf) != declared:
        raise BzImageError(
            f"the bzImage is damaged: {len(elf)} bytes came out of it, the header says {declared}"
        )
    if not elf.startswith(b"\x7fELF"):
        raise BzImageError("the bzImage's payload is not an ELF file")
    return elf


def _check(image: bytes) -> None:
    if not is_bzimage(image):
        raise BzImageError(f"it is not a bzImage, {_what(image)}")
    if len(image) <= setup_size(image):
        raise BzImageError("the bzImage ends within its setup code; it is cut off")
    if not header_field(image, "loadflags") & _LOADED_HIGH:
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
