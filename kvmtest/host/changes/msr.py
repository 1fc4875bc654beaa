"""Writing MSRs
============

Writes an MSR of one CPU through /dev/cpu/N/msr (arch/x86/kernel/msr.c), past the journal: nothing
undoes it. Only the lab's source of SMIs does so, with MSRs of an emulated machine that ends with
the run. The kernel taints itself when userspace writes an MSR.
"""

import errno
import os

from kvmtest.host.facts.msr import MsrError, device
from kvmtest.host.tree import Tree

__all__ = ["write_msr"]


def write_msr(tree: Tree, index: int, cpu: int, value: int) -> None:
    """Write the 64 bits ``value`` into MSR ``index`` of ``cpu``. Raises MsrError."""
    try:
        fd = os.open(tree.path(device(cpu)), os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.pwrite(fd, value.to_bytes(8, "little"), index)
        finally:
            os.close(fd)
    except OSError as error:
        raise MsrError("write", cpu, index, error.errno or 0) from error
    if written != 8:
        raise MsrError("write", cpu, index, errno.EIO)
