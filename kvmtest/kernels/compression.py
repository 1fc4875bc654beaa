"""Compressed kernels and modules
==============================

Decompresses what the kernel's build compresses: the payload of a bzImage
(scripts/Makefile.lib, ``cmd_xzkern`` and its like) and modules (``.ko.xz``, ``.ko.zst``).
The format is told by the data's first bytes, never by a file's name.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import files
from kvmtest.optional_libraries import library

__all__ = ["Corrupt", "decompress", "name_of"]

_LZ4_BLOCK = 8 << 20
"""What one block of lz4's legacy format holds at most (lib/decompress_unlz4.c)."""
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
    raise Corrupt("it is compressed with LZO, which kvmtest can't read")


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
