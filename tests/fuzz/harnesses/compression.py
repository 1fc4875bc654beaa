"""kernels/compression.py: what the kernel's build compresses."""

import bz2
import gzip
import lzma

import lz4.block
import zstandard

from fuzz.harness import Harness
from kvmtest.kernels.compression import Corrupt, decompress

TEXT = b"a kernel " * 100
MOST = 8 << 20
"""Of what comes out, as a kernel's own bound is more than an input here is worth."""


def _lz4(data: bytes) -> bytes:
    block = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + len(block).to_bytes(4, "little") + block + bytes(4)


HARNESS = Harness(
    parse=lambda data: decompress(data, MOST),
    seeds=(
        gzip.compress(TEXT, mtime=0),
        bz2.compress(TEXT),
        lzma.compress(TEXT, lzma.FORMAT_ALONE),
        lzma.compress(TEXT, check=lzma.CHECK_CRC32),
        zstandard.compress(TEXT),
        _lz4(TEXT),
        b"\x7fELF",
    ),
    refusals=(Corrupt,),
)
