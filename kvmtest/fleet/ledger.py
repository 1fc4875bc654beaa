"""Ledgers
=======

What a lane did, in a file that outlives the process: a line of JSON for each step before it begins,
and one when it has ended, each written and synced before anything else happens.

    {"at": 1764480000.1, "boot": "6.12"}
    {"at": 1764480090.7, "ended": "done"}
    {"at": 1764480090.7, "run": ["6.12", 1, 0]}
    {"at": 1764480208.3, "ended": "done", "status": 1}
    {"at": 1764480208.3, "run": ["6.12", 2, 0]}
    {"at": 1764480310.2, "ended": "lost", "why": "no answer for 900 s"}
    {"at": 1764480310.2, "restore": true}
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kvmtest import named_file
from kvmtest.disk import sync
from kvmtest.errors import EnvironmentUnfit

from .course import Boot, Ended, Ending, Fact, Restore, Resumed, Run

__all__ = ["LEDGER", "Entry", "Ledger", "entries"]

LEDGER = "ledger.jsonl"
#: The most bytes read of a ledger: an entry has about 100.
_MOST = 64 * named_file.MIB
_LONGEST_WHY = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a ledger; ``at`` is in seconds since the epoch."""

    at: float
    fact: Fact

    @property
    def line(self) -> bytes:
        """The line in the file."""
        return json.dumps({"at": round(self.at, 3), **_written(self.fact)}).encode() + b"\n"


def _written(fact: Fact) -> dict[str, Any]:
    match fact:
        case Boot(kernel):
            return {"boot": kernel}
        case Run(kernel, number, attempt):
            return {"run": [kernel, number, attempt]}
        case Restore():
            return {"restore": True}
        case Resumed():
            return {"resumed": True}
        case Ended(ending, why, status):
            said: dict[str, Any] = {"why": why[:_LONGEST_WHY]} if why else {}
            return {"ended": ending, **said, **({"status": status} if status else {})}


def _read(data: Any) -> Entry:
    """Return the entry of a line; raises ValueError, TypeError, LookupError."""
    at = float(data["at"])
    match data:
        case {"boot": str(kernel)}:
            return Entry(at, Boot(kernel))
        case {"run": [str(kernel), int(number), int(attempt)]}:
            return Entry(at, Run(kernel, number, attempt))
        case {"restore": True}:
            return Entry(at, Restore())
        case {"resumed": True}:
            return Entry(at, Resumed())
        case {"ended": str(ending)}:
            ended = Ended(Ending(ending), str(data.get("why", "")), int(data.get("status", 0)))
            return Entry(at, ended)
    raise ValueError("no entry of a ledger")


def entries(path: Path) -> list[Entry]:
    """Return the entries of a ledger, none without a file; raises EnvironmentUnfit.

    A line that was cut short is left out: its writer was killed before what it announces.
    """
    try:
        *lines, _ = named_file.read(path, _MOST).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EnvironmentUnfit(f"can't read {path}: {error.strerror}; see what it is") from None
    return [_parsed(line, number, path) for number, line in enumerate(lines, 1)]


def _parsed(line: bytes, number: int, path: Path) -> Entry:
    try:
        return _read(json.loads(line))
    except (ValueError, TypeError, LookupError, RecursionError):
        raise EnvironmentUnfit(
            f"{path}:{number}: this is no entry of a ledger; remove the line if it was changed"
        ) from None


class Ledger:
    """A ledger that is written; what was there stays."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create it; raises EnvironmentUnfit."""
        self._path = path
        self._clock = clock
        self.entries: Sequence[Entry] = entries(path)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            # What was cut short is no line's beginning.
            os.ftruncate(self._fd, sum(map(len, _whole(path))))
            os.lseek(self._fd, 0, os.SEEK_END)
            sync(path.parent)
        except OSError as error:
            raise self._unwritten(error) from None

    def write(self, fact: Fact) -> None:
        """Write and sync an entry; raises EnvironmentUnfit if that fails."""
        line = Entry(self._clock(), fact).line
        try:
            while line:
                line = line[os.write(self._fd, line) :]
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._unwritten(error) from None

    def _unwritten(self, error: OSError) -> EnvironmentUnfit:
        return EnvironmentUnfit(f"can't write {self._path}: {error.strerror}; free some space")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _whole(path: Path) -> list[bytes]:
    """Return the lines that end."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
