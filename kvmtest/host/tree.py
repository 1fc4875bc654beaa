"""The host's file tree
====================

Every file of the machine under test (/proc, /sys, /dev, /boot) is reached through a :class:`Tree`:
the live machine's root, or a stand-in tree that ``--root`` names.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kvmtest import named_file

__all__ = ["Tree"]

#: The largest file that is read from a stand-in, in bytes; BTF and ACPI tables have a few MiB.
MOST = 256 * named_file.MIB


# A name with a zero byte in it raises ValueError: names may come from another file's text.
_UNREADABLE = (OSError, ValueError)

# More than most files of /proc and /sys have.
_PART = 1 << 16


@lru_cache(maxsize=1024)
def _path(root: Path, name: str) -> Path:
    return root / name.lstrip("/")


def _read(path: Path) -> bytes:
    """Return a file's bytes. Raises OSError, ValueError.

    A run reads hundreds of files of a line each: Path.read_bytes() takes five times as long.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _PART):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of one machine, below ``root``."""

    root: Path = Path("/")

    @property
    def is_live(self) -> bool:
        """Tell whether this is the live machine, and not a stand-in."""
        return str(self.root) == "/"

    def path(self, name: str) -> Path:
        """Return the path of the host's file ``name``, e.g. ``/proc/cpuinfo``, below the root."""
        return _path(self.root, name)

    def exists(self, name: str) -> bool:
        """Tell whether ``name`` exists, following links, as far as this process may look."""
        try:
            return self.path(name).exists()
        except _UNREADABLE:
            return False

    def read(self, name: str) -> str | None:
        """Return the stripped text of ``name``, or None where it is absent or unreadable."""
        try:
            return self._content(name).decode(errors="replace").strip()
        except _UNREADABLE:
            return None

    def read_bytes(self, name: str) -> bytes | None:
        """Return the bytes of ``name``, or None where it is absent or unreadable."""
        try:
            return self._content(name)
        except _UNREADABLE:
            return None

    def _content(self, name: str) -> bytes:
        # A stand-in may hold anything, and reading a device or a FIFO never ends.
        path = self.path(name)
        return _read(path) if self.is_live else named_file.read(path, MOST)

    def glob(self, pattern: str) -> list[Path]:
        """Return the paths that match the host's absolute ``pattern``, sorted."""
        return sorted(self.root.glob(pattern.lstrip("/")))
