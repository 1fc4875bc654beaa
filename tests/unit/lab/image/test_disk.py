"""lab/image/disk.py: what the drives hold, as a BIOS, the loader and the kernel read them."""

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from support.kernel_files import bzimage, vmlinux

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.bzimage import header_field, setup_size
from kvmtest.kernels.elf import reading
from kvmtest.lab.image import disk
from kvmtest.lab.image.flat_kernel import flatten

KERNEL = bzimage(vmlinux())
INITRAMFS = b"initramfs" * 5000
SECTOR = 2048


@dataclass
class Cd:
    """The image of a boot CD."""

    content: bytes

    def sectors(self, at: int, count: int = 1) -> bytes:
        return self.content[at * SECTOR : (at + count) * SECTOR]

    def loader(self) -> tuple[bytes, int]:
        """Return what a BIOS loads, and the offset of the loader's table in it (El Torito 1.0)."""
        record = self.sectors(17)
        assert record[:7] == b"\0CD001\x01"
        assert record[7:39].rstrip(b"\0") == b"EL TORITO SPECIFICATION"
        catalog = self.sectors(struct.unpack_from("<I", record, 0x47)[0])
        assert sum(struct.unpack_from("<16H", catalog)) & 0xFFFF == 0
        assert (catalog[0], catalog[30:32]) == (1, b"\x55\xaa")
        indicator, media, segment, _, _, count, at = struct.unpack_from("<BBHBBHI", catalog, 32)
        assert (indicator, media, segment, count) == (0x88, 0, 0, 4)
        with reading(disk.LOADER.read_bytes()) as file:
            (table,) = file.get_section_by_name(".symtab").get_symbol_by_name("loads")
        return self.sectors(at), table["st_value"] - 0x7C00

    def memory(self) -> dict[int, bytes]:
        """Return what the loader puts where."""
        code, at = self.loader()
        loads = list(struct.iter_unpack("<3I", code[at : at + 36]))
        return {address: self.sectors(first, count) for first, count, address in loads}


def boot_cd(folder: Path, kernel: bytes = KERNEL, command_line: str = "quiet a=b,c") -> Cd:
    target = folder / "boot.iso"
    disk.make(target, kernel, INITRAMFS, command_line)
    return Cd(target.read_bytes())


def test_the_loader_is_one_sector_of_code_and_a_table(tmp_path: Path) -> None:
    code, at = boot_cd(tmp_path).loader()
    assert code[:1] == b"\xea"  # a far jump over the table
    assert code[:at] == segment_of(disk.LOADER)[:at]
    assert code[at + 36 :].rstrip(b"\0") == segment_of(disk.LOADER)[at + 36 :].rstrip(b"\0")


def segment_of(path: Path) -> bytes:
    with reading(path.read_bytes()) as file:
        data: bytes = next(file.iter_segments()).data()
        return data


@pytest.mark.parametrize("kernel", [KERNEL, flatten(KERNEL)], ids=["packed", "flat"])
def test_the_kernel_the_first_file_system_and_the_command_line_are_loaded(
    tmp_path: Path, kernel: bytes
) -> None:
    memory = boot_cd(tmp_path, kernel).memory()
    setup = memory[0x90000]
    # What a loader writes is in the header (boot.rst); all else is the kernel's own.
    changed = {at for at, byte in enumerate(kernel[: setup_size(kernel)]) if setup[at] != byte}
    assert changed <= {0x210, 0x211, *range(0x218, 0x220), 0x224, 0x225, *range(0x228, 0x22C)}
    assert memory[0x100000][: len(kernel)].startswith(kernel[setup_size(kernel) :])
    at, size = header_field(setup, "ramdisk_image"), header_field(setup, "ramdisk_size")
    assert memory[at][:size] == INITRAMFS
    line = header_field(setup, "cmd_line_ptr") - 0x90000
    assert setup[line:].rstrip(b"\0") == b"quiet a=b,c"


def test_the_kernel_is_told_what_a_loader_must_tell_it(tmp_path: Path) -> None:
    setup = boot_cd(tmp_path).memory()[0x90000]
    assert header_field(setup, "type_of_loader") == 0xFF
    assert header_field(setup, "loadflags") == header_field(KERNEL, "loadflags") | 0x80
    assert header_field(setup, "heap_end_ptr") == 0xDE00


@pytest.mark.parametrize("kernel", [KERNEL, flatten(KERNEL)], ids=["packed", "flat"])
def test_nothing_is_loaded_over_anything_else_nor_where_the_kernel_unfolds(
    tmp_path: Path, kernel: bytes
) -> None:
    memory = boot_cd(tmp_path, kernel).memory()
    places = sorted((at, at + len(content)) for at, content in memory.items())
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    assert memory.keys() >= {0x90000, 0x100000}
    assert 0x90000 + len(memory[0x90000]) <= 0x9F000  # below what a BIOS keeps for itself
    unfolded = header_field(kernel, "pref_address") + header_field(kernel, "init_size")
    assert places[-1][0] >= unfolded


def test_a_command_line_that_a_kernel_would_cut_is_refused(tmp_path: Path) -> None:
    boot_cd(tmp_path, command_line="x" * 2047)
    with pytest.raises(EnvironmentUnfit, match="a command line of 2048 bytes is too long"):
        boot_cd(tmp_path, command_line="x" * 2048)


@pytest.mark.parametrize("content", [None, b"", b"no ELF file"])
def test_a_loader_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    loader = tmp_path / "boot_cd.elf"
    if content is not None:
        loader.write_bytes(content)
    monkeypatch.setattr(disk, "LOADER", loader)
    with pytest.raises(EnvironmentUnfit, match=r"boot_cd\.elf, is not usable .* build it again"):
        boot_cd(tmp_path)


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 100])
def test_the_payload_s_drive_is_a_header_the_payload_and_as_large_as_any(
    tmp_path: Path, data: bytes
) -> None:
    disk.payload(tmp_path / "drive", data)
    held = (tmp_path / "drive").read_bytes()
    assert held[:8] == b"KVMTEST1"
    assert int.from_bytes(held[8:16], "little") == len(data)
    assert held[2048 : 2048 + len(data)] == data
    assert not any(held[2048 + len(data) :])
    assert len(held) == 64 << 20


def test_a_drive_takes_no_more_room_than_its_payload(tmp_path: Path) -> None:
    disk.payload(tmp_path / "drive", b"x")
    assert (tmp_path / "drive").stat().st_blocks * 512 < 1 << 20


def test_the_largest_payload_fits_and_a_larger_is_refused(tmp_path: Path) -> None:
    largest = bytes((64 << 20) - 2048)
    disk.payload(tmp_path / "drive", largest)
    with pytest.raises(EnvironmentUnfit, match="does not fit the lab's drive"):
        disk.payload(tmp_path / "drive", largest + b"x")
