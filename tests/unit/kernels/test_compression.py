"""kvmtest/kernels/compression.py: each format comes back whole or is refused."""

import bz2
import contextlib
import gzip
import lzma
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.compression import Corrupt, decompress, name_of

lz4_block = pytest.importorskip("lz4.block")
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


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": lzma_alone,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4_legacy,
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


def test_lzo_is_refused_by_name() -> None:
    with pytest.raises(Corrupt, match="LZO"):
        decompress(b"\x89LZO\0\r\n\x1a\n")


def test_an_elf_file_is_taken_as_it_is() -> None:
    assert decompress(b"\x7fELF and so on") == b"\x7fELF and so on"


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(EnvironmentUnfit, match=r"pip install 'kvmtest\[lab\]', or zstandard") as it:
        decompress(FORMATS["zstd"](b"x"))
    assert not isinstance(it.value, Corrupt)
