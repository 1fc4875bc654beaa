"""Tar archives of kernels
=======================

Reads tar archives, whatever they are compressed with, as streams: those in .debs, kernel source, or
a kernel's files as Arch Linux packs them and as ``make tarxz-pkg`` does.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from kvmtest.kernels import files
from kvmtest.kernels.compression import stream
from kvmtest.kernels.unpacking import drain, inner_name, place, reading

__all__ = ["Member", "inside", "is_tar", "members", "place_wanted", "unpack"]

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

    def open(self) -> Any:
        """Return its contents as a file."""
        return self._archive.extractfile(self._member)


def is_tar(head: bytes) -> bool:
    """Tell whether an uncompressed file begins like a tar archive of POSIX or GNU (tar(5))."""
    return head[_MAGIC] == b"ustar"


@contextmanager
def members(path: Path) -> Iterator[Iterator[Member]]:
    """Give the regular files in an archive; raises EnvironmentUnfit where it is damaged."""
    with (
        reading(path, "tar archive"),
        files.opened(path, files.PACKAGE) as file,
        inside(file) as found,
    ):
        yield found


@contextmanager
def inside(file: BinaryIO) -> Iterator[Iterator[Member]]:
    """Give the regular files in an archive that is open; raises the libraries' own errors."""
    with tarfile.open(fileobj=stream(file), mode="r|", bufsize=files.MIB) as archive:
        yield _regular(archive)


def unpack(path: Path, into: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Take the files that are ``wanted`` out of an archive; raises as ``members``."""
    with members(path) as found:
        place_wanted(found, into, wanted)


def place_wanted(
    members: Iterable[Member], into: Path, wanted: Callable[[PurePosixPath], bool]
) -> None:
    """Write those files of an archive that are ``wanted`` below ``into``; raises as ``place``."""
    for each in members:
        if wanted(each.name):
            place(each.open(), each.size, into, each.name, executable=each.is_executable)


def _regular(archive: tarfile.TarFile) -> Iterator[Member]:
    for count, member in enumerate(archive):
        if count > _MOST_MEMBERS:
            raise ValueError(f"it has more than {_MOST_MEMBERS} files")
        name = inner_name(member.name)
        # tarfile goes on to the next member bufsize by bufsize, also behind the file's end.
        if member.size > files.PACKAGE:
            raise ValueError(f"{name} in it has {member.size >> 20} MiB")
        if member.isreg():
            yield Member(archive, member)
    drain(archive.fileobj)
