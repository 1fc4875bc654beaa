"""Warnings from before the run
============================

What the kernel's taint tells of them (Documentation/admin-guide/tainted-kernels.rst), and the once
that WARN_ON_ONCE has: who warned before the run says nothing in it, unless debugfs's
clear_warn_once gives it its once back.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kvmtest.errors import KvmtestError
from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.security import LOCKDOWN_OFF, lockdown
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["CLEAR", "EarlierWarnings", "Taint", "give_onces_back", "read_taint", "troubles_gained"]

CLEAR = "/sys/kernel/debug/clear_warn_once"
"""Writing it gives WARN_ON_ONCE its once back everywhere (kernel/panic.c, lib/bug.c). WARN_ONCE,
which has words of its own, gets it back in the kernel's own image only: up to Linux 6.12 that of a
module is in the module's data, where nobody clears it. In arch/x86/kvm of 6.12 these are 28 of 319.
"""

_TAINTED = "/proc/sys/kernel/tainted"
_WARN = 9

# include/uapi/linux/mount.h and the generic table of system calls, the same on all architectures.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6


class Taint(NamedTuple):
    """One way in which a kernel is tainted: its letter in reports, and what happened."""

    letter: str
    what: str
    is_trouble: bool = False


# By bit. User space, modules and the machine taint too: trouble is what the kernel met itself.
_TAINTS = {
    0: Taint("P", "proprietary module"),
    1: Taint("F", "module loaded by force"),
    2: Taint("S", "CPU or configuration out of specification"),
    3: Taint("R", "module unloaded by force"),
    4: Taint("M", "machine check", is_trouble=True),
    5: Taint("B", "bad page, or a report of a memory error", is_trouble=True),
    6: Taint("U", "asked for by user space"),
    7: Taint("D", "oops or BUG", is_trouble=True),
    8: Taint("A", "ACPI table overridden"),
    _WARN: Taint("W", "WARN", is_trouble=True),
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


@dataclass(frozen=True, slots=True)
class EarlierWarnings:
    """What is known of warnings before the run.

    ``taint`` is the kernel's taint as the run began; ``not_given_back`` says why a WARN_ON_ONCE
    that fired before stays silent, None where all have their once again.
    """

    taint: int | Missing
    not_given_back: Missing | None

    @property
    def none_fired(self) -> bool:
        """Whether surely no WARN fired since boot."""
        return not isinstance(self.taint, Missing) and not self.taint >> _WARN & 1


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


def give_onces_back(tree: Tree, journal: Journal) -> EarlierWarnings:
    """Have every WARN_ON_ONCE that fired fire again, where the kernel lets one; never raises.

    Where debugfs is not mounted that is only tried where a WARN may have fired, by a mount that is
    in no directory.
    """
    known = EarlierWarnings(read_taint(tree), None)
    if tree.exists(CLEAR):
        refusal = _clear(journal, tree.path(CLEAR))
    elif known.none_fired:
        refusal = Missing("debugfs is not mounted, and no WARN fired since boot")
    elif not tree.is_live:
        refusal = Missing(f"{CLEAR} is absent", "mount -t debugfs debugfs /sys/kernel/debug")
    else:
        refusal = _clear_unmounted(journal)
    return EarlierWarnings(known.taint, refusal and _why(tree, refusal))


def _why(tree: Tree, refusal: Missing) -> Missing:
    """Return what keeps debugfs closed where that is known, else ``refusal``."""
    state = lockdown(tree)
    if isinstance(state, Missing) or state == LOCKDOWN_OFF:
        return refusal
    return Missing(f"kernel lockdown ({state}) keeps {CLEAR} closed")


def _clear(journal: Journal, path: Path) -> Missing | None:
    try:
        journal.fire(CLEAR, "1", path)
    except KvmtestError as error:
        return Missing(str(error), "run as root, without kernel lockdown")
    return None


def _clear_unmounted(journal: Journal) -> Missing | None:
    try:
        with _debugfs() as folder:
            return _clear(journal, folder / Path(CLEAR).name)
    except OSError as error:
        return Missing(
            f"debugfs is not mounted, and can't be: {error.strerror}",
            "run as root, on a kernel with CONFIG_DEBUG_FS and not debugfs=off",
        )


@contextmanager
def _debugfs() -> Iterator[Path]:
    """Give a debugfs that is mounted nowhere (fsmount(2), Linux 5.2). Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result: int = libc.syscall(number, *arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    context = call(_SYS_FSOPEN, b"debugfs", _FSOPEN_CLOEXEC)
    try:
        call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = call(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield Path(f"/proc/self/fd/{mount}")
    finally:
        os.close(mount)
