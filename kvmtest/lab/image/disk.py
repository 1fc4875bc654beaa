"""Disks
=====

The CD image that a machine boots from, and the image of its payload drive.

The boot CD has no file system: a BIOS looks for El Torito's boot record in sector 17, and the
loader that it leads to (guests/boot_cd.S) knows by numbers where the rest is.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit
from kvmtest.guests.image import IMAGES
from kvmtest.kernels.bzimage import SETUP_HEADER, header_field, setup_size

from .stub import Stub

__all__ = ["LOADER", "make", "payload"]

#: The boot CD's loader.
LOADER = IMAGES / "boot_cd.elf"

_SECTOR = 2048
# "El Torito" Bootable CD-ROM Format Specification 1.0: figures 2, 3 and 7.
_RECORD, _CATALOG, _LOADER = 17, 18, 19
_FIRST_FREE = 20
_ENTRY_SECTOR = 512

# Of the kernel's real-mode part and its command line (boot.rst, "Sample Boot Configuration").
_SETUP, _HEAP_END, _COMMAND_LINE = 0x90000, 0xE000, 0x9E000
_COMMAND_LINE_MOST = 2047
_KERNEL = 0x100000
_UNKNOWN_LOADER, _CAN_USE_HEAP = 0xFF, 1 << 7
_PAGE = 1 << 12

_MAGIC = b"KVMTEST1"  # c_helpers/lab/port.c
#: The payload drive's size in bytes, which must be that of the saved machine.
_PAYLOAD_SIZE = 64 << 20


def make(target: Path, kernel: bytes, initramfs: bytes, command_line: str) -> None:
    """Write the boot CD's image; ``kernel`` is a bzImage, flat or not.

    Raises EnvironmentUnfit where the loader is missing, or the command line is too long.
    """
    setup = setup_size(kernel)
    # Behind all that the kernel uses before it looks at its memory map.
    first_free = header_field(kernel, "pref_address") + header_field(kernel, "init_size")
    ramdisk = max(first_free, _KERNEL + len(kernel) - setup) + _PAGE - 1 & -_PAGE
    parts = (
        (_SETUP, _real_mode(kernel[:setup], ramdisk, len(initramfs), command_line)),
        (_KERNEL, kernel[setup:]),
        (ramdisk, initramfs),
    )
    loads, at = [], _FIRST_FREE
    for address, content in parts:
        loads.append((at, _sectors(content), address))
        at += _sectors(content)
    with target.open("wb") as file:
        file.write(bytes(_RECORD * _SECTOR))
        for content in (_boot_record(), _boot_catalog(), _loader(loads), *(c for _, c in parts)):
            file.write(content)
            file.write(bytes(-len(content) % _SECTOR))


def payload(target: Path, data: bytes) -> None:
    """Write the image of the payload drive, in the form that c_helpers/lab/port.c reads."""
    if _SECTOR + len(data) > _PAYLOAD_SIZE:
        raise EnvironmentUnfit(f"a payload of {len(data)} bytes does not fit the lab's drive")
    header = _MAGIC + len(data).to_bytes(8, "little")
    with target.open("wb") as file:
        file.write(header.ljust(_SECTOR, b"\0") + data)
        os.truncate(file.fileno(), _PAYLOAD_SIZE)


def _sectors(content: bytes) -> int:
    return -(-len(content) // _SECTOR)


def _real_mode(setup: bytes, ramdisk: int, size: int, command_line: str) -> bytes:
    """Return what goes to _SETUP: the kernel's real-mode part, told what a loader tells it."""
    text = command_line.encode()
    if len(text) > _COMMAND_LINE_MOST:
        raise EnvironmentUnfit(
            f"a command line of {len(text)} bytes is too long for a kernel; it takes "
            f"{_COMMAND_LINE_MOST}"
        )
    content = bytearray(setup.ljust(_COMMAND_LINE - _SETUP, b"\0"))
    said = {
        "type_of_loader": _UNKNOWN_LOADER,
        "loadflags": header_field(setup, "loadflags") | _CAN_USE_HEAP,
        "ramdisk_image": ramdisk,
        "ramdisk_size": size,
        # "the offset (from the beginning of the real-mode code) of the end … minus 0x0200"
        "heap_end_ptr": _HEAP_END - 0x200,
        "cmd_line_ptr": _COMMAND_LINE,
    }
    for name, value in said.items():
        offset, form = SETUP_HEADER[name]
        struct.pack_into(form, content, offset, value)
    return bytes(content) + text + b"\0"


def _boot_record() -> bytes:
    return struct.pack("<B5sB32s32xI", 0, b"CD001", 1, b"EL TORITO SPECIFICATION", _CATALOG)


def _boot_catalog() -> bytes:
    """Return a catalog with one entry: boot, no emulation, the loader's sector."""
    words = (0x0001, *[0] * 13, 0, 0xAA55)
    validation = struct.pack("<16H", *words[:14], -sum(words) & 0xFFFF, words[15])
    entry = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, _SECTOR // _ENTRY_SECTOR, _LOADER)
    return validation + entry


def _loader(loads: Sequence[tuple[int, int, int]]) -> bytes:
    """Return the loader, told what to load: sector, number of sectors, address."""
    stub = Stub.read(LOADER, "the boot CD's loader", "loads")
    code, at = bytearray(stub.data), stub.symbols["loads"] - stub.base
    for number, load in enumerate(loads):
        struct.pack_into("<3I", code, at + 12 * number, *load)
    return bytes(code)
