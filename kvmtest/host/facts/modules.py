"""Kernel modules
==============

Where the running kernel has a module: loaded, built in, or listed in /lib/modules (modules.dep(5),
Documentation/kbuild/kbuild.rst).
"""

from enum import Enum, auto
from pathlib import PurePosixPath

from kvmtest.host.tree import Tree

__all__ = ["Place", "how_to_load", "whereabouts"]


class Place(Enum):
    """Where a kernel has a module."""

    LOADED = auto()
    BUILT_IN = auto()
    INSTALLED = auto()
    NOT_SHIPPED = auto()
    UNKNOWN = auto()


def whereabouts(tree: Tree, name: str) -> Place:
    """Return where the running kernel has the module ``name``; UNKNOWN without its lists."""
    # Only loaded modules have this file.
    if tree.exists(f"/sys/module/{name}/initstate"):
        return Place.LOADED
    if name in _listed(tree, "modules.builtin"):
        return Place.BUILT_IN
    installed = _listed(tree, "modules.dep")
    if name in installed:
        return Place.INSTALLED
    return Place.NOT_SHIPPED if installed else Place.UNKNOWN


def how_to_load(tree: Tree, name: str) -> str:
    """Return how to load module ``name``, which is installed."""
    if tree.read("/proc/sys/kernel/modules_disabled") == "1":
        return f"reboot, and modprobe {name} before kernel.modules_disabled is set"
    return f"modprobe {name}"


def _listed(tree: Tree, file: str) -> frozenset[str]:
    """Return the modules in a list below /lib/modules, named as the kernel does, with "_"."""
    text = tree.read(f"/lib/modules/{tree.read('/proc/sys/kernel/osrelease')}/{file}") or ""
    paths = (line.partition(":")[0] for line in text.splitlines())
    return frozenset(
        PurePosixPath(path).name.partition(".ko")[0].replace("-", "_") for path in paths
    )
