"""ioctl
=====

The one place where a KVM ioctl is made.
"""

import errno
from typing import Any

from kvmtest._native import ffi, lib

from .errors import KvmError

__all__ = ["ioctl"]

POINTER = ffi.typeof("void *")


def ioctl(fd: int, name: str, argument: Any = 0, on: str = "") -> int:
    """Make the ioctl ``name`` (e.g. "KVM_GET_REGS") with an integer or pointer; return its result.

    After EINTR it is made again, except KVM_RUN: KVM_CREATE_VM gives up on any signal, and the
    timer of an earlier run's deadline may still be armed. Raises :class:`KvmError`, which names the
    ioctl and, if given, what it was made ``on``.
    """
    if isinstance(argument, int):
        argument = ffi.cast(POINTER, argument)
    request = getattr(lib, name)
    while True:
        result: int = lib.kvm_ioctl(fd, request, argument)
        if result >= 0:
            return result
        if ffi.errno != errno.EINTR or name == "KVM_RUN":
            raise KvmError(name, ffi.errno, on)
