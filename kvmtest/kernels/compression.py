"""Compressed kernels and modules
==============================

Decompresses what the kernel's build compresses: the payload of a bzImage
(scripts/Makefile.lib, ``cmd_xzkern`` and its like) and modules (``.ko.xz``, ``.ko.zst``); and the
archives that kernels come in. The format is told by the data's first bytes, never by a file's name.
"""

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import files
from kvmtest.optional_libraries import library

__all__ = ["Corrupt", "decompress", "name_of", "stream"]

_LZ4_BLOCK = 8 << 20
"""What one block of lz4's legacy format holds at most (lib/decompress_unlz4.c)."""
# lzop (conf.h): its largest block, the version since which the level is written, and flags.
_LZO_BLOCK = 64 << 20
_LZO_VERSION = 0x940
_LZO_FILTER = 0x800
_LZO_CHECKSUMS = ((0x1, 0x100), (0x2, 0x200))
_ZSTD_PIECE = 512
"""The bytes of a zstd stream that are decompressed at once, to 16 MiB at most."""


class Corrupt(EnvironmentUnfit):
    """The data is no whole compressed stream, or of a format that nothing here reads."""


def decompress(data: bytes, most: int = files.IMAGE) -> bytes:
    """Return the contents of the compressed stream at the start of ``data``.

    Whatever follows the stream is ignored: the kernel's build appends its length. An ELF file is
    returned as it is. Raises Corrupt, also where the contents have more than ``most`` bytes, and
    EnvironmentUnfit where a library is missing.
    """
    name = name_of(data)
    if name is None:
        raise Corrupt(f"it begins with {data[:6].hex() or 'nothing'}, which is no known format")
    try:
        return _DECOMPRESSORS[name](data, most)
    except EnvironmentUnfit:
        raise
    except Exception as error:  # each library has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Corrupt(f"its {name} stream is damaged ({reason})") from None


def name_of(data: bytes) -> str | None:
    """Return the name of the format that ``data`` begins with, or None."""
    return next((name for magic, name in _MAGICS.items() if data.startswith(magic)), None)


def stream(file: BinaryIO) -> Any:
    """Return a file of the contents of the compressed ``file``, to be read from here to the end.

    A file in a format that is not one of gzip, bzip2, xz, lzma and zstd is returned as it is.
    Raises EnvironmentUnfit where a library is missing; reading raises the library's own errors.
    """
    start = file.tell()
    name = name_of(file.read(_MAGIC_SIZE))
    file.seek(start)
    if name == "zstd":
        zstandard = library("zstandard", "decompressing zstd")
        return zstandard.ZstdDecompressor().stream_reader(
            file, closefd=False, read_across_frames=True
        )
    return _STREAMS[name](file) if name in _STREAMS else file


def _whole(decompressor: "zlib._Decompress | bz2.BZ2Decompressor | lzma.LZMADecompressor",
           data: bytes, most: int) -> bytes:  # fmt: skip
    contents = decompressor.decompress(data, most)
    if not decompressor.eof:
        raise _too_large(most) if len(contents) >= most else ValueError("it ends early")
    return contents


def _zstd(data: bytes, most: int) -> bytes:
    zstandard = library("zstandard", "decompressing zstd")
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    contents = bytearray()
    for at in range(0, len(data), _ZSTD_PIECE):
        contents += decompressor.decompress(data[at : at + _ZSTD_PIECE])
        if len(contents) > most:
            raise _too_large(most)
        if decompressor.eof:
            return bytes(contents)
    raise ValueError("it ends early")


def _lz4(data: bytes, most: int) -> bytes:
    """Decompress lz4's legacy format: after the magic, blocks that each begin with their length."""
    block = library("lz4.block", "decompressing lz4")
    contents, at = bytearray(), 4
    # The last four bytes are the length that the kernel's build appends.
    while at < len(data) - 4:
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            raise ValueError("it ends early")
        contents += block.decompress(data[at + 4 : end], uncompressed_size=_LZ4_BLOCK)
        if len(contents) > most:
            raise _too_large(most)
        at = end
    return bytes(contents)


def _lzo(data: bytes, most: int) -> bytes:
    """Decompress lzop's format (lib/decompress_unlzo.c): a header, then blocks up to an empty one.

    A block begins with its length before and after compression, and a checksum of either.
    """
    lzo = library("lzallright", "decompressing LZO")
    at, checksums = _lzo_header(data)
    contents = bytearray()
    while size := _word(data, at):
        if size > _LZO_BLOCK:
            raise ValueError(f"a block of {size} bytes")
        packed = _word(data, at + 4)
        at += 8 + checksums[0] + (checksums[1] if packed < size else 0)
        block = data[at : at + packed]
        if len(block) != packed:
            raise ValueError("it ends early")
        # A block that does not shrink is stored as it is.
        block = lzo.LZOCompressor.decompress(block, size) if packed < size else block
        if len(block) != size:
            raise ValueError("a block is of another size")
        contents += block
        if len(contents) > most:
            raise _too_large(most)
        at += packed
    return bytes(contents)


def _lzo_header(data: bytes) -> tuple[int, tuple[int, int]]:
    """Return where the blocks begin, and the bytes of checksums of what is packed in each."""
    (version,) = struct.unpack_from(">H", data, 9)
    if version < _LZO_VERSION:
        raise ValueError(f"lzop's version {version:#x}")
    # Before the flags: three versions, the method and its level. After them: a filter where one
    # is used, the file's mode, its time in two halves, its name and a checksum.
    flags = _word(data, 17)
    at = 21 + (4 if flags & _LZO_FILTER else 0) + 12
    at += 1 + data[at] + 4
    plain, packed = (4 * sum(bool(flags & bit) for bit in bits) for bits in _LZO_CHECKSUMS)
    return at, (plain, packed)


def _word(data: bytes, at: int) -> int:
    word: int = struct.unpack_from(">I", data, at)[0]
    return word


def _too_large(most: int) -> Corrupt:
    return Corrupt(f"it holds more than {most >> 20} MiB")


_MAGICS = {
    b"\x7fELF": "ELF",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x5d\0\0": "lzma",
    b"\xfd7zXZ\0": "xz",
    b"\x89LZO": "LZO",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_DECOMPRESSORS: dict[str, Callable[[bytes, int], bytes]] = {
    "ELF": lambda data, most: data,
    "gzip": lambda data, most: _whole(zlib.decompressobj(zlib.MAX_WBITS | 16), data, most),
    "bzip2": lambda data, most: _whole(bz2.BZ2Decompressor(), data, most),
    "lzma": lambda data, most: _whole(lzma.LZMADecompressor(lzma.FORMAT_ALONE), data, most),
    "xz": lambda data, most: _whole(lzma.LZMADecompressor(lzma.FORMAT_XZ), data, most),
    "LZO": _lzo,
    "lz4": _lz4,
    "zstd": _zstd,
}

_MAGIC_SIZE = max(map(len, _MAGICS))
_STREAMS: dict[str | None, Callable[[BinaryIO], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "lzma": lzma.LZMAFile,
    "xz": lzma.LZMAFile,
}
