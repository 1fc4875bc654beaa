"""KVM, as the traced processes have it: which descriptor is a TD's or its vCPU's.

What KVM documents for a TD is answered, or passed on to the machine's own KVM, where a plain VM
runs the TD's code; all else is refused. VMs of other types are left alone.
"""

import errno
import fcntl
from collections.abc import Collection
from pathlib import Path

from . import abi
from .abi import CpuidEntry
from .calls import Call, answering
from .host import Host
from .td import Td
from .vcpu import Vcpu
from .vm import IOCTL, MMAP, Vm, check_extension

CLOSE = 3


class Kvm:
    """``vms`` and ``vcpus`` are all TDs and their vCPUs that there were."""

    def __init__(self, host: Host, faults: Collection[str]) -> None:
        self._host = host
        self._faults = faults
        self._native = supported_cpuid()
        self.vms: list[Vm] = []
        self.vcpus: list[Vcpu] = []
        #: By process and descriptor.
        self._vms: dict[tuple[int, int], Vm] = {}
        self._vcpus: dict[tuple[int, int], Vcpu] = {}

    def enter(self, call: Call) -> bool:
        """Take a system call at its entry; False where it is none of KVM's affair."""
        if call.number == IOCTL:
            return self._ioctl(call)
        if call.number == MMAP:
            return self._mmap(call)
        if call.number == CLOSE:
            key = (call.process, call.arguments[0] & 0xFFFFFFFF)
            self._vms.pop(key, None)
            self._vcpus.pop(key, None)
        return False

    def executed(self, process: int) -> None:
        """Forget what was open before execve(2)."""
        self._vms = {key: vm for key, vm in self._vms.items() if key[0] != process}
        self._vcpus = {key: vcpu for key, vcpu in self._vcpus.items() if key[0] != process}

    def _ioctl(self, call: Call) -> bool:
        key = (call.process, call.arguments[0] & 0xFFFFFFFF)
        request = call.arguments[1] & 0xFFFFFFFF
        if key in self._vcpus:
            self._vcpus[key].ioctl(call)
        elif key in self._vms and request == abi.CREATE_VCPU:
            self._create_vcpu(call, self._vms[key])
        elif key in self._vms:
            self._vms[key].ioctl(call)
        elif request == abi.CREATE_VM and call.arguments[2] == abi.TDX_VM:
            call.arguments[2] = 0
            call.go_on(self._created_vm)
        elif request == abi.CHECK_EXTENSION:
            check_extension(call)
        else:
            return False
        return True

    def _created_vm(self, call: Call) -> None:
        if call.result >= 0:
            vm = Vm(Td(self._host.cpus, self._native, self._faults), call.result)
            self.vms.append(vm)
            self._vms[call.process, call.result] = vm
            vm.begin(call)
        call.answer(call.result)

    def _create_vcpu(self, call: Call, vm: Vm) -> None:
        number = call.arguments[2]

        def created(call: Call) -> None:
            assert call.result >= 0, f"the plain VM refused a vCPU: {call.result}"
            vcpu = Vcpu(vm, td, call.result, self._host, self._faults)
            self.vcpus.append(vcpu)
            self._vcpus[call.process, call.result] = vcpu
            call.let_go()

        with answering(call):
            td = vm.td.step("KVM_CREATE_VCPU", lambda: vm.td.create_vcpu(number))
            call.go_on(created)

    def _mmap(self, call: Call) -> bool:
        fd = call.arguments[4]
        vcpu = self._vcpus.get((call.process, fd & 0xFFFFFFFF))
        if vcpu is None:
            if any(fd in vm.memfds for (process, _), vm in self._vms.items()
                   if process == call.process):  # fmt: skip
                # A guest_memfd can't be mapped.
                call.answer(-errno.ENODEV)
                return True
            return False

        def mapped(call: Call) -> None:
            if call.result > 0 and not call.arguments[5]:
                vcpu.running.kvm_run = call.result
            call.let_go()

        call.go_on(mapped)
        return True


def supported_cpuid() -> tuple[CpuidEntry, ...]:
    """Return what the machine's own KVM offers (KVM_GET_SUPPORTED_CPUID)."""
    data = bytearray(abi.CPUID_HEAD.size + abi.MAX_CPUID_ENTRIES * abi.CPUID_ENTRY.size)
    abi.CPUID_HEAD.pack_into(data, 0, abi.MAX_CPUID_ENTRIES, 0)
    with Path("/dev/kvm").open("r+b", buffering=0) as kvm:
        fcntl.ioctl(kvm, abi.GET_SUPPORTED_CPUID, data)
    nent, _ = abi.CPUID_HEAD.unpack_from(data)
    end = abi.CPUID_HEAD.size + nent * abi.CPUID_ENTRY.size
    return CpuidEntry.unpack_all(bytes(data[abi.CPUID_HEAD.size : end]))
