"""The file system of UEFI variables
=================================

Where the sources that work through UEFI variables find them, or why there are none.
"""

import os
from pathlib import Path

from kvmtest.host.facts.security import firmware_hidden
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["EFIVARS", "GLOBAL", "LONGEST_S", "variables", "writable"]

_EFI = "/sys/firmware/efi"
EFIVARS = f"{_EFI}/efivars"

#: If a firmware call takes longer the machine does not bear it. On a busy host the kernel's worker
#: that makes the call must wait for a CPU, too.
LONGEST_S = 0.2

#: The GUID of the specification's own variables (UEFI 2.10, 3.3).
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"


def variables(tree: Tree) -> dict[str, Path] | Missing:
    """Return the files of all variables by name, NAME-GUID, or why there are none."""
    if firmware_hidden(tree):
        what = "no UEFI variables are visible: /sys/firmware is empty, as in a container"
        return Missing(what, "run outside the container")
    if not tree.exists(_EFI):
        return Missing("this system was not booted by UEFI, so there are no UEFI variables")
    there = {path.name: path for path in tree.glob(f"{EFIVARS}/*-*")}
    if not there:
        return Missing(
            "no UEFI variables are visible: efivarfs is not mounted or empty",
            f"mount -t efivarfs efivarfs {EFIVARS}",
        )
    return there


def writable(tree: Tree) -> Missing | None:
    """Return why no variable can be created here, or None."""
    found = variables(tree)
    if isinstance(found, Missing):
        return found
    if os.statvfs(tree.path(EFIVARS)).f_flag & os.ST_RDONLY:
        return Missing(
            "efivarfs is mounted read-only: by the administrator, or because the firmware has no "
            "SetVariable after boot",
            f"mount -o remount,rw {EFIVARS}",
        )
    if not os.access(tree.path(EFIVARS), os.W_OK, effective_ids=True):
        return Missing(f"no permission to make files in {EFIVARS}", "run as root")
    return None
