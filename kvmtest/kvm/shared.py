"""Shared memory
=============

Memory that is shared with KVM: a guest's, or that of a vCPU's descriptor.
"""

import os
from typing import Any

from kvmtest._native import ffi, lib

__all__ = ["SharedMemory"]

CHARS = ffi.typeof("char *")


class SharedMemory:
    """``size`` bytes of private anonymous memory, or of a descriptor; raises OSError.

    ``pointer`` is where they are, ``buffer`` the same as an object whose slices never reach beyond
    them. Both are good until :meth:`close`. Not :mod:`mmap`, which keeps a second descriptor open
    and takes three system calls, on the way to each VM's first exit.
    """

    def __init__(self, size: int, fd: int = -1) -> None:
        address = lib.kvm_mmap(fd, size)
        if address == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self.size = size
        self.pointer: Any = ffi.cast(CHARS, address)
        self.buffer: Any = ffi.buffer(address, size)

    def close(self) -> None:
        """Unmap it."""
        if self.size:
            lib.kvm_munmap(self.pointer, self.size)
        self.size = 0
        self.pointer, self.buffer = ffi.NULL, b""
