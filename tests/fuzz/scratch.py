"""A folder for parsers that take a path: in memory, gone with the process."""

import atexit
import os
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["scratch"]

_MEMORY = Path("/dev/shm")


@cache
def scratch(name: str) -> Path:
    """Return the folder of a harness, made at the first call."""
    where = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    folder = tempfile.TemporaryDirectory(prefix=f"kvmtest-fuzz-{name}-", dir=where)
    atexit.register(folder.cleanup)
    return Path(folder.name)
