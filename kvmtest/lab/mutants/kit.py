"""The build kit of a kernel
=======================

Fetches the source and the headers of one of Debian's kernels, and unpacks them into the cache.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import bzimage, deb
from kvmtest.kernels.archive import Archive
from kvmtest.kernels.kernel import BootableKernel

from .builder import BuildKit

__all__ = ["fetch"]


def fetch(kernel: BootableKernel, cache: Cache, on_step: Callable[[str], None]) -> BuildKit:
    """Return the unpacked kit of a kernel.

    Raises UsageError where Debian's archive has no such kernel, EnvironmentUnfit where a part of
    the kit is missing.
    """
    archive = Archive(cache, on_step)
    packages = archive.build_kit(archive.find(kernel.release))
    wanted = [*packages.headers, packages.source]
    digest = hashlib.sha256("".join(package.sha256 for package in wanted).encode())
    digest.update(hashlib.sha256(kernel.image.read_bytes()).digest())

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
            for path in archive.download(wanted, Path(downloads)):
                on_step(f"unpacking {path.name}")
                deb.unpack(path, folder, lambda name: name.parts[:1] == ("usr",))
        (folder / "vmlinux").write_bytes(bzimage.vmlinux(kernel.image.read_bytes()))

    root = cache.entry("build-kit", digest.hexdigest(), make)
    return BuildKit(
        _one(root, f"usr/src/linux-headers-{kernel.release}"),
        _one(root, "usr/src/linux-headers-*-common"),
        _one(root, "usr/lib/linux-kbuild-*"),
        _one(root, "usr/src/linux-source-*.tar.xz"),
        root / "vmlinux",
    )


def _one(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        raise EnvironmentUnfit(f"the build kit in {root} has {len(found)} {pattern}; remove it")
    return found[0]
