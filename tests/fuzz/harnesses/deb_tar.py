"""kernels/tarball.py: the tar archives of an otherwise sound .deb; checksums are made right."""

import tarfile

from support.kernel_files import _tar

from fuzz.harness import Harness
from fuzz.harnesses.deb import FILES
from fuzz.harnesses.deb import parse as parse_deb
from kvmtest.errors import EnvironmentUnfit

CONTROL = b"Package: linux-image-6\nVersion: 6-1\nArchitecture: amd64\n"
LONG = {f"lib/{'a' * 120}/{'b' * 120}.ko": b"m", "control": CONTROL}

IMPOSSIBLE = (
    {f"lib/{'a' * 300}": b"m"},
    {"lib/a": b"m", "lib/a/b": b"n"},
    {"lib/a/b": b"n", "lib/a": b"m"},
)


def parse(data: bytes) -> None:
    tar = summed(data)
    archive = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0\n"), ("control.tar", tar), ("data.tar", tar)):
        archive += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name.encode(), 0, 0, 0, 0o644, len(body))
        archive += body + b"\n" * (len(body) % 2)
    parse_deb(archive)


def summed(data: bytes) -> bytes:
    """Give every block that may be a header the checksum that it must have (tar(5))."""
    blocks = bytearray(data.ljust(-(-len(data) // 512) * 512, b"\0"))
    for at in range(0, len(blocks), 512):
        block = blocks[at : at + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(blocks)


HARNESS = Harness(
    parse=parse,
    seeds=(_tar({"control": CONTROL, **FILES})[:4096], _tar(LONG)[:5120]),
    refused=tuple(_tar({"control": CONTROL, **files})[:6144] for files in IMPOSSIBLE),
    refusals=(EnvironmentUnfit,),
    longest=8192,
)
assert tarfile.DEFAULT_FORMAT == tarfile.PAX_FORMAT
