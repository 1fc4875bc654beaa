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
        self._pending = b""
        self._file: tuple[str, int] | None = None

    def feed(self, data: bytes) -> Iterator[Said | Told | Received]:
        """Take more bytes; yield what they complete."""
        self._pending += data
        while (event := self._next()) is not None:
            yield event

    def _next(self) -> Said | Told | Received | None:
        if self._file is not None:
            name, size = self._file
            if len(self._pending) < size:
                return None
            data, self._pending, self._file = self._pending[:size], self._pending[size:], None
            return Received(name, data)
        line, newline, rest = self._pending.partition(b"\n")
        if not newline:
            return None
        # What was printed without a newline at its end stands before a message on the same line.
        text, separator, json_text = line.rpartition(_SEPARATOR)
        message = _message(json_text) if separator else None
        if message is None:
            self._pending = rest
            return _said(line)
        if text:
            self._pending = self._pending[len(text) :]
            return _said(text)
        self._pending = rest
        if _is_file(message):
            self._file = message["file"], message["size"]
            return self._next()
        return Told(message)


def _said(line: bytes) -> Said:
    return Said(line.decode(errors="replace").rstrip("\r"))


def _message(text: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _is_file(message: dict[str, Any]) -> bool:
    """Tell whether a message announces a file, by a name that is safe to give one."""
    name, size = message.get("file"), message.get("size")
    if not isinstance(name, str) or type(size) is not int or size < 0:
        return False
    return name.isprintable() and name not in ("", ".", "..") and "/" not in name
