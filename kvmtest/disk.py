"""The disk
========

What outlasts a power failure: a file's bytes, and the names in a folder.
"""

import os
from pathlib import Path

__all__ = ["sync"]


def sync(path: Path) -> None:
    """Write a file, or a folder's entries, to the disk: fsync(2). Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
