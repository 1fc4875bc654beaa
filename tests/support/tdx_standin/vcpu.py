"""ioctls on a TD's vCPU."""

import errno
import struct
from collections.abc import Callable, Collection

from . import abi
from .abi import Command
from .calls import Call, answering
from .entries import Entries
from .host import Host
from .running import Running
from .td import Refused, TdVcpu
from .vm import IOCTL, Vm, read_cpuid

#: MSRs that KVM emulates for TDs, from first to last (tdx_has_emulated_msr), and those that
#: userspace can't set.
_EMULATED = (
    (0x1B, 0x1B), (0x3A, 0x3A), (0x8B, 0x8B), (0xCE, 0xCE), (0xFE, 0xFE), (0x10A, 0x10A),
    (0x140, 0x140), (0x179, 0x17B), (0x1A0, 0x1A0), (0x1FC, 0x1FC), (0x200, 0x26F),
    (0x277, 0x277), (0x280, 0x29F), (0x2FF, 0x2FF), (0x400, 0x47F), (0x4D0, 0x4D0),
    (0x6E0, 0x6E0), (0x802, 0x83F), (0xC0000080, 0xC0000080), (0x4B564D05, 0x4B564D05),
)  # fmt: skip
_READ_ONLY = (0x1B, 0x3A, 0xC0000080)


class Vcpu:
    """A vCPU of a TD, of descriptor ``fd`` in its process."""

    def __init__(self, vm: Vm, td: TdVcpu, fd: int, host: Host, faults: Collection[str]) -> None:
        self.vm = vm
        self._td = td
        self._fd = fd
        self.entries = Entries(host, faults)
        self.running = Running(vm, td, fd, self.entries, loses_registers="result-wrong" in faults)
        #: An error that is none of KVM's doing: a signal after the first page.
        self._interrupts = "interrupts" in faults
        self._ioctls: dict[int, Callable[[Call], None]] = {
            abi.RUN: self.running.run,
            abi.SET_CPUID2: self._set_cpuid,
            abi.GET_CPUID2: lambda call: call.go_on(),
            abi.GET_MSRS: self._msrs,
            abi.SET_MSRS: self._msrs,
            abi.SET_SIGNAL_MASK: lambda call: call.go_on(),
            abi.GET_MP_STATE: lambda call: call.go_on(),
            abi.GET_STATS_FD: lambda call: call.go_on(),
            abi.MEMORY_ENCRYPT_OP: self._command,
        }
        self._commands: dict[int, Callable[[Call, Command], None]] = {
            abi.INIT_VCPU: self._init_vcpu,
            abi.INIT_MEM_REGION: self._init_mem_region,
            abi.GET_CPUID: self._get_cpuid,
        }

    def ioctl(self, call: Call) -> None:
        """Answer an ioctl on the vCPU."""
        request = call.arguments[1] & 0xFFFFFFFF
        handler = self._ioctls.get(request)
        if handler is None:
            # KVM_GET_REGS and the like: the state is protected.
            with answering(call):
                self.vm.td.step(f"vCPU ioctl {request:#x}", lambda: _protected(request))
        else:
            handler(call)

    def _set_cpuid(self, call: Call) -> None:
        """Keep KVM's idea of the CPUID; the TD sees the module's, whatever userspace sets."""
        with answering(call):
            _, self._td.cpuid = read_cpuid(call, call.arguments[2])
            entries = self.vm.td.virtual_cpuid
            room = call.scratch
            data = b"".join(entry.pack() for entry in entries)
            call.write(room, abi.CPUID_HEAD.pack(len(entries), 0) + data)
            call.answer(call.perform(IOCTL, self._fd, abi.SET_CPUID2, room))

    def _msrs(self, call: Call) -> None:
        """Answer how many MSRs KVM would read or write; the first that it does not know ends it."""
        count, _ = struct.unpack("<II", call.read(call.arguments[2], 8))
        data = call.read(call.arguments[2] + 8, 16 * count)
        is_set = call.arguments[1] & 0xFFFFFFFF == abi.SET_MSRS
        for at, (index, _, _) in enumerate(struct.iter_unpack("<IIQ", data)):
            known = any(first <= index <= last for first, last in _EMULATED)
            if not known or (is_set and index in _READ_ONLY):
                call.answer(at)
                return
        call.go_on()

    # KVM_MEMORY_ENCRYPT_OP

    def _command(self, call: Call) -> None:
        command = Command.unpack(call.read(call.arguments[2], abi.COMMAND.size))
        td = self.vm.td

        def perform() -> None:
            td.check(command, of_vcpu=True)
            self._commands[command.id](call, command)

        with answering(call):
            td.step(command.name, perform)

    def _init_vcpu(self, call: Call, command: Command) -> None:
        self.vm.td.init_vcpu(self._td, command.flags, command.data)
        call.answer(0)

    def _init_mem_region(self, call: Call, command: Command) -> None:
        td = self.vm.td
        source, gpa, pages = abi.MEM_REGION.unpack(call.read(command.data, abi.MEM_REGION.size))
        td.check_mem_region(self._td, command.flags, source, gpa, pages)
        try:
            while pages:
                td.check_page(gpa)
                page = call.read(source, abi.PAGE)
                slot = td.slot_of(gpa)
                assert slot
                call.write(self.vm.memory[slot.slot] + gpa - slot.guest_phys_addr, page)
                td.add_page(gpa, page, command.flags)
                source, gpa, pages = source + abi.PAGE, gpa + abi.PAGE, pages - 1
                if self._interrupts and pages and len(td.added) == 1:
                    raise Refused(errno.EINTR, "as if a signal had come after the first page")
        finally:
            call.write(command.data, abi.MEM_REGION.pack(source, gpa, pages))
        call.answer(0)

    def _get_cpuid(self, call: Call, command: Command) -> None:
        nent, _ = abi.CPUID_HEAD.unpack(call.read(command.data, abi.CPUID_HEAD.size))
        entries = self.vm.td.virtual_cpuid
        call.write(command.data, abi.CPUID_HEAD.pack(len(entries), 0))
        if nent < len(entries):
            raise Refused(errno.E2BIG, f"room for {nent} of {len(entries)} CPUID entries")
        at = command.data + abi.CPUID_HEAD.size
        call.write(at, b"".join(entry.pack() for entry in entries))
        call.answer(0)


def _protected(request: int) -> None:
    raise Refused(errno.EINVAL, f"{request:#x} is not documented for TDs: their state is protected")
