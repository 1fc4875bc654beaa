"""One run at a time
=================

The lock of a machine: an flock(2) on /run/lock/kvmtest.lock that dies with the last process that
holds it, so that a crash leaves no stale lock.
"""

import errno
import fcntl
import json
import os
import re
import select
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.facts.task import stat
from kvmtest.host.tree import Tree

__all__ = ["LOCK", "Lock", "LockHeld", "Owner", "own_command", "process_start"]

LOCK = "/run/lock/kvmtest.lock"

_MAX_PID = 1 << 22
"""PID_MAX_LIMIT (include/linux/threads.h)."""

# "1: FLOCK  ADVISORY  WRITE 1234 00:1a:17 0 EOF"; the pid is 0 where it is another namespace's.
_FLOCK = re.compile(r"\d+: FLOCK +\S+ +\S+ +(?P<pid>\d{1,10}) +\w+:\w+:(?P<inode>\d+) ", re.ASCII)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who took the lock, as its file says: the run, its start time in ticks, and its guardian."""

    pid: int
    start: int | None
    command: str
    guardian: int | None = None

    @property
    def is_alive(self) -> bool:
        """Tell whether the run itself still lives (its guardian may outlive it)."""
        return self.start is not None and process_start(self.pid) == self.start


class LockHeld(EnvironmentUnfit):
    """Another run holds the lock; ``pid`` is its process, or None where that is unknown."""

    def __init__(self, path: Path, owner: Owner | None) -> None:
        self.pid = owner.pid if owner else None
        super().__init__(_held_message(path, owner))


def _held_message(path: Path, owner: Owner | None) -> str:
    if owner is None:
        return f"another kvmtest run holds {path}; find it with `fuser {path}` and wait for its end"
    who = f"pid {owner.pid} ({owner.command})"
    if owner.is_alive:
        return f"another kvmtest run holds {path}: {who}; wait for it to end, or stop it"
    return (
        f"{path} is held for the dead run of {who}: its guardian is undoing its changes, or a "
        f"command that it started still runs; look with `fuser {path}` and wait for its end"
    )


def process_start(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot, or None where there is no such task.

    Together with the pid this names a task for good (proc(5), /proc/PID/stat, field 22). A zombie
    has ended and counts as no task. Tasks can't be stood in for: always the live /proc.
    """
    fields = stat(Tree(), f"/proc/{pid}")
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def own_command() -> str:
    """Return this process's command line as a person would type it."""
    return shlex.join(sys.orig_argv)


class Lock:
    """The machine's lock, held.

    The lock belongs to the open file description: each process that inherits ``fd`` holds it too.
    """

    def __init__(self, fd: int, owner: Owner) -> None:
        self.fd = fd
        self._owner = owner

    @classmethod
    def take(cls, tree: Tree, *, patience: float = 30.0) -> "Lock":
        """Take the lock of ``tree``'s machine.

        Waits up to ``patience`` seconds where the run that holds it is dead and its guardian still
        undoes. Raises LockHeld, or EnvironmentUnfit where the lock's file can't be opened.
        """
        path = tree.path(LOCK)
        fd = _open(path)
        try:
            if not _flock(fd, path):
                _await_guardian(_read_owner(fd), patience)
                if not _flock(fd, path):
                    raise LockHeld(path, _find_owner(fd, tree))
            owner = Owner(os.getpid(), process_start(os.getpid()), own_command())
            _write_owner(fd, owner)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, owner)

    def name_guardian(self, pid: int) -> None:
        """Record which process keeps the lock if this one dies."""
        self._owner = Owner(self._owner.pid, self._owner.start, self._owner.command, pid)
        _write_owner(self.fd, self._owner)

    def release(self) -> None:
        """Release the lock for all processes that share it; a second call does nothing."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        # Closing alone would leave it to a forked child that inherited the descriptor.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _open(path: Path) -> int:
    """Open the lock's file, to write where this user may, else to read: flock(2) asks no more."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    # Never O_CREAT on a file that is there: /run/lock is sticky and writable for all, where
    # fs.protected_regular refuses that even to root (Documentation/admin-guide/sysctl/fs.rst).
    make = os.O_RDWR | os.O_CREAT | os.O_EXCL
    attempts = (os.O_RDWR, os.O_RDONLY, make, os.O_RDWR, os.O_RDONLY)
    error: OSError | None = None  # The one that says most.
    for attempt in attempts:
        try:
            if attempt == make:
                path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, attempt | flags, 0o644)
        except FileExistsError:
            continue
        except FileNotFoundError as caught:
            error = error or caught
        except OSError as caught:
            error = caught
    reason = error.strerror if error else "it comes and goes"
    raise EnvironmentUnfit(f"can't open the lock {path}: {reason}; run kvmtest as root") from error


def _flock(fd: int, path: Path) -> bool:
    """Try to take the flock; tell whether this process has it now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise EnvironmentUnfit(
            f"can't lock {path}: {error.strerror}; mount a local file system there"
        ) from error
    return True


def _await_guardian(owner: Owner | None, patience: float) -> None:
    """Wait up to ``patience`` seconds for the end of a dead run's guardian."""
    if owner is None or owner.is_alive or owner.guardian is None:
        return
    try:
        pidfd = os.pidfd_open(owner.guardian)
    except OSError:
        return
    try:
        select.select([pidfd], [], [], patience)
    finally:
        os.close(pidfd)


def _write_owner(fd: int, owner: Owner) -> None:
    """Write ``owner`` into the lock's file if that is writable; the lock holds either way."""
    text = (json.dumps(asdict(owner)) + "\n").encode()
    try:
        os.pwrite(fd, text, 0)
        os.ftruncate(fd, len(text))
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOSPC):
            raise


def _read_owner(fd: int) -> Owner | None:
    """Return the owner that the lock's file names, or None."""
    try:
        owner = Owner(**json.loads(os.pread(fd, 1 << 16, 0)))
    except (ValueError, TypeError, RecursionError):
        return None
    # Anybody may have written the file: only pids that the kernel can have go into system calls.
    pids = (owner.pid, owner.guardian)
    is_sound = isinstance(owner.pid, int) and all(
        pid is None or (isinstance(pid, int) and 0 < pid <= _MAX_PID) for pid in pids
    )
    return owner if is_sound and isinstance(owner.start, int | None) else None


def _find_owner(fd: int, tree: Tree) -> Owner | None:
    """Return who holds the lock: the live run that its file names, else the one in /proc/locks.

    A user who may not write the file holds the lock without a name in it (proc_locks(5)).
    """
    named = _read_owner(fd)
    if named and named.is_alive:
        return named
    inode = str(os.fstat(fd).st_ino)
    for line in (tree.read("/proc/locks") or "").splitlines():
        match = _FLOCK.match(line)
        if match and match["inode"] == inode:
            return _owner_of(int(match["pid"])) or named
    return named


def _owner_of(pid: int) -> Owner | None:
    start = process_start(pid)
    if start is None:
        return None
    words = Tree().read_bytes(f"/proc/{pid}/cmdline") or b""
    command = shlex.join(os.fsdecode(words).rstrip("\0").split("\0"))
    return Owner(pid, start, command)
