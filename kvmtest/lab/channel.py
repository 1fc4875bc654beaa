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
        self._pending = rest
        message = _message(line)
        if message is None:
            return Said(line.decode(errors="replace").rstrip("\r"))
        if isinstance(message.get("file"), str) and isinstance(message.get("size"), int):
            self._file = message["file"], message["size"]
            return self._next()
        return Told(message)


def _message(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(_SEPARATOR):
        return None
    try:
        message = json.loads(line[1:])
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
