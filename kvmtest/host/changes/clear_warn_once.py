"""Clearing what warned once
=========================

Lets every WARN_ON_ONCE fire again: one that fired before the run would stay silent in it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvmtest.errors import KvmtestError
from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.security import LOCKDOWN_OFF, lockdown
from kvmtest.host.facts.taint import WARN, read_taint
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["CLEAR", "EarlierWarnings", "clear_warn_once"]

CLEAR = "/sys/kernel/debug/clear_warn_once"
"""A write lets every WARN_ON_ONCE fire again (kernel/panic.c, lib/bug.c). For WARN_ONCE, which
prints a text of its own, it does so in the kernel image only: up to Linux 6.12 modules keep that
flag in their own data, which nothing clears. In arch/x86/kvm of 6.12 these are 28 of 319.
"""

# include/uapi/linux/mount.h and the generic table of system calls, the same on all architectures.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6


@dataclass(frozen=True, slots=True)
class EarlierWarnings:
    """What is known of warnings before the run.

    ``taint`` is the kernel's taint as the run began. ``not_cleared`` says why a WARN_ON_ONCE that
    fired before stays silent; None where all can fire again.
    """

    taint: int | Missing
    not_cleared: Missing | None

    @property
    def none_fired(self) -> bool:
        """Whether surely no WARN fired since boot."""
        return not isinstance(self.taint, Missing) and not self.taint & WARN


def clear_warn_once(tree: Tree, journal: Journal) -> EarlierWarnings:
    """Let every WARN_ON_ONCE fire again where the kernel permits that; never raises.

    Where debugfs is not mounted, and a WARN may have fired, this mounts it in no directory.
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
    """Yield a debugfs that is mounted in no directory (fsmount(2), Linux 5.2). Raises OSError."""
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
