"""SMIs by the free space of efivarfs
==================================

statfs(2) on efivarfs asks the firmware how much room its variables have (fs/efivarfs/super.c).
QueryVariableInfo enters SMM even where reads of variables are answered from a copy (EDK2,
VariableSmmRuntimeDxe.c). Gentle: nothing is written, any user may ask, and it works under lockdown.

Before Linux kernel commit d86ff3333cb1 ("efivarfs: expose used and total size") (in v6.7), the
kernel answered without the firmware: no SMI comes then, which the count shows.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmtest.errors import KvmtestError
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.smi.source import Fire, Triggered, opened_file
from kvmtest.smi.sources.efivarfs import EFIVARS, LONGEST_S, variables

__all__ = ["find"]

#: Some kernels (6.12.117, say) ask the firmware at most five times in 2 s, and else repeat the last
#: answer. This is a little slower, as the sixth question must come after the 2 s.
FASTEST_HZ = 2.4


def find(machine: Machine, _: str) -> Triggered | Missing:
    """Return the source, or what is missing."""
    found = variables(machine.tree)
    if isinstance(found, Missing):
        return found
    place = machine.tree.path(EFIVARS)

    @contextmanager
    def opened() -> Iterator[Fire]:
        with opened_file(place, os.O_RDONLY | os.O_DIRECTORY) as fd:
            yield lambda: _ask(fd, place)

    return Triggered(
        "efivarfs-statfs",
        "asks for the free space of efivarfs, which the kernel passes on to the firmware at most "
        "5 times in 2 s",
        "nothing",
        fastest_hz=FASTEST_HZ,
        longest_s=LONGEST_S,
        opened=opened,
    )


def _ask(fd: int, place: Path) -> None:
    try:
        os.fstatvfs(fd)
    except OSError as error:
        raise KvmtestError(
            f"can't ask for the free space of {place}: {error.strerror}; use another SMI source"
        ) from error
