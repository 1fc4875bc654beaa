"""kvmtest/kernels/compression.py: each format comes back whole or is refused."""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.compression import Corrupt, decompress, name_of, stream

lz4_block = pytest.importorskip("lz4.block")
lzallright = pytest.importorskip("lzallright")
zstandard = pytest.importorskip("zstandard")


def lz4_legacy(data: bytes) -> bytes:
    """As `lz4 -l` writes it: blocks of 8 MiB, each behind its compressed length."""
    packed = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = lz4_block.compress(data[start : start + (8 << 20)], store_size=False)
        packed += len(block).to_bytes(4, "little") + block
    return packed


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


def lzop(data: bytes, block: int = 256 << 10) -> bytes:
    """As `lzop` writes it: a header, and blocks with an Adler-32 checksum of what is packed."""
    header = bytes.fromhex("1040 20a0 0940 01 05 03000001 000081a4 00000000 00000000 00")
    packed = b"\x89LZO\0\r\n\x1a\n" + header + zlib.adler32(header).to_bytes(4, "big")
    for start in range(0, len(data), block):
        plain = data[start : start + block]
        small = lzallright.LZOCompressor().compress(plain)
        small = small if len(small) < len(plain) else plain
        for number in (len(plain), len(small), zlib.adler32(plain)):
            packed += number.to_bytes(4, "big")
        packed += small
    return packed + bytes(4)


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": lzma_alone,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4_legacy,
    "LZO": lzop,
}
formats = pytest.mark.parametrize("name", FORMATS)


@formats
@given(data=st.binary(min_size=1, max_size=2000))
def test_what_was_compressed_comes_back(name: str, data: bytes) -> None:
    packed = FORMATS[name](data)
    assert name_of(packed) == name
    assert decompress(packed + len(data).to_bytes(4, "little")) == data


def test_more_than_one_block_of_lz4_comes_back() -> None:
    data = bytes(range(256)) * (36 << 10)
    assert decompress(lz4_legacy(data) + len(data).to_bytes(4, "little")) == data


def test_zstd_of_a_pipe_which_tells_no_size_comes_back() -> None:
    packer = zstandard.ZstdCompressor(write_content_size=False)
    assert decompress(packer.compress(b"vmlinux" * 100) + b"\xbc\x02\0\0") == b"vmlinux" * 100


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"lz4"}))
@given(data=st.data())
def test_a_stream_that_is_cut_off_anywhere_is_refused(name: str, data: st.DataObject) -> None:
    packed = FORMATS[name](bytes(range(256)) * 8)
    length = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(Corrupt):
        decompress(packed[:length])


def test_lz4_that_is_cut_off_in_a_block_is_refused() -> None:
    with pytest.raises(Corrupt, match="lz4 stream is damaged"):
        decompress(lz4_legacy(bytes(range(256)) * 8)[:-10])


@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_a_damaged_stream_is_refused_or_comes_out_as_something(
    name: str, data: st.DataObject
) -> None:
    packed = bytearray(FORMATS[name](bytes(range(256)) * 8))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Corrupt):
        assert isinstance(decompress(bytes(packed)), bytes)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    if name_of(data) is None:
        with pytest.raises(Corrupt, match="no known format"):
            decompress(data)


def test_what_lzop_makes_comes_back() -> None:
    if not shutil.which("lzop"):
        pytest.skip("no lzop: install the package lzop")
    data = bytes(range(256)) * 4000 + bytes(300_000)
    for options in (["-9"], ["-1", "-F"], ["--crc32"], ["-CC"]):
        done = subprocess.run(["lzop", "-c", *options], input=data, capture_output=True, check=True)
        assert decompress(done.stdout + len(data).to_bytes(4, "little")) == data


def test_more_than_one_block_of_lzo_comes_back_and_no_more_than_is_allowed() -> None:
    data = bytes(range(256)) * 3000
    assert decompress(lzop(data)) == data
    with pytest.raises(Corrupt, match="it holds more than 0 MiB"):
        decompress(lzop(data), 300_000)


def test_a_block_of_lzo_that_claims_to_be_huge_is_refused() -> None:
    packed = lzop(b"x" * 100)
    at = packed.index((100).to_bytes(4, "big"))
    with pytest.raises(Corrupt, match="LZO stream is damaged"):
        decompress(packed[:at] + b"\x7f\0\0\0" + packed[at + 4 :])


@pytest.mark.parametrize("name", [*sorted(set(FORMATS) - {"lz4", "LZO"}), ""])
def test_a_stream_is_read_from_where_the_file_is(name: str) -> None:
    data = bytes(range(256)) * 3000
    file = io.BytesIO(b"ahead" + FORMATS.get(name, bytes)(data))
    file.seek(5)
    contents = stream(file)
    assert contents.read(1000) + contents.read() == data


def test_an_elf_file_is_taken_as_it_is() -> None:
    assert decompress(b"\x7fELF and so on") == b"\x7fELF and so on"


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(EnvironmentUnfit, match=r"pip install 'kvmtest\[lab\]', or zstandard") as it:
        decompress(FORMATS["zstd"](b"x"))
    assert not isinstance(it.value, Corrupt)
