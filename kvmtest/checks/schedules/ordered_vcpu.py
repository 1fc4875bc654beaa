"""A vCPU that runs to order
=========================

The child's side of a vCPU's process. An order is a letter, its answer what the KVM_RUN ended with.
"""

import socket
import struct
from typing import Any

from kvmtest.guests import guest_memory, long_guest
from kvmtest.kvm import Cpuid, Exit, FailEntryExit, HltExit, Memory, Signal, System, Vcpu, Vm

__all__ = ["EMULATE", "NEW", "REFUSE", "RUN", "STAY", "OrderedVcpu", "count_at", "described"]

#: The orders: make a new vCPU (answered by its page's address), enter and halt, enter and stay,
#: halt in emulated code, and make an entry that the CPU refuses, with the FS base that follows.
NEW, RUN, STAY, EMULATE, REFUSE = b"n", b"r", b"i", b"e", b"d"

# Unused pages of the guests' memory.
_CODE, _DATA, _RESET_CODE = 0x30000, 0x31000, 0x32000
# RBX points to the count; the byte after the count says whether to halt.
_LOOP = bytes.fromhex(
    "48ff03"  # inc qword [rbx]
    "807b0800"  # cmp byte [rbx + 8], 0
    "74f7"  # je, back to the inc
    "f4"  # hlt: exits to userspace, as no local APIC is in the kernel
    "ebf4"  # jmp, back to the inc
)
_HALT = b"\xf4"
_COUNT = struct.Struct("<Q")
#: VMs have many vCPUs one after the other, as a VM takes longer to make.
_VCPUS_PER_VM = 100
#: No process lasts so long: its timer, which the first run sets, would stop it in any run.
_NO_DEADLINE_S = 3600.0


class OrderedVcpu:
    """Serves orders on one vCPU after the other; ``serve`` is called in the child."""

    _system: System
    _cpuid: Cpuid
    _memory: Memory
    _vcpu: Vcpu
    # The state in the loop, one that the CPU refuses to enter, and one that KVM must emulate.
    _sregs: Any
    _regs: Any
    _bad_sregs: Any
    _reset_sregs: Any
    _reset_regs: Any

    def serve(self, orders: socket.socket) -> None:
        """Answer orders until the socket is closed."""
        with System() as system:
            self._system = system
            self._vm: Vm | None = None
            while order := orders.recv(16):
                orders.send(self._obey(order))

    def _obey(self, order: bytes) -> bytes:
        if order == NEW:
            return _COUNT.pack(self._make())
        if order == EMULATE:
            return self._emulated()
        if order.startswith(REFUSE):
            (fs_base,) = _COUNT.unpack(order[1:])
            return self._refused(fs_base)
        self._memory.write(_DATA + 8, b"\0" if order == STAY else b"\1")
        return described(self._vcpu.run(_NO_DEADLINE_S))

    def _make(self) -> int:
        """Make a new vCPU, in the loop's state; return the host's address of its count."""
        if self._vm is None or len(self._vm.vcpus) == _VCPUS_PER_VM:
            self._make_vm()
        self._vcpu.close()
        self._vcpu = self._new_vcpu()
        self._vcpu.set_sregs(self._sregs)
        self._vcpu.set_regs(self._regs)
        return self._memory.host_address + _DATA

    def _new_vcpu(self) -> Vcpu:
        assert self._vm is not None
        vcpu = self._vm.create_vcpu()
        vcpu.set_cpuid(self._cpuid)
        return vcpu

    def _make_vm(self) -> None:
        if self._vm is not None:
            self._vm.close()
        self._cpuid = self._system.get_supported_cpuid()
        self._vm = vm = self._system.create_vm()
        self._memory = guest_memory(vm)
        self._vcpu = vcpu = self._new_vcpu()
        self._reset_sregs, self._reset_regs = vcpu.get_sregs(), vcpu.get_regs()
        # In vm86 mode a segment's selector gives its base: KVM must emulate this one.
        self._reset_sregs.cs.base, self._reset_sregs.cs.selector = _RESET_CODE, 0
        self._reset_regs.rip = 0
        long_guest(vm, vcpu, self._memory)
        self._memory.write(_CODE, _LOOP)
        self._memory.write(_RESET_CODE, _HALT)
        self._sregs, self._regs = vcpu.get_sregs(), vcpu.get_regs()
        self._bad_sregs = vcpu.get_sregs()
        self._regs.rip, self._regs.rbx = _CODE, _DATA
        vcpu.set_regs(self._regs)
        # Since Linux kernel commit 931656b9e2ff ("kvm: defer huge page recovery vhost task to
        # later") (in v6.14), a VM's first KVM_RUN makes a task; a pending signal puts that off.
        self._memory.write(_DATA + 8, b"\1")
        vcpu.run(_NO_DEADLINE_S)

    def _emulated(self) -> bytes:
        self._vcpu.set_sregs(self._reset_sregs)
        self._vcpu.set_regs(self._reset_regs)
        end = self._vcpu.run(_NO_DEADLINE_S)
        self._vcpu.set_sregs(self._sregs)
        self._vcpu.set_regs(self._regs)
        return described(end)

    def _refused(self, fs_base: int) -> bytes:
        self._bad_sregs.fs.base = fs_base
        # So that the run ends even if the CPU accepts the entry.
        self._memory.write(_DATA + 8, b"\1")
        self._vcpu.set_sregs(self._bad_sregs)
        end = self._vcpu.run(_NO_DEADLINE_S)
        self._vcpu.set_sregs(self._sregs)
        return described(end)


def described(end: Exit) -> bytes:
    """Return the answer that tells an exit: halted, signal, refused, or the exit in words."""
    if isinstance(end, HltExit):
        return b"halted"
    if isinstance(end, Signal):
        return b"signal"
    if isinstance(end, FailEntryExit):
        return f"refused {end.hardware_entry_failure_reason:#x}".encode()
    return str(end).encode()


def count_at(memory: bytes) -> int:
    """Return the guest's count from the eight bytes that are at a new vCPU's address."""
    (count,) = _COUNT.unpack(memory)
    return int(count)
