"""The lock of a fleet's folder
============================

One fleet command at a time works on a folder of results: an flock(2) that the processes of its
hosts inherit. It lasts until the last of them has put its host back, even where the command itself
was killed.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.changes.lock import Owner, own_command, process_start

__all__ = ["LOCK", "FolderLock", "holder"]

LOCK = "fleet.lock"

_TICK_S = 0.2
_MOST = 1 << 16


class FolderLock:
    """The lock, held until the end of the block and of all processes that were forked in it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: Path, patience: float, on_wait: Callable[[str], None]) -> "FolderLock":
        """Take the lock of a folder.

        Where the command that held it is dead, its hosts are being put back: waits ``patience``
        seconds at most, and says so by ``on_wait``. Raises EnvironmentUnfit.
        """
        path = folder / LOCK
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise EnvironmentUnfit(f"can't lock {folder}: {error.strerror}") from None
        try:
            _await(fd, path, patience, on_wait)
            owner = Owner(os.getpid(), process_start(os.getpid()), own_command())
            text = json.dumps(asdict(owner)).encode()
            os.ftruncate(fd, 0)
            os.pwrite(fd, text, 0)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not unlocked: a host's process that is left keeps it.
        os.close(self._fd)


def holder(folder: Path) -> str:
    """Return who works on a folder, in words; "" where nobody does."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        if _flock(fd, fcntl.LOCK_SH):
            return ""
        owner = _owner(fd)
    finally:
        os.close(fd)
    if owner and owner.is_alive:
        return f"pid {owner.pid} ({owner.command})"
    return "processes of a dead fleet command, which put their hosts back"


def _await(fd: int, path: Path, patience: float, on_wait: Callable[[str], None]) -> None:
    """Take the flock; raises EnvironmentUnfit where it is not free in time."""
    until = time.monotonic() + patience
    has_told = False
    while not _flock(fd, fcntl.LOCK_EX):
        owner = _owner(fd)
        if owner and owner.is_alive:
            who = f"pid {owner.pid} ({owner.command})"
            raise EnvironmentUnfit(
                f"{path.parent}: {who} works on it; wait for its end, or stop it"
            )
        if time.monotonic() >= until:
            raise EnvironmentUnfit(
                f"{path} is held by a process of a dead fleet command; find it with "
                f"`fuser {path}` and see what it waits for"
            )
        if not has_told:
            on_wait("a fleet command was killed: waiting until its hosts are put back")
            has_told = True
        time.sleep(_TICK_S)


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise EnvironmentUnfit(f"can't lock {LOCK}: {error.strerror}; use a local disk") from None
    return True


def _owner(fd: int) -> Owner | None:
    try:
        owner = Owner(**json.loads(os.pread(fd, _MOST, 0)))
    except (ValueError, TypeError, RecursionError):
        return None
    is_sound = isinstance(owner.pid, int) and owner.pid > 0 and isinstance(owner.start, int)
    return owner if is_sound else None
