"""kvmtest/kernels/bzimage.py: what a bzImage says and holds; never a traceback."""

import bz2
import gzip
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.kernel_files import BANNER, bzimage, elf, vmlinux, xz

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import bzimage as subject
from kvmtest.kernels.bzimage import (
    BzImageError,
    check_architecture,
    version,
)
from kvmtest.kernels.elf import section

IMAGE = bzimage(vmlinux())
SETUP = 5 * 512


def changed(offset: int, form: str, value: int, image: bytes = IMAGE) -> bytes:
    content = bytearray(image)
    struct.pack_into(form, content, offset, value)
    return bytes(content)


def test_the_version_string_is_the_banner() -> None:
    assert version(IMAGE) == BANNER


def test_the_kernel_comes_out_as_it_went_in() -> None:
    assert subject.vmlinux(IMAGE) == vmlinux()


@pytest.mark.parametrize("compress", [bz2.compress, xz])
def test_each_compression_will_do(compress: Callable[[bytes], bytes]) -> None:
    assert subject.vmlinux(bzimage(vmlinux(), compress)) == vmlinux()


def test_gzip_whose_own_trailer_is_the_length_will_do() -> None:
    assert subject.vmlinux(bzimage(vmlinux(), gzip.compress, size_appended=False)) == vmlinux()


def test_the_btf_section_of_vmlinux_is_found() -> None:
    assert section(subject.vmlinux(IMAGE), ".BTF") == b"types"
    assert section(elf(), ".BTF") == b""


def test_a_length_that_does_not_agree_is_refused() -> None:
    with pytest.raises(BzImageError, match="the header says 5"):
        subject.vmlinux(bzimage(vmlinux(), lambda data: xz(data) + b"\5\0\0\0",
                                size_appended=False))  # fmt: skip


def at(offset: int, magic: bytes, size: int = 0x1000) -> bytes:
    return (bytes(offset) + magic).ljust(size, b"\0")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (changed(0x236, "<H", 0x7E), "a 32-bit x86 kernel, and kvmtest is for x86-64"),
        (b"MZ\0\x91" + at(52, b"ARM\x64"), "a kernel for arm64"),
        (at(36, b"\x18\x28\x6f\x01"), "a kernel for 32-bit ARM"),
        (b"MZ" + at(54, b"RSC\x05"), "a kernel for RISC-V"),
        (b"MZ\0\0zimg" + bytes(0x400), "of another architecture"),
        (elf(machine=183), "an ELF file for arm64"),
        (elf(machine=3), "an ELF file for 32-bit x86"),
        (elf(machine=62), "an ELF file for x86-64, such as vmlinux; give arch/x86/boot/bzImage"),
        (elf(machine=999), "an ELF file for another machine (999)"),
        (b"\x7fELF", "a damaged ELF file"),
        (gzip.compress(b"kernel", mtime=0), "compressed with gzip; unpack it"),
        (b"\xed\xab\xee\xdb\3\0", "an RPM; unpack it"),
        (b"MZ" + bytes(0x400), "another program for EFI"),
        (b"hello", "its header lacks"),
    ],
)
def test_what_can_not_be_booted_here_is_told_by_what_it_is(image: bytes, said: str) -> None:
    with pytest.raises(BzImageError) as caught:
        check_architecture(image)
    assert said in str(caught.value)


@pytest.mark.parametrize("protocol", [0x206, 0x20B])
def test_a_kernel_from_before_there_was_a_mark_of_64_bits_is_not_refused_for_it(
    protocol: int,
) -> None:
    old = changed(0x206, "<H", protocol, changed(0x236, "<H", 0))
    check_architecture(old)
    assert version(old) == BANNER


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "not a bzImage"),
        (b"\x7fELF" + bytes(0x400), "not a bzImage"),
        (IMAGE[:SETUP], "cut off"),
        (changed(0x211, "<B", 0), "zImage"),
        (changed(0x24C, "<I", 0), "no payload"),
        (changed(0x206, "<H", 0x207), "no payload"),
        (changed(0x248, "<I", 0xFFFFFFF0), "no payload"),
        (changed(0x248, "<I", 0), "no known format"),
        (bzimage(b"text"), "not an ELF file"),
        (IMAGE[:-0x60], "damaged"),
    ],
)
def test_what_is_not_right_is_refused_with_a_reason(image: bytes, reason: str) -> None:
    with pytest.raises(BzImageError, match=reason):
        subject.vmlinux(image)


@pytest.mark.parametrize("at", [0, 0xFFFF, SETUP])
def test_an_image_without_a_version_string_is_refused(at: int) -> None:
    with pytest.raises(BzImageError, match="no kernel version string"):
        version(changed(0x20E, "<H", at))


@contextmanager
def one_line() -> Iterator[None]:
    """Let an error of one line pass."""
    try:
        yield
    except EnvironmentUnfit as caught:
        error = caught
    else:
        return
    assert "\n" not in str(error)


def survives(image: bytes) -> None:
    """Each function gives a value or an error of one line."""
    for function in (version, subject.vmlinux):
        with one_line():
            function(image)


@given(st.integers(0, len(IMAGE)))
def test_an_image_cut_off_anywhere_gives_no_traceback(length: int) -> None:
    survives(IMAGE[:length])


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0x1F0, SETUP), st.integers(0, 255)), max_size=6))
@example([(0x1F1, 0)])
def test_a_damaged_header_gives_no_traceback(damage: list[tuple[int, int]]) -> None:
    content = bytearray(IMAGE)
    for at, value in damage:
        content[at] = value
    survives(bytes(content))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 64 + 2 * 56), st.integers(0, 255)), max_size=6))
def test_a_damaged_kernel_gives_no_traceback(damage: list[tuple[int, int]]) -> None:
    content = bytearray(vmlinux())
    for at, value in damage:
        content[at] = value
    survives(bzimage(bytes(content)))


@given(st.binary(max_size=0x300))
def test_garbage_gives_no_traceback(image: bytes) -> None:
    survives(image)
    with one_line():
        section(image, ".BTF")
