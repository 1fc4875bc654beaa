"""Bare Python
===========

The ioctls of kvmtest's calls alone: no deadline, stop flag, stamps or typed exits. This is the cost
of any Python program beyond C; the rest is kvmtest's own.
"""

import os
import time
from typing import Any

from kvmtest._native import ffi, lib
from kvmtest.guests import load

__all__ = ["time_create", "time_exits"]

NULL = ffi.NULL


def time_exits(fd: int, run: Any, count: int) -> int:
    """Return the nanoseconds that ``count`` doorbells of a vCPU take."""
    ioctl, number, port, io = lib.kvm_ioctl, lib.KVM_RUN, lib.GUEST_DOORBELL_PORT, lib.KVM_EXIT_IO
    begin = time.monotonic_ns()
    for _ in range(count):
        while ioctl(fd, number, NULL):
            pass  # EINTR: the deadline of another's run
        if run.exit_reason != io or run.io.port != port:
            raise AssertionError(run.exit_reason)
    return time.monotonic_ns() - begin


def time_create(system: int, mapping_size: int) -> int:
    """Return the nanoseconds from KVM_CREATE_VM to the first exit, as run.time_create does it."""
    begin = time.monotonic_ns()
    ioctl = lib.kvm_ioctl
    image = load("real")
    vm = ioctl(system, lib.KVM_CREATE_VM, NULL)
    memory = lib.kvm_mmap(-1, lib.GUEST_MEMORY_SIZE)
    region = ffi.new("struct kvm_userspace_memory_region *")
    region.memory_size = lib.GUEST_MEMORY_SIZE
    region.userspace_addr = int(ffi.cast("uintptr_t", memory))
    ioctl(vm, lib.KVM_SET_USER_MEMORY_REGION, region)
    ffi.memmove(memory + image.address, image.data, len(image.data))
    vcpu = ioctl(vm, lib.KVM_CREATE_VCPU, NULL)
    mapping = lib.kvm_mmap(vcpu, mapping_size)
    run = ffi.cast("struct kvm_run *", mapping)
    sregs = ffi.new("struct kvm_sregs *")
    ioctl(vcpu, lib.KVM_GET_SREGS, sregs)
    sregs.cs.base = sregs.cs.selector = 0  # the others are 0 since reset
    ioctl(vcpu, lib.KVM_SET_SREGS, sregs)
    regs = ffi.new("struct kvm_regs *")
    ioctl(vcpu, lib.KVM_GET_REGS, regs)
    regs.rip, regs.rsp, regs.rflags = image.symbols["start"], lib.GUEST_STACK, 0x202
    ioctl(vcpu, lib.KVM_SET_REGS, regs)
    while ioctl(vcpu, lib.KVM_RUN, NULL):
        pass
    took = time.monotonic_ns() - begin
    assert run.exit_reason == lib.KVM_EXIT_IO
    assert run.io.port == lib.GUEST_DONE_PORT
    lib.kvm_munmap(mapping, mapping_size)
    os.close(vcpu)
    os.close(vm)
    lib.kvm_munmap(memory, lib.GUEST_MEMORY_SIZE)
    return took
