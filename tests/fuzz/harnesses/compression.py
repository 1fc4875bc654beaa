"""kernels/compression.py: what the kernel's build compresses."""

import bz2
import gzip
import lzma

import lz4.block
import lzallright
import zstandard

from fuzz.harness import Harness
from kvmtest.kernels.compression import Corrupt, decompress

TEXT = b"a kernel " * 100
MOST = 8 << 20
"""Of what comes out, as a kernel's own bound is more than an input here is worth."""


def _lz4(data: bytes) -> bytes:
    block = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + len(block).to_bytes(4, "little") + block + bytes(4)


def _lzo(data: bytes) -> bytes:
    block = lzallright.LZOCompressor().compress(data)
    # lzop's versions, method, level and flags (an Adler-32 of each block), then what is not read.
    header = bytes.fromhex("104020a0094001 05 03000001") + bytes(12 + 1 + 4)
    sizes = len(data).to_bytes(4, "big") + len(block).to_bytes(4, "big")
    return b"\x89LZO\0\r\n\x1a\n" + header + sizes + bytes(4) + block + bytes(4)


HARNESS = Harness(
    parse=lambda data: decompress(data, MOST),
    seeds=(
        gzip.compress(TEXT, mtime=0),
        bz2.compress(TEXT),
        lzma.compress(TEXT, lzma.FORMAT_ALONE),
        lzma.compress(TEXT, check=lzma.CHECK_CRC32),
        zstandard.compress(TEXT),
        _lz4(TEXT),
        _lzo(TEXT),
        b"\x7fELF",
    ),
    refusals=(Corrupt,),
)
