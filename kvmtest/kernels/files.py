"""Files of kernels
================

Reads what ``--kernel``, ``--modules`` and the targets of inspection lead to: regular files alone,
and none beyond the size that a kernel's files have.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from kvmtest import named_file
from kvmtest.errors import EnvironmentUnfit
from kvmtest.named_file import MIB

__all__ = ["IMAGE", "MIB", "MODULE", "PACKAGE", "TEXT", "digest", "opened", "read", "text"]

#: The most that is read, in bytes: of a bzImage (Debian's has 8 MiB) or a vmlinux with debug info,
IMAGE = 1024 * MIB
#: of a module (kvm.ko has 3 MiB, with debug info 23),
MODULE = 256 * MIB
#: of a package or tarball (a kernel's .deb has up to 120 MiB, its modules with debug info 1 GiB),
PACKAGE = 4096 * MIB
#: and of a text, such as modules.builtin.
TEXT = 16 * MIB


@contextmanager
def opened(path: Path, most: int) -> Iterator[FileIO]:
    """Give the regular file ``path`` of at most ``most`` bytes, open for reading.

    Raises EnvironmentUnfit where it is none, is larger, or can't be read.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(named_file.opened(path, most))
        except OSError as error:
            raise _unreadable(path, error) from None
        yield file


def read(path: Path, most: int) -> bytes:
    """Return the contents of a regular file of at most ``most`` bytes; raises as ``opened``."""
    try:
        return named_file.read(path, most)
    except OSError as error:
        raise _unreadable(path, error) from None


def text(path: Path) -> str:
    """Return a text, what is no UTF-8 in it replaced; raises as ``opened``."""
    return read(path, TEXT).decode(errors="replace")


def digest(path: Path, most: int) -> str:
    """Return the SHA-256 digest of such a file, in hexadecimal; raises as ``opened``."""
    with opened(path, most) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> EnvironmentUnfit:
    return EnvironmentUnfit(f"can't read {path}: {error.strerror}; name another file")
