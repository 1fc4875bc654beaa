"""Hosts of a fleet
================

What a fleet asks of a host, whether it is reached by SSH, by labgrid, or is a machine of the lab:
boot a kernel, run jobs on it, be left as it was found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from kvmtest.target import Target, TargetFailed

__all__ = ["Host", "HostLost", "KernelKind", "PlannedKernel", "WrongKernel"]


class KernelKind(StrEnum):
    """Where a kernel of a plan comes from."""

    OWN = "own"
    """The one that the host boots by default; in the lab, the lab's default."""

    DEBIAN = "debian"
    """A version or release in Debian's archive."""

    DEB = "deb"
    """.deb files."""

    TREE = "tree"
    """A build tree of the kernel's source."""


@dataclass(frozen=True, slots=True)
class PlannedKernel:
    """A kernel that a plan names, not yet found on any host."""

    name: str
    """Its name in the plan; it names a folder of the results."""

    kind: KernelKind = KernelKind.OWN
    version: str = ""
    """As Debian's archive names it, of a kernel from there."""

    paths: Sequence[Path] = ()
    """The .deb files, or the build tree."""


class HostLost(TargetFailed):
    """A host does not answer, or did not come back; nothing more is to be had of it."""


class WrongKernel(TargetFailed):
    """A host came back, with another kernel than the one it was to boot."""


class Host(Protocol):
    """A machine that boots kernels and runs jobs, one at a time.

    All calls may be made again by another process after this one was killed: ``boot`` of a kernel
    that runs already boots nothing, and a job with the ``id`` of one that the host has is taken up.
    """

    @property
    def name(self) -> str:
        """Its name in the plan."""

    def boot(self, kernel: PlannedKernel, deadline: float) -> Target:
        """Boot a kernel, within ``deadline`` seconds; return the target that runs jobs on it.

        Raises HostLost, WrongKernel, and EnvironmentUnfit where the host can't have that kernel.
        """

    def restore(self, deadline: float) -> None:
        """Undo what a run left, return to the default kernel, remove what was brought here.

        Safe to call at any time, and again. Raises HostLost where that can't be seen to be done.
        """
