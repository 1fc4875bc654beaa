"""The record
==========

What a run changed, on disk before it was changed: /var/lib/kvmtest/journal, a header line and a
line per change, each a CRC-32 of the JSON object that follows it. A line that was not wholly synced
was not followed by its change.
"""

import errno
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from kvmtest.disk import sync
from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.changes.lock import own_command, process_start
from kvmtest.host.tree import Tree

from .kinds import UNDO_KINDS, one_line

__all__ = [
    "BOOT_ID",
    "RECORD",
    "Entry",
    "Header",
    "JournalError",
    "Record",
    "RecordFile",
    "encode",
    "load",
    "parse",
    "settle",
]

RECORD = "/var/lib/kvmtest/journal"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
_FORMAT = 1


class JournalError(EnvironmentUnfit):
    """A host change could not be made or recorded, or the record can't be read."""


@dataclass(frozen=True, slots=True)
class Header:
    """Which run wrote the record: ``start`` in ticks since boot, ``time`` in UTC (ISO 8601)."""

    pid: int
    start: int | None
    boot_id: str | None
    time: str
    command: str
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: a sentence for people, and its undo as ``kind`` and ``arguments``."""

    sequence: int
    sentence: str
    kind: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What a record file holds; without a header it holds nothing."""

    header: Header | None = None
    entries: tuple[Entry, ...] = ()


def encode(line: Header | Entry) -> bytes:
    """Return ``line`` as it stands in the record file."""
    # Not dataclasses.asdict, which copies deeply and takes longer than the rest.
    body = json.dumps({name: getattr(line, name) for name in line.__match_args__}).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse(data: bytes) -> Record:
    """Read a record file's bytes; a torn end is ignored.

    Raises JournalError where a sound line follows a damaged one, or is not of this format. A line
    counts only with its newline.
    """
    lines = [_decode(line) for line in data.split(b"\n")[:-1]]
    sound = [line for line in lines if line is not None]
    if lines[: len(sound)] != sound:
        raise JournalError(f"line {lines.index(None) + 1} is damaged")
    if not sound:
        return Record()
    try:
        header = _header(sound[0])
        entries = tuple(_entry(line) for line in sound[1:])
    except (TypeError, KeyError, ValueError) as error:
        why = one_line(error)
        raise JournalError(f"a line is not as kvmtest writes it ({why})") from error
    if any(a.sequence >= b.sequence for a, b in pairwise(entries)):
        raise JournalError("its lines are out of order")
    return Record(header, entries)


def _decode(line: bytes) -> Any:
    """Return the JSON value of ``line``, or None where its checksum does not hold."""
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"a line is not JSON ({error})") from error
    return {} if value is None else value


def _header(value: Any) -> Header:
    header = Header(**value)
    if header.format != _FORMAT:
        raise JournalError(
            f"it has format {header.format}; restore it with that version of kvmtest"
        )
    texts = (header.boot_id or "", header.time, header.command)
    if not isinstance(header.pid, int) or not all(isinstance(text, str) for text in texts):
        raise TypeError("header")
    return header


def _entry(value: Any) -> Entry:
    entry = Entry(**value)
    kind = UNDO_KINDS[entry.kind]
    arguments = dict(entry.arguments)
    if arguments.keys() != kind.arguments.keys():
        raise TypeError(f"arguments of {entry.kind}")
    if not all(is_sound(arguments[name]) for name, is_sound in kind.arguments.items()):
        raise TypeError(f"arguments of {entry.kind}")
    if not isinstance(entry.sequence, int) or not isinstance(entry.sentence, str):
        raise TypeError("entry")
    return entry


def load(tree: Tree) -> Record:
    """Read the machine's record, empty where there is none. Raises JournalError."""
    path = tree.path(RECORD)
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return Record()
    except OSError as error:
        raise JournalError(f"can't read {path}: {error.strerror}; run kvmtest as root") from error
    except JournalError as error:
        raise JournalError(
            f"{path}: {error}; undo by hand what its sentences say, then remove it"
        ) from error


def settle(tree: Tree, header: Header | None, remaining: Sequence[Entry]) -> None:
    """Keep in the record what could not be undone; remove it where nothing is left."""
    path = tree.path(RECORD)
    try:
        if header and remaining:
            new = path.with_name(f"{path.name}.new")
            new.write_bytes(encode(header) + b"".join(map(encode, remaining)))
            sync(new)
            new.replace(path)
        else:
            path.unlink()
        sync(path.parent)
    except FileNotFoundError:
        pass  # There was no record.
    except OSError as error:
        raise JournalError(
            f"can't change {path}: {error.strerror}; run `kvmtest restore` as root"
        ) from error


class RecordFile:
    """The record while it is written: made at the first entry, each entry synced."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._fd = -1
        self._size = 0
        self._sequence = 0

    @property
    def sequence(self) -> int:
        """The sequence number of the last entry, 0 before the first."""
        return self._sequence

    def add(self, sentence: str, kind: str, arguments: Mapping[str, Any]) -> int:
        """Write and sync an entry; return its sequence number. Raises JournalError."""
        if self._fd < 0 and self._sequence:
            self._resume()
        self._sequence += 1
        data = encode(Entry(self._sequence, sentence, kind, arguments))
        path = self._tree.path(RECORD)
        try:
            if not self._size:
                self._create(path, data)
            else:
                self._append(data)
        except OSError as error:
            raise JournalError(
                f"can't record a host change in {path}: {error.strerror}; run kvmtest as root, "
                "with room on that disk"
            ) from error
        return self._sequence

    def close(self) -> None:
        """Close the file; the next entry is appended to what the file holds by then.

        In between entries may be undone, and the file rewritten.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _resume(self) -> None:
        """Open the file again; its end may have been torn. Raises JournalError."""
        self._size = 0
        record = load(self._tree)
        if record.header is None:
            return  # Everything was undone, and the next entry makes a new file.
        path = self._tree.path(RECORD)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"can't write {path}: {error.strerror}; run as root") from error
        self._size = len(encode(record.header)) + sum(len(encode(e)) for e in record.entries)

    def _create(self, path: Path, data: bytes) -> None:
        """Make the record of a header and a first entry, and sync it and its directories."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pid = os.getpid()
        boot_id = self._tree.read(BOOT_ID)
        header = Header(pid, process_start(pid), boot_id, stamp, own_command())
        for parent in reversed([p for p in path.parents if not p.exists()]):
            parent.mkdir()
            sync(parent.parent)
        # Truncated, as an interrupted attempt may be there, whose change was never made.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self.close()
        self._fd = os.open(path, flags, 0o644)
        sync(path.parent)
        self._append(encode(header) + data)

    def _append(self, data: bytes) -> None:
        # Cut off what an earlier, failed or interrupted attempt left: its change was never made.
        os.ftruncate(self._fd, self._size)
        written = os.write(self._fd, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._fd)
        self._size += written
