"""Bochs's log
===========

Why an emulator ended, from the files that it leaves in a machine's folder.
"""

import re
from pathlib import Path

from kvmtest.lab.emulators.emulator import text_of

__all__ = ["LOG", "last_words"]

#: The emulator's log in a machine's folder.
LOG = "bochs.log"


def last_words(folder: Path) -> str:
    """Return the last panic, or the last line that the emulator printed."""
    said = re.findall(r">>PANIC<< (.*)", text_of(folder / LOG))
    return (said or text_of(folder / "stderr").strip().splitlines() or [""])[-1]
