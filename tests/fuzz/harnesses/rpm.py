"""kernels/rpm.py: a package's lead and headers, and a payload that is not compressed, or is."""

import gzip
import lzma

from support.kernel_files import rpm

from fuzz.harness import Harness
from fuzz.harnesses.deb import made, plain, read_package
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.rpm import tags, unpack


def parse(data: bytes) -> None:
    read_package("a.rpm", data, tags, unpack)


HARNESS = Harness(
    parse=parse,
    seeds=(
        made(rpm, pack=plain, compressor="", requires=["kernel-common"]),
        made(rpm, pack=lambda data: gzip.compress(data, mtime=0), compressor="gzip"),
        made(rpm, pack=lzma.compress),
    ),
    refusals=(EnvironmentUnfit,),
    longest=32768,
)
