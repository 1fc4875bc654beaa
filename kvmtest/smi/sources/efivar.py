"""SMIs by reading a UEFI variable
===============================

Where the firmware keeps its variables in SMM alone, each read by efivarfs (fs/efivarfs/file.c) asks
for the size and then for the value, an SMI each. Gentle: nothing is written, and it works under
lockdown. Today's firmware mostly answers reads from a copy (EDK2's variable runtime cache, since
2019) and raises no SMI, which the count shows.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmtest.errors import KvmtestError
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi.source import Fire, Triggered, opened_file
from kvmtest.smi.sources.efivarfs import EFIVARS, GLOBAL, LONGEST_S, variables

__all__ = ["find"]

# Short ones that nearly every firmware has.
_FAVOURITES = tuple(f"{name}-{GLOBAL}" for name in ("BootOrder", "BootCurrent", "SecureBoot"))


def find(machine: Machine, variable: str) -> Triggered | Missing:
    """Return the source that reads ``variable`` (NAME-GUID; "" for any), or what is missing."""
    found = _variable(machine.tree, variable)
    if isinstance(found, Missing):
        return found

    @contextmanager
    def opened() -> Iterator[Fire]:
        with opened_file(found, os.O_RDONLY, "choose another") as fd:
            yield lambda: _read(fd, found)

    return Triggered(
        "efivar",
        f"reads the UEFI variable {found.name}",
        "nothing",
        fastest_hz=100,
        longest_s=LONGEST_S,
        opened=opened,
    )


def _variable(tree: Tree, wanted: str) -> Path | Missing:
    """Return the file of a variable that can be read."""
    there = variables(tree)
    if isinstance(there, Missing):
        return there
    if wanted and wanted not in there:
        return Missing(f"there is no UEFI variable {wanted}", f"choose one of {EFIVARS}")
    names = [wanted] if wanted else [*(n for n in _FAVOURITES if n in there), *there]
    for name in names:
        if os.access(there[name], os.R_OK, effective_ids=True):
            return there[name]
    return Missing(f"no permission to read {there[names[0]]}", "run as root")


def _read(fd: int, variable: Path) -> None:
    try:
        attributes = os.pread(fd, 4, 0)
    except OSError as error:
        raise KvmtestError(f"can't read {variable}: {error.strerror}; choose another") from error
    if not attributes:
        raise KvmtestError(f"{variable} is empty; choose another")
