"""The kernel's taint
==================

What the kernel says has happened to it since boot (Documentation/admin-guide/tainted-kernels.rst).
"""

from collections.abc import Mapping
from typing import NamedTuple

from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["WARN", "Taint", "read_taint", "troubles_gained"]

_TAINTED = "/proc/sys/kernel/tainted"

WARN = 1 << 9
"""Set by the first WARN since boot."""


class Taint(NamedTuple):
    """One way in which a kernel is tainted: its letter in reports, and what happened."""

    letter: str
    what: str
    is_trouble: bool = False


# By bit. User space, modules and the machine taint too: trouble is what the kernel met itself.
_TAINTS: Mapping[int, Taint] = {
    0: Taint("P", "proprietary module"),
    1: Taint("F", "module loaded by force"),
    2: Taint("S", "CPU or configuration out of specification"),
    3: Taint("R", "module unloaded by force"),
    4: Taint("M", "machine check", is_trouble=True),
    5: Taint("B", "bad page, or a report of a memory error", is_trouble=True),
    6: Taint("U", "asked for by user space"),
    7: Taint("D", "oops or BUG", is_trouble=True),
    8: Taint("A", "ACPI table overridden"),
    9: Taint("W", "WARN", is_trouble=True),
    10: Taint("C", "staging driver"),
    11: Taint("I", "workaround for a bug in firmware"),
    12: Taint("O", "out-of-tree module"),
    13: Taint("E", "unsigned module"),
    14: Taint("L", "soft lockup", is_trouble=True),
    15: Taint("K", "live patch"),
    16: Taint("X", "the distribution's own"),
    17: Taint("T", "randomised structures"),
    18: Taint("N", "test in the kernel"),
    19: Taint("J", "firmware changed by user space"),
}


def read_taint(tree: Tree) -> int | Missing:
    """Return the kernel's taint, a bit for each way."""
    text = tree.read(_TAINTED)
    try:
        taint = int(text or "")
    except ValueError:
        taint = -1
    return taint if taint >= 0 else Missing(f"{_TAINTED} can't be read", "mount /proc")


def troubles_gained(before: int | Missing, after: int | Missing) -> list[str]:
    """Return the taints in ``after`` that are new since ``before``, and are trouble, in words."""
    if isinstance(before, Missing) or isinstance(after, Missing):
        return []
    gained = after & ~before
    taints = (taint for bit, taint in _TAINTS.items() if gained >> bit & 1)
    return [f"{taint.letter} ({taint.what})" for taint in taints if taint.is_trouble]
