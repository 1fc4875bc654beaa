"""lab/image/flat_kernel.py: the ELF file in a boot image, made flat."""

from support.kernel_files import Segment, elf, vmlinux

from fuzz.harness import Harness
from fuzz.harnesses.bzimage import plain
from kvmtest.kernels.bzimage import BzImageError
from kvmtest.lab.image.flat_kernel import flatten

START = 0x1000000


def parse(data: bytes) -> None:
    # An image whose header fits whatever the ELF file says.
    flatten(plain(data, preferred=START, init_size=0xFFFF_FFFF))


TWO = elf(
    {}, [Segment(START, b"a" * 64, 64), Segment(START + 0x200000, b"b", 1 << 20)], entry=START
)

HARNESS = Harness(
    parse=parse,
    seeds=(vmlinux(), TWO),
    refusals=(BzImageError,),
)
