"""Unpacking packages
==================

What .deb, .rpm and tar archives have in common: where a file of theirs may be put, and one error
for whatever is damaged.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import files

__all__ = ["drain", "inner_name", "place", "reading"]

# What names in a damaged package can do: too long, or a file where another needs a folder.
_OF_NAMES = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever reading the ``kind`` of package at ``path`` raises into EnvironmentUnfit.

    An OSError that is not the package's fault stays what it is.
    """
    try:
        yield
    except EnvironmentUnfit:
        raise
    except Exception as error:  # the libraries and the decompressors have errors of their own
        if isinstance(error, OSError) and error.errno not in (None, *_OF_NAMES):
            raise
        said = getattr(error, "strerror", None) or str(error)
        reason = " ".join(said.split()) or type(error).__name__
        raise EnvironmentUnfit(
            f"{path} is not a complete {kind} ({reason}); download it again"
        ) from None


def inner_name(name: str) -> PurePosixPath:
    """Return the name of a file in a package. Raises ValueError where it leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it holds {name!r}, a name that leads out of it")
    return path


def drain(stream: Any) -> None:
    """Read to the end, where the checksum of a compressed stream is."""
    while stream.read(files.MIB):
        pass


def place(stream: Any, size: int, into: Path, name: PurePosixPath, *, executable: bool) -> None:
    """Write ``size`` bytes of ``stream`` to the file ``name`` below ``into``.

    Raises ValueError where it is larger than any file of a kernel, or ends early.
    """
    if size > files.IMAGE:
        raise ValueError(f"{name} in it has {size >> 20} MiB")
    target = into / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(stream, file, files.MIB)
        if file.tell() != size:
            raise ValueError(f"{name} in it is cut off")
    target.chmod(0o755 if executable else 0o644)
