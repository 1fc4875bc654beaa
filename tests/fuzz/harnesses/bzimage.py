"""kernels/bzimage.py: a boot image's header, version and payload."""

import gzip

from support.kernel_files import bzimage, vmlinux, xz

from fuzz.harness import Harness
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.bzimage import is_bzimage, version
from kvmtest.kernels.bzimage import vmlinux as unpacked


def plain(kernel: bytes, **options: int) -> bytes:
    """A bzImage whose payload is not compressed, so that its own bytes can be changed."""
    sized = kernel + (len(kernel) + 4).to_bytes(4, "little")
    return bzimage(sized, lambda data: data, size_appended=False, **options)  # type: ignore[arg-type]


def parse(data: bytes) -> None:
    assert version(data).isprintable()
    assert is_bzimage(data)
    unpacked(data)


HARNESS = Harness(
    parse=parse,
    seeds=(
        plain(vmlinux()),
        bzimage(vmlinux(), xz),
        bzimage(vmlinux(), gzip.compress),
    ),
    refusals=(EnvironmentUnfit,),
    longest=8192,
)
