"""kernels/deb.py: a package's ar archive, with tar archives that are not compressed, or are."""

import gzip
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from support.kernel_files import deb

from fuzz.harness import Harness
from fuzz.scratch import scratch
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.deb import control, unpack

Describe = Callable[[Path], object]
Unpack = Callable[[Path, Path, Callable[[PurePosixPath], bool]], None]
FILES = {"boot/vmlinuz-6": b"an image", "lib/modules/6/kernel/kvm.ko": b"a module"}


def plain(data: bytes) -> bytes:
    return data


def parse(data: bytes) -> None:
    read_package("a.deb", data, control, unpack)


def read_package(name: str, data: bytes, describe: Describe, unpack: Unpack) -> None:
    """Have a package described and unpacked; nothing may come out beside its folder."""
    folder = scratch(name)
    package, into = folder / name, folder / "into" / "it"
    into.mkdir(parents=True, exist_ok=True)
    package.write_bytes(data)
    refused: list[EnvironmentUnfit] = []
    for read in (describe, lambda path: unpack(path, into, wanted)):
        try:
            read(package)
        except EnvironmentUnfit as error:
            refused.append(error)
    strays = sorted(path.name for path in (*folder.iterdir(), *into.parent.iterdir()))
    assert strays == [name, "into", "it"], strays
    if any(into.iterdir()):
        shutil.rmtree(into)
    for error in refused:
        raise error


def wanted(path: PurePosixPath) -> bool:
    return str(path).startswith(("boot", "lib"))


def made(write: Callable[..., Path], **options: object) -> bytes:
    """Return the package of FILES that ``write`` writes."""
    path = write(scratch("seeds") / "seed", FILES, **options)
    data = path.read_bytes()
    path.unlink()
    return data


HARNESS = Harness(
    parse=parse,
    seeds=(
        made(deb, pack=plain, suffix=""),
        made(deb, pack=lambda data: gzip.compress(data, mtime=0), suffix=".gz"),
        made(deb, pack=lzma.compress),
    ),
    refusals=(EnvironmentUnfit,),
    longest=32768,
)
