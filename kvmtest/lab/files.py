"""Files that a user names
=======================

Reads what ``--kernel`` and ``--modules`` lead to: regular files alone, and none beyond the size
that a kernel's files have. A device or a FIFO would be read for ever.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit

__all__ = ["IMAGE", "MODULE", "PACKAGE", "TEXT", "digest", "opened", "read"]

MIB = 1 << 20
#: The most that is read, in bytes: of a bzImage (Debian's has 8 MiB) or a vmlinux with debug info,
IMAGE = 1024 * MIB
#: of a module (kvm.ko has 2 MiB, with debug info some 30),
MODULE = 256 * MIB
#: of a Debian package (a kernel's has up to 120 MiB, its modules with debug info 1 GiB),
PACKAGE = 4096 * MIB
#: and of a text, such as modules.builtin.
TEXT = 16 * MIB

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


@contextmanager
def opened(path: Path, most: int) -> Iterator[BufferedReader]:
    """Give the regular file ``path`` of at most ``most`` bytes, open for reading.

    Raises EnvironmentUnfit where it is none, is larger, or can't be read.
    """
    try:
        # A FIFO without a writer would hold up a plain open.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        _check(path, os.fstat(fd), most)
        with os.fdopen(fd, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(fd)


def read(path: Path, most: int) -> bytes:
    """Return the contents of a regular file of at most ``most`` bytes; raises as ``opened``."""
    with opened(path, most) as file:
        try:
            return file.read(most)
        except OSError as error:
            raise _unreadable(path, error) from None


def digest(path: Path, most: int) -> str:
    """Return the SHA-256 digest of such a file, in hexadecimal; raises as ``opened``."""
    with opened(path, most) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from None


def _check(path: Path, status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise EnvironmentUnfit(f"{path} is {kind}; name a regular file")
    if status.st_size > most:
        raise EnvironmentUnfit(
            f"{path} has {status.st_size // MIB} MiB, more than the {most // MIB} that such a "
            "file may have here; name another file"
        )


def _unreadable(path: Path, error: OSError) -> EnvironmentUnfit:
    return EnvironmentUnfit(f"can't read {path}: {error.strerror}")
