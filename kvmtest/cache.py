"""The cache
=========

What kvmtest has downloaded, unpacked and built, in folders named by the digest of what they were
made from. An entry is made under another name and then renamed: a killed run leaves no half of one.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit

__all__ = ["Cache"]

_MAKING = ".making"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of entries, which all processes of this user share."""

    root: Path

    @classmethod
    def default(cls, environment: Mapping[str, str] = os.environ) -> "Cache":
        """Return $KVMTEST_CACHE, $XDG_CACHE_HOME/kvmtest or ~/.cache/kvmtest, in that order.

        Raises EnvironmentUnfit where the user has no home.
        """
        own = environment.get("KVMTEST_CACHE")
        if own:
            return cls(Path(own).absolute())
        # The XDG Base Directory Specification says to ignore a relative path there.
        base = Path(environment.get("XDG_CACHE_HOME") or "")
        try:
            return cls((base if base.is_absolute() else Path.home() / ".cache") / "kvmtest")
        except RuntimeError as error:
            raise EnvironmentUnfit(
                f"there is no place for the cache ({error}); set KVMTEST_CACHE to a folder"
            ) from None

    def entry(self, kind: str, digest: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of an entry; call ``make`` to fill it where there is none yet.

        ``make`` gets an empty folder, which becomes the entry when it returns and is removed when
        it raises. Another process that wants the same entry waits meanwhile. Raises
        EnvironmentUnfit where the cache can't be written, and whatever ``make`` raises.
        """
        path = self.root / kind / digest
        if path.is_dir():
            return path
        with self.lock(kind, digest) as path, _explained(path):
            if not path.is_dir():
                _remove_leftovers(path)
                _make(path, make)
        return path

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
                _sync(Path(folder, name))
        making.rename(path)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
