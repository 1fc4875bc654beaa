"""The channel
===========

What a machine sends on its parallel port: lines of text, and messages, each a line of JSON behind
the ASCII record separator (RFC 7464). The message "file" announces that many raw bytes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Channel", "Line", "Message", "ReceivedFile"]

_SEPARATOR = b"\x1e"

_LONGEST_LINE = 1 << 20
"""In bytes; a longer line comes in pieces, to bound what is held back."""

_LARGEST_FILE = 1 << 30


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the agent's, by its fields."""

    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file."""

    name: str
    data: bytes


class Channel:
    """Takes bytes in pieces of any size; gives each event when it is complete."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._searched = 0  # Its first bytes, known to hold no end of a line.
        self._file: tuple[str, int] | None = None

    def feed(self, data: bytes) -> Iterator[Line | Message | ReceivedFile]:
        """Take more bytes; yield the events that they complete."""
        self._pending += data
        at = 0
        try:
            while step := self._next(at):
                event, at = step
                if event is not None:
                    yield event
        finally:
            # Once, not after each event: a flood of short lines would be copied as often.
            del self._pending[:at]

    def _next(self, at: int) -> tuple[Line | Message | ReceivedFile | None, int] | None:
        """Return the event at ``at`` and where it ends; None where it is not complete.

        The announcement of a file is no event, and comes as None with its end.
        """
        pending = self._pending
        if self._file is not None:
            name, size = self._file
            if len(pending) - at < size:
                return None
            self._file = None
            return ReceivedFile(name, bytes(pending[at : at + size])), at + size
        end = pending.find(b"\n", at + self._searched, at + _LONGEST_LINE)
        if end < 0:
            self._searched = min(len(pending) - at, _LONGEST_LINE)
            if self._searched < _LONGEST_LINE:
                return None
            self._searched = 0
            return _line(pending[at : at + _LONGEST_LINE]), at + _LONGEST_LINE
        self._searched = 0
        # Text that was printed without a newline stands before a message on the same line.
        text, separator, json_text = pending[at:end].rpartition(_SEPARATOR)
        message = _message(json_text) if separator else None
        if message is None:
            return _line(pending[at:end]), end + 1
        if text:
            return _line(text), at + len(text)
        if _is_file(message):
            self._file = message["file"], message["size"]
            return None, end + 1
        return Message(message), end + 1


def _line(line: bytearray) -> Line:
    return Line(line.decode(errors="replace").rstrip("\r"))


def _message(text: bytearray) -> dict[str, Any] | None:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _is_file(message: dict[str, Any]) -> bool:
    """Tell whether a message announces a file, under a name without a folder."""
    name, size = message.get("file"), message.get("size")
    if not isinstance(name, str) or type(size) is not int or not 0 <= size <= _LARGEST_FILE:
        return False
    return name.isprintable() and name not in ("", ".", "..") and "/" not in name
