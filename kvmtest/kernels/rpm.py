"""RPM packages
============

Reads what an .rpm says of itself and takes chosen files out of it (the format is described at
rpm.org, "RPM V4 Package format"), on any distribution. rpmfile reads the tags; the payload, a cpio
archive, is read here as a stream: rpmfile takes all of it into memory, whatever its size.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from kvmtest.kernels import files
from kvmtest.kernels.compression import stream
from kvmtest.kernels.unpacking import drain, inner_name, place, reading
from kvmtest.optional_libraries import library

__all__ = ["MAGIC", "Tags", "tags", "unpack"]

MAGIC = b"\xed\xab\xee\xdb"
"""What every .rpm begins with (struct rpmlead)."""

_LEAD = 96
_INTRO = struct.Struct(">3sB4xII")
_INTRO_MAGIC = b"\x8e\xad\xe8"
_ENTRY = 16
# A kernel's header has a hundred entries and a few MiB; rpm itself allows 2^16 and 256 MiB.
_MOST_ENTRIES = 1000
_MOST_DATA = 64 * files.MIB

# cpio(5), "New ASCII Format": magic, and thirteen fields of eight hexadecimal digits.
_CPIO = 110
_CPIO_MAGICS = (b"070701", b"070702")
_TRAILER = "TRAILER!!!"
_MOST_NAME = 4096
_REGULAR, _KIND, _EXECUTABLE = 0o100000, 0o170000, 0o100


@dataclass(frozen=True, slots=True)
class Tags:
    """What a package's header says."""

    name: str
    version: str
    release: str
    architecture: str
    source: str
    """The source package that it was built from; "" for a source package."""

    requires: tuple[str, ...] = ()
    """The names of what it depends on."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}-{self.release}"


def tags(path: Path) -> Tags:
    """Read the header of the .rpm at ``path``.

    Raises EnvironmentUnfit where it is damaged or a library is missing.
    """
    with reading(path, "RPM package"), files.opened(path, files.PACKAGE) as file:
        found = _open(file).headers
        requires = found.get("requirename", [])
        return Tags(
            _text(found["name"]),
            _text(found["version"]),
            _text(found["release"]),
            _text(found["arch"]),
            _text(found.get("sourcerpm", b"")),
            tuple(map(_text, requires if isinstance(requires, list) else [requires])),
        )


def unpack(path: Path, into: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Take the regular files that are ``wanted`` out of the .rpm at ``path``, below ``into``.

    A name is given relative to the root. Raises EnvironmentUnfit where the .rpm is damaged.
    """
    with reading(path, "RPM package"), files.opened(path, files.PACKAGE) as file:
        file.seek(_open(file).data_offset)
        for name, mode, size, contents in _members(stream(file)):
            if mode & _KIND == _REGULAR and wanted(name):
                place(contents, size, into, name, executable=bool(mode & _EXECUTABLE))


def _open(file: BinaryIO) -> Any:
    rpmfile = library("rpmfile", "reading an .rpm")
    _check_headers(file)
    file.seek(0)
    return rpmfile.open(fileobj=file)


def _check_headers(file: BinaryIO) -> None:
    """Raise ValueError where the two headers have no place or an absurd size: rpmfile trusts them.

    It copies what is behind an entry for each entry.
    """
    at = _LEAD
    for align in (8, 1):
        file.seek(at)
        magic, _, entries, size = _INTRO.unpack(file.read(_INTRO.size).ljust(_INTRO.size, b"\0"))
        if magic != _INTRO_MAGIC:
            raise ValueError("a header of it is missing")
        if entries > _MOST_ENTRIES or size > _MOST_DATA:
            raise ValueError(f"a header of it has {entries} entries and {size >> 20} MiB")
        at += _INTRO.size + _ENTRY * entries + size
        at += -at % align


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        raise ValueError("a tag of it is no text")
    return value.decode(errors="replace")


class _Contents:
    """The bytes of one file in the payload; ``left`` are still to be read."""

    def __init__(self, payload: Any, size: int) -> None:
        self._payload = payload
        self.left = size

    def read(self, most: int) -> bytes:
        part: bytes = self._payload.read(min(most, self.left))
        self.left -= len(part)
        return part


def _members(payload: Any) -> Iterator[tuple[PurePosixPath, int, int, _Contents]]:
    """Give name, mode, size and contents of each file, its contents to be read before the next."""
    while True:
        header = _exactly(payload, _CPIO)
        if header[:6] not in _CPIO_MAGICS:
            raise ValueError("its payload is no cpio archive")
        fields = [int(header[at : at + 8], 16) for at in range(6, _CPIO, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        if name_size > _MOST_NAME:
            raise ValueError(f"a name in it has {name_size} bytes")
        name = _exactly(payload, name_size + -(_CPIO + name_size) % 4)
        text = name.partition(b"\0")[0].decode(errors="replace")
        if text == _TRAILER:
            drain(payload)
            return
        contents = _Contents(payload, size)
        yield inner_name(text), mode, size, contents
        while contents.left:
            if not contents.read(files.MIB):
                raise ValueError("its payload is cut off")
        _exactly(payload, -size % 4)


def _exactly(payload: Any, size: int) -> bytes:
    data: bytes = payload.read(size)
    if len(data) != size:
        raise ValueError("its payload is cut off")
    return data
