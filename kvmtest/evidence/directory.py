"""Output directories
==================

The folder that ``-o`` names holds one run, never two.
"""

import errno
import os
from pathlib import Path

from kvmtest.errors import UsageError

__all__ = ["new_folder"]


def new_folder(path: Path) -> Path:
    """Create the folder, or take it if it is empty; raises UsageError otherwise."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = sorted(entry.name for entry in path.iterdir())
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UsageError(f"-o {path}: {error.strerror}; choose another folder") from None
    if held:
        what = "another run's files" if "evidence.json" in held else f"files ({held[0]})"
        raise UsageError(f"-o {path}: it holds {what}; choose a new folder, or empty this one")
    return path
