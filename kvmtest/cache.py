"""The cache
=========

What kvmtest has downloaded, unpacked and built, in folders named by the digest of what they were
made from. An entry is made under another name and then renamed: a killed run leaves no half of one.
Whenever an entry has been made, those that no process uses are removed, the one that was used
longest ago first, until what is left fits a limit.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kvmtest.disk import sync
from kvmtest.errors import EnvironmentUnfit

__all__ = ["LIMIT", "UNUSED_S", "Cache"]

#: The most bytes of entries that are kept, besides those in use.
LIMIT = 20 * 10**9
#: Seconds after its last use in which an entry is removed, however small the cache is.
UNUSED_S = 30 * 24 * 3600.0

_MAKING = ".making"
_LOCK = ".lock"
# Where mutants are compiled: not an entry, and its user removes it.
_WORK = "kvm-work"
# More entries than one process uses at a time.
_MOST_HELD = 128

# The entries that this process uses: a shared lock on each keeps other processes from removing it.
_held: OrderedDict[Path, int] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of entries, which all processes of this user share.

    Of ``limit`` bytes no more are used than half of what the disk has for it.
    """

    root: Path
    limit: int = LIMIT

    @classmethod
    def default(cls, environment: Mapping[str, str] = os.environ) -> "Cache":
        """Return $KVMTEST_CACHE, $XDG_CACHE_HOME/kvmtest or ~/.cache/kvmtest, in that order.

        Its limit is $KVMTEST_CACHE_GB, in 10^9 bytes. Raises EnvironmentUnfit where that is no
        number, or the user has no home.
        """
        limit = _limit(environment.get("KVMTEST_CACHE_GB"))
        own = environment.get("KVMTEST_CACHE")
        if own:
            return cls(Path(own).absolute(), limit)
        # The XDG Base Directory Specification says to ignore a relative path there.
        base = Path(environment.get("XDG_CACHE_HOME") or "")
        try:
            home = base if base.is_absolute() else Path.home() / ".cache"
            return cls(home / "kvmtest", limit)
        except RuntimeError as error:
            raise EnvironmentUnfit(
                f"there is no place for the cache ({error}); set KVMTEST_CACHE to a folder"
            ) from None

    def entry(self, kind: str, digest: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of an entry; call ``make`` to fill it where there is none yet.

        ``make`` gets an empty folder, which becomes the entry when it returns and is removed when
        it raises. Another process or thread that wants the same entry waits meanwhile. No process
        removes the entry while this one lives. Raises EnvironmentUnfit where the cache can't be
        written, and whatever ``make`` raises.
        """
        path = self.root / kind / digest
        if _hold(path):
            return path
        with self.lock(kind, digest) as path, _explained(path):
            if not path.is_dir():
                _remove_leftovers(path)
                _make(path, make)
            _hold(path)
        self.prune()
        return path

    def prune(self) -> None:
        """Remove entries until the rest fits the limit, and each that was not used for long."""
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        with contextlib.suppress(OSError):
            limit = min(self.limit, (shutil.disk_usage(self.root).free + total) // 2)
            for entry in entries:
                if total <= limit and time.time() - entry.used < UNUSED_S:
                    break
                if _remove(entry.path):
                    total -= entry.size

    def _entries(self) -> Iterator["_Entry"]:
        for path in self.root.glob("*/*"):
            if path.suffix != _MAKING and path.parent.name != _WORK:
                # It may go away meanwhile.
                with contextlib.suppress(OSError):
                    if path.is_dir():
                        yield _Entry(path, path.stat().st_mtime, _size(path))

    @contextmanager
    def lock(self, kind: str, name: str) -> Iterator[Path]:
        """Hold the lock of the entry ``name`` against all processes; give the entry's path.

        The kernel releases the lock (flock(2)) when the process ends.
        """
        path = self.root / kind / name
        with _explained(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = path.with_name(name + _LOCK)
            fd = _locked(lock, block=True)
        try:
            yield path
        finally:
            # A process that waits for this file finds it gone, and locks the new one (_locked).
            lock.unlink(missing_ok=True)
            os.close(fd)


class _Entry(NamedTuple):
    """An entry, when it was used last (seconds since the epoch), and its bytes on the disk."""

    path: Path
    used: float
    size: int


def _limit(gigabytes: str | None) -> int:
    try:
        limit = LIMIT if not gigabytes else int(float(gigabytes) * 10**9)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise EnvironmentUnfit(
            f"KVMTEST_CACHE_GB is {gigabytes!r}, which is no size; give a number of gigabytes"
        )
    return limit


def _size(path: Path) -> int:
    """Return how many bytes of the disk a folder takes: holes in a file take none."""
    files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_blocks * 512 for file in files)


def _hold(entry: Path) -> bool:
    """Keep other processes from removing an entry while this one lives; note that it is used.

    Returns False where there is none.
    """
    while True:
        try:
            fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        fcntl.flock(fd, fcntl.LOCK_SH)
        if _names(fd, entry):
            break
        os.close(fd)
    # Another user's cache can be used, too.
    with contextlib.suppress(OSError):
        os.utime(fd)
    if (old := _held.pop(entry, None)) is not None:
        os.close(old)
    _held[entry] = fd
    while len(_held) > _MOST_HELD:
        os.close(_held.popitem(last=False)[1])
    return True


def _remove(entry: Path) -> bool:
    """Remove an entry that no process uses or makes; tell whether it is gone."""
    making = entry.with_name(entry.name + _MAKING)
    lock = entry.with_name(entry.name + _LOCK)
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        opened.callback(os.close, _locked(lock, block=False))
        opened.callback(lock.unlink, missing_ok=True)
        fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Under this name a killed process leaves nothing that looks like an entry.
        entry.rename(making)
        shutil.rmtree(making, ignore_errors=True)
        return True
    return False


def _locked(lock: Path, *, block: bool) -> int:
    """Return a descriptor that holds the lock file ``lock``; raises BlockingIOError."""
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
            if _names(fd, lock):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _names(fd: int, path: Path) -> bool:
    """Tell whether ``path`` still names the open file ``fd``."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _make(path: Path, make: Callable[[Path], None]) -> None:
    """Make the entry ``path``; the caller holds its lock."""
    making = path.with_name(path.name + _MAKING)
    try:
        making.mkdir(mode=0o700)
        make(making)
        # Else a power cut could leave an entry of empty files under the final name.
        for folder, _, names in os.walk(making):
            for name in names:
                file = Path(folder, name)
                if not file.is_symlink():
                    sync(file)
        making.rename(path)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _remove_leftovers(entry: Path) -> None:
    """Remove the half-made entries of dead processes; the caller holds the lock of ``entry``.

    A living process holds the lock of the entry that it makes.
    """
    for making in entry.parent.glob(f"*{_MAKING}"):
        name = making.name.removesuffix(_MAKING)
        if name == entry.name:
            shutil.rmtree(making, ignore_errors=True)
            continue
        lock = making.with_name(name + _LOCK)
        try:
            fd = _locked(lock, block=False)
        except BlockingIOError:
            continue
        shutil.rmtree(making, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(fd)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a file system's error below the cache into one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise EnvironmentUnfit(
            f"can't make {path}: {error.strerror or error}; free space or give permission there, "
            "or set KVMTEST_CACHE to another folder"
        ) from error
