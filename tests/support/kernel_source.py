"""Files of a kernel's source: tools that the kernel's developers use, such as their parsers.

They come from the linux-source package of the kernel that the lab boots, which is downloaded once:
the wanted files stay in the lab's cache.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import deb
from kvmtest.kernels.archive import Archive

__all__ = ["fetched"]


def fetched(kind: str, *wanted: str) -> Path:
    """Return the top of a source tree that has the files which match ``wanted``, as tar does.

    ``kind`` names them in the cache. Raises KvmtestError where they can't be had.
    """
    cache = Cache.default()
    archive = Archive(cache, print)
    source = archive.build_kit(archive.find()).source

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            (package,) = archive.download([source], Path(place))
            deb.unpack(package, Path(place), lambda name: name.name.endswith(".tar.xz"))
            (tarball,) = Path(place).glob("usr/src/linux-source-*.tar.xz")
            # Not by tarfile, which takes a minute for 1.5 GB.
            patterns = ["--wildcards", *(f"*/{pattern}" for pattern in wanted)]
            command = ["tar", "--extract", "--xz", "--file", str(tarball), *patterns]
            done = subprocess.run(
                command, cwd=folder, env={**os.environ, "XZ_OPT": "-T0"}, check=False
            )
            if done.returncode:
                raise EnvironmentUnfit(f"tar can't unpack {tarball.name}; install xz-utils")

    (top,) = cache.entry(kind, source.sha256, make).iterdir()
    return top
