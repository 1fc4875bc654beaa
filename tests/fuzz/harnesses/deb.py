"""kernels/deb.py: a package's ar archive, with tar archives that are not compressed, or are."""

import gzip
import lzma
import shutil
from pathlib import Path, PurePosixPath

from support.kernel_files import deb

from fuzz.harness import Harness
from fuzz.scratch import scratch
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.deb import control, unpack

FILES = {"boot/vmlinuz-6": b"an image", "lib/modules/6/kernel/kvm.ko": b"a module"}


def plain(data: bytes) -> bytes:
    return data


def parse(data: bytes) -> None:
    folder = scratch("deb")
    package, into = folder / "a.deb", folder / "into" / "it"
    into.mkdir(parents=True, exist_ok=True)
    package.write_bytes(data)
    refused: list[EnvironmentUnfit] = []
    for read in (control, lambda path: unpack(path, into, wanted)):
        try:
            read(package)
        except EnvironmentUnfit as error:
            refused.append(error)
    strays = sorted(path.name for path in (*folder.iterdir(), *into.parent.iterdir()))
    assert strays == ["a.deb", "into", "it"], strays
    if any(into.iterdir()):
        shutil.rmtree(into)
    for error in refused:
        raise error


def wanted(path: PurePosixPath) -> bool:
    return str(path).startswith(("boot", "lib"))


def seed(name: str, **options: object) -> bytes:
    path: Path = scratch("deb") / name
    deb(path, FILES, **options)  # type: ignore[arg-type]
    data = path.read_bytes()
    path.unlink()
    return data


HARNESS = Harness(
    parse=parse,
    seeds=(
        seed("plain", pack=plain, suffix=""),
        seed("gzip", pack=lambda data: gzip.compress(data, mtime=0), suffix=".gz"),
        seed("xz", pack=lzma.compress),
    ),
    refusals=(EnvironmentUnfit,),
    longest=32768,
)
