"""KVM, as the traced processes have it: which descriptor is a TD's or its vCPU's.

What KVM documents for a TD is answered, or passed on to the machine's own KVM, where a plain VM
runs the TD's code; all else is refused. VMs of other types run on the machine's KVM as they are.
"""

import errno
import fcntl
from collections.abc import Collection
from pathlib import Path

from . import abi
from .abi import CpuidEntry
from .calls import MMAP, Call, answering
from .entries import OrdinaryEntries, processor
from .host import Host
from .running import IMMEDIATE_EXIT_AT
from .td import Td
from .vcpu import Vcpu
from .vm import IOCTL, Vm, check_extension


class Ordinary:
    """A vCPU of a VM of another type, which the machine's KVM runs."""

    def __init__(self, host: Host) -> None:
        self._entries = OrdinaryEntries(host)
        #: Where struct kvm_run is in the tracee.
        self.kvm_run = 0

    def run(self, call: Call) -> None:
        """Let KVM_RUN go on, and show the entry to the host's probes."""
        if call.read(self.kvm_run + IMMEDIATE_EXIT_AT, 1) == b"\0":
            self._entries.enter(call.tid, processor(call.tid))
        call.go_on()


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
        self._ordinary_vms: set[tuple[int, int]] = set()
        self._ordinary_vcpus: dict[tuple[int, int], Ordinary] = {}

    def enter(self, call: Call) -> bool:
        """Take a system call at its entry; False where it is none of KVM's affair."""
        if call.number == IOCTL:
            return self._ioctl(call)
        if call.number == MMAP:
            return self._mmap(call)
        if (key := call.closes) is not None:
            for fds in (self._vms, self._vcpus, self._ordinary_vcpus):
                fds.pop(key, None)
            self._ordinary_vms.discard(key)
            for vm in self._vms_of(call.process):
                vm.memfds.pop(key[1], None)
        return False

    def executed(self, process: int) -> None:
        """Forget what was open before execve(2)."""
        for fds in (self._vms, self._vcpus, self._ordinary_vcpus):
            for key in [key for key in fds if key[0] == process]:
                fds.pop(key)
        self._ordinary_vms = {key for key in self._ordinary_vms if key[0] != process}

    def _vms_of(self, process: int) -> list[Vm]:
        return [vm for (owner, _), vm in self._vms.items() if owner == process]

    def _ioctl(self, call: Call) -> bool:
        key = (call.process, call.arguments[0] & 0xFFFFFFFF)
        request = call.arguments[1] & 0xFFFFFFFF
        if key in self._vcpus:
            self._vcpus[key].ioctl(call)
        elif key in self._vms and request == abi.CREATE_VCPU:
            self._create_vcpu(call, self._vms[key])
        elif key in self._vms:
            self._vms[key].ioctl(call)
        elif key in self._ordinary_vcpus and request == abi.RUN:
            self._ordinary_vcpus[key].run(call)
        elif key in self._ordinary_vms and request == abi.CREATE_VCPU:
            call.go_on(self._created_ordinary_vcpu)
        elif request == abi.CREATE_VM and self._is_td(call.arguments[2]):
            call.arguments[2] = 0
            call.go_on(self._created_vm)
        elif request == abi.CREATE_VM:
            call.go_on(self._created_ordinary_vm)
        elif request == abi.CHECK_EXTENSION and self._host.has_tdx:
            check_extension(call)
        else:
            return False
        return True

    def _is_td(self, kind: int) -> bool:
        return kind == abi.TDX_VM and self._host.has_tdx

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

    def _created_ordinary_vm(self, call: Call) -> None:
        if call.result >= 0:
            self._ordinary_vms.add((call.process, call.result))
        call.let_go()

    def _created_ordinary_vcpu(self, call: Call) -> None:
        if call.result >= 0:
            self._ordinary_vcpus[call.process, call.result] = Ordinary(self._host)
        call.let_go()

    def _mmap(self, call: Call) -> bool:
        fd = call.arguments[4]
        key = (call.process, fd & 0xFFFFFFFF)
        vcpu = self._vcpus[key].running if key in self._vcpus else self._ordinary_vcpus.get(key)
        if vcpu is None:
            if any(key[1] in vm.memfds for vm in self._vms_of(call.process)):
                # A guest_memfd can't be mapped.
                call.answer(-errno.ENODEV)
                return True
            return False

        def mapped(call: Call) -> None:
            if call.result > 0 and not call.arguments[5]:
                vcpu.kvm_run = call.result
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
