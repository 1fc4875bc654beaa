"""The host's file tree
====================

Every file of the machine under test (/proc, /sys, /dev, /boot) is reached through a :class:`Tree`,
so that the same code reads the live machine or a stand-in tree given by ``--root``.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kvmtest import named_file

__all__ = ["Tree"]

#: The most that is read of a stand-in's file, in bytes: BTF and ACPI tables have a few MiB.
MOST = 256 * named_file.MIB


# No file has a name with a zero byte in it (ValueError), whatever another file says.
_UNREADABLE = (OSError, ValueError)


@lru_cache(maxsize=1024)
def _path(root: Path, name: str) -> Path:
    return root / name.lstrip("/")


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of one machine, below ``root``."""

    root: Path = Path("/")

    @property
    def is_live(self) -> bool:
        """Tell whether this is the machine itself, and not a stand-in."""
        return self.root == Path("/")

    def path(self, name: str) -> Path:
        """Return where the host's absolute path ``name`` is, e.g. ``/proc/cpuinfo``."""
        return _path(self.root, name)

    def exists(self, name: str) -> bool:
        """Tell whether ``name`` is there, as far as we may look (following links)."""
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
        # A stand-in's files are whatever its maker put there: a device or a FIFO has no end.
        path = self.path(name)
        return path.read_bytes() if self.is_live else named_file.read(path, MOST)

    def glob(self, pattern: str) -> list[Path]:
        """Return the paths that match the host's absolute ``pattern``, sorted."""
        return sorted(self.root.glob(pattern.lstrip("/")))
