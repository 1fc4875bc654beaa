"""Tar archives of kernels
=======================

Reads tar archives, whatever they are compressed with, as streams: kernel source, or a kernel's
files as Arch Linux packs them and as ``make tarxz-pkg`` does.
"""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from kvmtest.kernels import files
from kvmtest.kernels.compression import stream
from kvmtest.kernels.unpacking import inner_name, place, reading

__all__ = ["Member", "is_tar", "members", "unpack"]

_MAGIC = slice(257, 262)
_MOST_MEMBERS = 1 << 20


class Member:
    """A regular file in an archive, to be read before the next."""

    def __init__(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.name = inner_name(member.name)
        self.size = member.size
        self.is_executable = bool(member.mode & 0o100)
        self._archive = archive
        self._member = member

    def open(self) -> BinaryIO:
        """Return its contents as a file. Raises ValueError where it is larger than any kernel."""
        contents = self._archive.extractfile(self._member)
        if contents is None or self.size > files.IMAGE:
            raise ValueError(f"{self.name} in it has {self.size >> 20} MiB")
        return contents  # type: ignore[return-value]


def is_tar(head: bytes) -> bool:
    """Tell whether an uncompressed file begins like a tar archive of POSIX or GNU (tar(5))."""
    return head[_MAGIC] == b"ustar"


@contextmanager
def members(path: Path) -> Iterator[Iterator[Member]]:
    """Give the regular files in an archive; raises EnvironmentUnfit where it is damaged."""
    with (
        reading(path, "tar archive"),
        files.opened(path, files.PACKAGE) as file,
        tarfile.open(fileobj=stream(file), mode="r|") as archive,
    ):
        yield _regular(archive)


def unpack(path: Path, into: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Take the files that are ``wanted`` out of an archive; raises as ``members``."""
    with members(path) as found:
        for member in found:
            if wanted(member.name):
                place(
                    member.open(), member.size, into, member.name, executable=member.is_executable
                )


def _regular(archive: tarfile.TarFile) -> Iterator[Member]:
    for count, member in enumerate(archive):
        if count > _MOST_MEMBERS:
            raise ValueError(f"it has more than {_MOST_MEMBERS} files")
        if member.isreg():
            yield Member(archive, member)
