"""Debian packages
===============

Reads what a .deb says of itself and takes chosen files out of it (deb(5)), on any distribution.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from kvmtest.kernels import files, tarball
from kvmtest.kernels.tarball import Member
from kvmtest.kernels.unpacking import reading
from kvmtest.optional_libraries import library

__all__ = ["Control", "control", "package_names", "unpack"]


_AR_MAGIC = len("!<arch>\n")
_AR_HEADER = 60
_AR_SIZE = slice(48, 58)
_MOST_PARTS = 100
"""A package has three, and perhaps signatures."""


@dataclass(frozen=True, slots=True)
class Control:
    """What a package's control file says."""

    package: str
    version: str
    architecture: str
    depends: tuple[str, ...] = ()
    """The names of the packages that it depends on, alternatives included."""


def control(path: Path) -> Control:
    """Read the control file of the .deb at ``path``.

    Raises EnvironmentUnfit where it is damaged or a library is missing.
    """
    deb822 = library("debian.deb822", "reading a .deb")
    with _members(path, r"control\.tar") as members:
        for member in members:
            if member.name == PurePosixPath("control"):
                # As text: what is none would have the library guess, and log what it guesses.
                text = member.open().read(files.TEXT).decode(errors="replace")
                fields = deb822.Deb822(text)
                return Control(
                    fields["Package"],
                    fields["Version"],
                    fields["Architecture"],
                    tuple(package_names(fields.get("Depends", ""))),
                )
        raise ValueError("it has no control file")


def package_names(depends: str) -> list[str]:
    """Return the names in a field Depends, alternatives included."""
    return [part.split()[0] for part in re.split(r"[,|]", depends) if part.split()]


def unpack(path: Path, into: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Take the regular files that are ``wanted`` out of the .deb at ``path``, below ``into``.

    A name is given relative to the root. Raises EnvironmentUnfit where the .deb is damaged.
    """
    with _members(path, r"data\.tar") as members:
        tarball.place_wanted(members, into, wanted)


@contextmanager
def _members(path: Path, part: str) -> Iterator[Iterator[Member]]:
    """Give the regular files of the .deb's tar archive ``part``."""
    arfile = library("debian.arfile", "reading a .deb")
    # Opened here: ArFile itself opens the file anew for each member, and leaves it open.
    with reading(path, "Debian package"), files.opened(path, files.PACKAGE) as file:
        _check_sizes(file)
        members = arfile.ArFile(fileobj=file).getmembers()
        # Tar archives end before their compressed streams do: tarfile misses a cut there.
        whole = _AR_MAGIC + sum(_AR_HEADER + member.size for member in members)
        whole += sum(member.size % 2 for member in members[:-1])
        if os.fstat(file.fileno()).st_size < whole:
            raise ValueError(f"it is cut off, {whole} bytes or more were expected")
        packed = [m for m in members if re.fullmatch(rf"{part}(\.\w+)?", m.name)]
        if not packed:
            raise ValueError("a part of it is missing")
        with tarball.inside(packed[0]) as found:
            yield found


def _check_sizes(file: BinaryIO) -> None:
    """Raise ValueError where a part's size is none: ArFile goes back by a negative one, for ever.

    Leaves the file at its beginning.
    """
    at, parts = _AR_MAGIC, 0
    while (header := _read_at(file, at, _AR_HEADER)) and parts < _MOST_PARTS:
        digits = header[_AR_SIZE].rstrip()
        if not digits.isdigit():
            raise ValueError("a part of it has no size")
        at += _AR_HEADER + int(digits) + int(digits) % 2
        parts += 1
    if parts == _MOST_PARTS:
        raise ValueError(f"it has more than {_MOST_PARTS} parts")
    file.seek(0)


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
