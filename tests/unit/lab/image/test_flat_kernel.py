"""kvmtest/lab/image/flat_kernel.py: a kernel made flat boots alike, or is refused with a reason."""

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_files import BANNER, START, Segment, bzimage, elf, vmlinux

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.bzimage import BzImageError, is_bzimage, version
from kvmtest.kernels.bzimage import vmlinux as unpacked
from kvmtest.lab.image import flat_kernel as subject
from kvmtest.lab.image.flat_kernel import CannotFlatten, flatten

IMAGE = bzimage(vmlinux())
SETUP = 5 * 512


def changed(offset: int, form: str, value: int) -> bytes:
    content = bytearray(IMAGE)
    struct.pack_into(form, content, offset, value)
    return bytes(content)


def field(image: bytes, offset: int, form: str) -> int:
    value: int = struct.unpack_from(form, image, offset)[0]
    return value


def test_it_is_a_bzimage_of_the_same_version_with_nothing_to_decompress() -> None:
    flat = flatten(IMAGE)
    assert is_bzimage(flat)
    assert version(flat) == BANNER
    with pytest.raises(BzImageError, match="no payload"):
        unpacked(flat)


def test_its_bytes_follow_the_stub() -> None:
    flat = flatten(IMAGE)
    assert flat.endswith(b"\xf4".ljust(0x4000, b"\0") + b"data".ljust(16, b"\0"))


def test_its_header_tells_the_loader_the_truth() -> None:
    flat = flatten(IMAGE)
    assert field(flat, 0x1F4, "<I") * 16 == len(flat) - SETUP
    assert field(flat, 0x234, "<B") == 0  # relocatable_kernel
    assert field(flat, 0x236, "<H") == 0  # xloadflags
    assert field(flat, 0x258, "<Q") == 0x100000  # pref_address
    assert 0x100000 + field(flat, 0x260, "<I") == START + 0x7004  # init_size
    assert field(flat, 0x206, "<H") < 0x20F  # kernel_info is not there


def test_no_efi_firmware_takes_it_for_a_program() -> None:
    assert IMAGE.startswith(b"MZ")
    assert not flatten(IMAGE).startswith(b"MZ")


@pytest.mark.parametrize("field_at", [0x248, 0x24C, 0x264, 0x268])
def test_it_points_to_nothing_that_is_gone(field_at: int) -> None:
    assert field(flatten(changed(0x264, "<I", 0x190)), field_at, "<I") == 0


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (bzimage(vmlinux(start=0x1000800), preferred=0x1000800), "not aligned"),
        (bzimage(vmlinux(), preferred=0x200000), "wants to be at 0x200000"),
        (bzimage(vmlinux(start=0), preferred=0), "where its own bytes are loaded"),
        (changed(0x214, "<I", 0x10000), "not loaded at 1 MiB"),
        (bzimage(elf(segments=[Segment(START, b"x", 0x1000)], entry=0)), "entry point 0x0"),
        (bzimage(elf(segments=[], entry=START)), "no 64-bit x86 program"),
        (
            bzimage(elf(segments=[Segment(START, b"x", 1)], entry=START, machine=3)),
            "no 64-bit x86 program",
        ),
        (
            bzimage(
                elf(
                    segments=[Segment(START, b"x", 0x2000), Segment(START + 0x1000, b"y", 9)],
                    entry=START,
                )
            ),
            "overlap",
        ),
        (bzimage(elf(segments=[Segment(START, b"xx", 1)], entry=START)), "overlap"),
        (
            bzimage(
                elf(
                    segments=[Segment(START, b"x", 9), Segment(0xF000_0000, b"y", 9)],
                    entry=START,
                ),
                init_size=0xFFFF_FFFF,
            ),
            "segments lie far apart",
        ),
        (
            bzimage(elf(segments=[Segment(START, b"x", 1 << 40)], entry=START)),
            "larger than its",
        ),
        (
            bzimage(
                elf(segments=[Segment(0xFFE00000, b"x", 0x400000)], entry=0xFFE00000),
                preferred=0xFFE00000,
            ),
            "above 4 GiB",
        ),
    ],
)
def test_what_would_not_run_flat_is_refused(image: bytes, reason: str) -> None:
    with pytest.raises(CannotFlatten, match=reason):
        flatten(image)


def test_a_missing_stub_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "STUB", tmp_path / "flat_kernel.elf")
    with pytest.raises(EnvironmentUnfit, match=r"stub of flat kernels.*build it again"):
        flatten(IMAGE)


DAMAGE = st.lists(st.tuples(st.integers(0, SETUP), st.integers(0, 255)), max_size=6)


@settings(max_examples=300)
@given(st.booleans(), DAMAGE)
def test_a_damaged_image_gives_no_traceback(is_inside: bool, damage: list[tuple[int, int]]) -> None:
    content = bytearray(vmlinux() if is_inside else IMAGE)
    for at, value in damage:
        content[at % (64 + 2 * 56) if is_inside else at] = value
    with suppress(EnvironmentUnfit):
        flatten(bzimage(bytes(content)) if is_inside else bytes(content))
