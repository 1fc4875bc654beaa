"""ioctl
=====

The one place where a KVM ioctl is made.
"""

from typing import Any

from kvmtest._native import ffi, lib

from .errors import KvmError

__all__ = ["ioctl"]


def ioctl(fd: int, name: str, argument: Any = 0, on: str = "") -> int:
    """Make the ioctl ``name`` (e.g. "KVM_GET_REGS") with an integer or pointer; return its result.

    Raises :class:`KvmError`, which names the ioctl and, if given, what it was made ``on``.
    """
    if isinstance(argument, int):
        argument = ffi.cast("void *", argument)
    result: int = lib.ioctl(fd, getattr(lib, name), argument)
    if result < 0:
        raise KvmError(name, ffi.errno, on)
    return result
