"""The tracing file system
=======================

Where tracefs is, and why it takes no kprobes, or shows no tracepoints (Documentation/trace).
"""

import os

from kvmtest.host.facts.security import CONFIDENTIALITY, lockdown, without_lockdown
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["KPROBE_EVENTS", "TRACING", "why_no_kprobes", "why_no_tracepoints"]

TRACING = "/sys/kernel/tracing"
KPROBE_EVENTS = f"{TRACING}/kprobe_events"


def why_no_kprobes(tree: Tree) -> Missing | None:
    """Return why no kprobe can be placed, or None.

    Under lockdown=confidentiality tracefs can be mounted but has no files, or none that opens
    (tracefs_create_file, fs/tracefs/inode.c).
    """
    if lockdown(tree) == CONFIDENTIALITY:
        return Missing(
            "kernel lockdown (confidentiality) refuses kprobes and tracefs", without_lockdown(tree)
        )
    if tree.exists(KPROBE_EVENTS):
        return None
    what = f"{KPROBE_EVENTS} is not visible"
    mounted = any(line.split()[1:3] == [TRACING, "tracefs"] for line in _mounts(tree))
    try:
        is_empty = not any(tree.path(TRACING).iterdir())
    except OSError:
        return Missing(f"{what}: {TRACING} may not be read", "run as root")
    if mounted and is_empty:
        why = "tracefs is mounted and empty, as lockdown=confidentiality leaves it"
        return Missing(f"{what}: {why}", without_lockdown(tree))
    if mounted:
        return Missing(f"{what}: tracefs is without it", "boot a kernel with CONFIG_KPROBE_EVENTS")
    return Missing(
        f"{what}: tracefs is not mounted there",
        f"run as root after: mount -t tracefs nodev {TRACING}",
    )


def why_no_tracepoints(tree: Tree) -> Missing:
    """Return why this machine shows no tracepoints."""
    if lockdown(tree) == CONFIDENTIALITY:
        return Missing("kernel lockdown (confidentiality) hides tracefs", without_lockdown(tree))
    if os.geteuid():
        return Missing("tracefs is not readable, or not mounted", "run as root")
    return Missing("tracefs is not mounted", f"mount -t tracefs tracefs {TRACING}")


def _mounts(tree: Tree) -> list[str]:
    return (tree.read("/proc/mounts") or "").splitlines()
