"""Mapped memory
=============

Memory shared with KVM: a guest's, or a vCPU's struct kvm_run.
"""

import os
from typing import Any

from kvmtest._native import ffi, lib

__all__ = ["MappedMemory"]

CHARS = ffi.typeof("char *")


class MappedMemory:
    """``size`` bytes of private anonymous memory, or of a descriptor; raises OSError.

    ``pointer`` is their address; slices of ``buffer`` never reach beyond them. Both are valid until
    :meth:`close`. :mod:`mmap` would keep a second descriptor open, and make three system calls
    before each VM's first exit.
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
