"""cpio archives
=============

Writes the archive that the kernel unpacks as its first root file system
(Documentation/driver-api/early-userspace/buffer-format.rst, "newc"). Equal files make equal bytes:
no owners, no times, names in order.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["Directory", "Entry", "File", "Link", "archive"]

_MAGIC = "070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class File:
    """A regular file."""

    data: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; those that lead to other entries need not be named."""


Entry = File | Link | Directory


def archive(entries: Mapping[str, Entry]) -> bytes:
    """Return a newc archive of entries by their names, such as ``bin/sh``, without a leading slash.

    The archive is padded to 512 bytes. Raises ValueError for a name that leads out of the root, or
    is not in its shortest form.
    """
    parents = {
        str(parent) for name in entries for parent in PurePosixPath(name).parents if parent.name
    }
    everything = {**dict.fromkeys(parents, Directory()), **entries}
    parts = [
        _record(number, name, everything[name]) for number, name in enumerate(sorted(everything), 1)
    ]
    parts.append(_header(0, 0, 0, _TRAILER))
    data = b"".join(parts)
    return data + bytes(-len(data) % 512)


def _record(number: int, name: str, entry: Entry) -> bytes:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name} leads out of the archive's root")
    if not path.name or str(path) != name or "\0" in name or name == _TRAILER:
        raise ValueError(f"{name!r} is no name for an archive's entry")
    if isinstance(entry, Directory):
        mode, data = stat.S_IFDIR | 0o755, b""
    elif isinstance(entry, Link):
        mode, data = stat.S_IFLNK | 0o777, os.fsencode(entry.target)
    else:
        mode, data = stat.S_IFREG | (0o755 if entry.executable else 0o644), entry.data
    return _header(number, mode, len(data), name) + data + bytes(-len(data) % 4)


def _header(number: int, mode: int, size: int, name: str) -> bytes:
    links = 2 if stat.S_ISDIR(mode) else 1
    path = os.fsencode(name) + b"\0"
    # inode, mode, uid, gid, links, mtime, size, two devices (major and minor), name, checksum
    fields = (number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(path), 0)
    header = _MAGIC.encode() + b"".join(b"%08x" % field for field in fields) + path
    return header + bytes(-len(header) % 4)
