"""Where a page's evidence comes from
==================================

What lies beside evidence.json and is no part of it: the kernel log, and the file itself.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from kvmtest import named_file
from kvmtest.evidence.file import MOST

__all__ = ["Source", "source"]

_LOG = "kernel.log"


class Source(NamedTuple):
    """The file that the evidence was read from: a link to it, its SHA-256 and the run's log."""

    link: str
    digest: str
    log: Sequence[str] = ()


def source(path: Path, page: Path) -> Source:
    """Return the source of a page: an evidence.json, which was read already.

    A log that is missing, unreadable or huge is left out.
    """
    link = os.path.relpath(path, page.parent)
    digest = hashlib.sha256(named_file.read(path, MOST)).hexdigest()
    try:
        log = named_file.read(path.with_name(_LOG), MOST).decode(errors="replace").splitlines()
    except OSError:
        log = []
    return Source(quote(os.fsencode(link)), digest, log)
