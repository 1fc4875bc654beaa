"""Guest memory
============

Anonymous host memory behind a KVM memory slot, and for private memory a guest_memfd beside it.
"""

import os
from typing import Any

from kvmtest._native import ffi

from .mapped_memory import MappedMemory

__all__ = ["Memory"]

ADDRESS = ffi.typeof("uintptr_t")


class Memory:
    """``size`` bytes of guest-physical memory from ``guest_address`` on, zero at first.

    With a ``guest_memfd``, which is closed with the memory, a guest does not see what is written
    here while its pages are private: a TD's first content is copied from here.
    """

    def __init__(self, size: int, guest_address: int, guest_memfd: int = -1) -> None:
        self.size = size
        self.guest_address = guest_address
        self.guest_memfd = guest_memfd
        self._mapping = MappedMemory(size)
        self.host_address = int(ffi.cast(ADDRESS, self._mapping.pointer))

    def _offset(self, address: int, length: int) -> int:
        offset = address - self.guest_address
        if offset < 0 or length < 0 or offset + length > self.size:
            raise IndexError(f"guest memory has no {length} bytes at {address:#x}")
        return offset

    def host_address_of(self, address: int, length: int) -> int:
        """Return where ``length`` bytes from a guest-physical address are in this process.

        Raises IndexError outside the slot.
        """
        return self.host_address + self._offset(address, length)

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes from a guest-physical address; IndexError outside the slot."""
        offset = self._offset(address, length)
        return bytes(self._mapping.buffer[offset : offset + length])

    def write(self, address: int, data: bytes) -> None:
        """Write bytes at a guest-physical address; IndexError outside the slot."""
        offset = self._offset(address, len(data))
        self._mapping.buffer[offset : offset + len(data)] = data

    def struct(self, ctype: str, address: int) -> Any:
        """Return a pointer such as ``struct mailbox *`` to a guest-physical address.

        It is valid until the memory is closed.
        """
        pointer = ffi.cast(ctype, self._mapping.pointer + self._offset(address, 0))
        self._offset(address, ffi.sizeof(ffi.typeof(pointer).item))
        return pointer

    def close(self) -> None:
        """Unmap the memory; only after the VM is closed."""
        self.size = 0  # So that no address is inside.
        self._mapping.close()
        if self.guest_memfd >= 0:
            os.close(self.guest_memfd)
            self.guest_memfd = -1
