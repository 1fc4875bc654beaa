"""Files that a user names
=======================

Reading a file argument: a regular file of a bounded size. Reading a device or a FIFO might never
end, and merely opening some of them changes the machine (/dev/watchdog).
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

__all__ = ["MIB", "opened", "read"]

MIB = 1 << 20

_KINDS = {
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


@contextmanager
def opened(path: Path, most: int) -> Iterator[FileIO]:
    """Yield a regular file of at most ``most`` bytes, open for reading; raises as ``read``."""
    _check(path.stat(), most)
    # The path may name another file by now: a FIFO without a writer would block a plain open, and
    # some files of tracefs and procfs a plain read.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with FileIO(fd) as file:
        _check(os.fstat(fd), most)
        yield file


def read(path: Path, most: int) -> bytes:
    """Return the contents of a regular file of at most ``most`` bytes.

    Raises OSError; for another kind of file its ``strerror`` says which.
    """
    content = bytearray()
    with opened(path, most) as file:
        # Files of procfs and sysfs report no size, and some have no end.
        while chunk := file.read(MIB):
            content += chunk
            if len(content) > most:
                raise _too_large(most)
        if chunk is None:
            raise OSError(errno.EAGAIN, "this file has nothing to read yet")
    return bytes(content)


def _check(status: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"this is {kind}, not a file")
    if status.st_size > most:
        raise _too_large(most)


def _too_large(most: int) -> OSError:
    return OSError(errno.EFBIG, f"this has more than {most / MIB:g} MiB")
