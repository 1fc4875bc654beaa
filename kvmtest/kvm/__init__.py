r"""/dev/kvm
========

The kernel's KVM interface (Documentation/virt/kvm/api.rst): System → VM → vCPU, typed exits, errors
that say what to do. A whole program::

    from kvmtest._native import lib
    from kvmtest.kvm import IoExit, System

    with System() as system, system.create_vm() as vm:
        memory = vm.add_memory(0x1000)
        memory.write(0, bytes([0xE6, 0x10, 0xF4]))        # out %al, $0x10; hlt
        vcpu = vm.create_vcpu()
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        regs = vcpu.get_regs()
        regs.rip, regs.rflags = 0, 0x202
        vcpu.set_regs(regs)
        assert vcpu.run(timeout=0.1) == IoExit(0x10, True, 1, 1, b"\0")
"""

from .cpuid import Cpuid, CpuidEntry
from .errors import CapabilityMissing, KvmError, KvmUnavailable, MsrRefused
from .exits import *  # noqa: F403 - the table of exits is its module's __all__
from .exits import __all__ as _exits
from .memory import Memory
from .stats import Statistic, Stats
from .system import CAPABILITIES, System
from .vcpu import Loop, Vcpu
from .vm import Vm

__all__ = [
    "CAPABILITIES",
    "CapabilityMissing",
    "Cpuid",
    "CpuidEntry",
    "KvmError",
    "KvmUnavailable",
    "Loop",
    "Memory",
    "MsrRefused",
    "Statistic",
    "Stats",
    "System",
    "Vcpu",
    "Vm",
    *_exits,
]
