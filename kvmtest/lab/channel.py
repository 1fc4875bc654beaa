"""The channel
===========

What a machine says on its parallel port: lines of text, and messages, each a line of JSON behind
the ASCII record separator (RFC 7464). The message "file" announces that many raw bytes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Channel", "Received", "Said", "Told"]

_SEPARATOR = b"\x1e"

_LONGEST_LINE = 1 << 20
"""In bytes; a longer one comes in pieces, as what is held back must have an end."""

_LARGEST_FILE = 1 << 30


@dataclass(frozen=True, slots=True)
class Said:
    """A line of text."""

    line: str


@dataclass(frozen=True, slots=True)
class Told:
    """A message of the agent's."""

    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """A file."""

    name: str
    data: bytes


class Channel:
    """Takes bytes as they come, and gives what is complete."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._searched = 0  # So much of it is known to have no end of a line.
        self._file: tuple[str, int] | None = None

    def feed(self, data: bytes) -> Iterator[Said | Told | Received]:
        """Take more bytes; yield what they complete."""
        self._pending += data
        at = 0
        try:
            while step := self._next(at):
                event, at = step
                if event is not None:
                    yield event
        finally:
            # Not after each event: a flood of short lines would be copied as often.
            del self._pending[:at]

    def _next(self, at: int) -> tuple[Said | Told | Received | None, int] | None:
        """Return what comes next from ``at`` on, and where it ends; None where it is not whole.

        What announces a file is no event of its own.
        """
        pending = self._pending
        if self._file is not None:
            name, size = self._file
            if len(pending) - at < size:
                return None
            self._file = None
            return Received(name, bytes(pending[at : at + size])), at + size
        end = pending.find(b"\n", at + self._searched, at + _LONGEST_LINE)
        if end < 0:
            self._searched = min(len(pending) - at, _LONGEST_LINE)
            if self._searched < _LONGEST_LINE:
                return None
            self._searched = 0
            return _said(pending[at : at + _LONGEST_LINE]), at + _LONGEST_LINE
        self._searched = 0
        # What was printed without a newline at its end stands before a message on the same line.
        text, separator, json_text = pending[at:end].rpartition(_SEPARATOR)
        message = _message(json_text) if separator else None
        if message is None:
            return _said(pending[at:end]), end + 1
        if text:
            return _said(text), at + len(text)
        if _is_file(message):
            self._file = message["file"], message["size"]
            return None, end + 1
        return Told(message), end + 1


def _said(line: bytearray) -> Said:
    return Said(line.decode(errors="replace").rstrip("\r"))


def _message(text: bytearray) -> dict[str, Any] | None:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _is_file(message: dict[str, Any]) -> bool:
    """Tell whether a message announces a file, by a name that is safe to give one."""
    name, size = message.get("file"), message.get("size")
    if not isinstance(name, str) or type(size) is not int or not 0 <= size <= _LARGEST_FILE:
        return False
    return name.isprintable() and name not in ("", ".", "..") and "/" not in name
