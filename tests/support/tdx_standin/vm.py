"""ioctls on a TD: the VM's descriptor."""

import errno
from collections.abc import Callable

from . import abi, module
from .abi import Command, CpuidEntry, InitVm, MemoryRegion
from .calls import MMAP, Call, answering
from .td import Refused, Td
from .tdcall import OPCODE

IOCTL, MEMFD_CREATE, FTRUNCATE = 16, 319, 77
_PROT_READ_WRITE = 3
_MAP_PRIVATE_ANONYMOUS_NORESERVE = 0x4022
_MFD_CLOEXEC = 1

#: What stands in the VM's memory for TDCALL: an OUT to a port that exits, and a NOP. A CPU or a KVM
#: without TDX has #UD for TDCALL, which KVM shows to userspace in no documented way; an OUT exits
#: with all registers on every KVM, and has room in the instruction's four bytes. The TD's pages are
#: measured as they were given.
TRAP_PORT = 0xF7
TRAP = bytes((0xE6, TRAP_PORT)) + bytes.fromhex("6690")
assert len(TRAP) == len(OPCODE)

#: What KVM says of a TD where the machine's own KVM says otherwise of a plain VM.
_EXTENSIONS = {
    abi.CAP_MEMORY_ATTRIBUTES: abi.MEMORY_ATTRIBUTE_PRIVATE,
    abi.CAP_USER_MEMORY2: 1,
    abi.CAP_GUEST_MEMFD: 1,
    abi.CAP_X86_SMM: 0,
}

#: The MSR whose value the TDX module keeps for each TD.
DEBUGCTL = 0x1D9
#: MSRs that a TD reads and writes as a plain VM does, from first to last: the TDX module switches
#: or virtualises them. The plain VM exits for all others, and for a write of the last ones.
_NATIVE = ((0x174, 3), (0x277, 1), (0xDA0, 1), (0xC0000081, 4), (0xC0000100, 4))
_READABLE = ((0x10, 1), (0x345, 1), (0xC0000080, 1))
_EXIT_REASON_FILTER = 1 << 2
_READ, _WRITE = 1, 2


class Vm:
    """A TD, and the VM that runs its code, of descriptor ``fd`` in its process."""

    def __init__(self, td: Td, fd: int) -> None:
        self.td = td
        self.fd = fd
        #: Where the pages of slots with a guest_memfd are in the tracee, by slot.
        self.memory: dict[int, int] = {}
        #: Sizes of the process's guest_memfds by descriptor.
        self.memfds: dict[int, int] = {}
        self._ioctls: dict[int, Callable[[Call], None]] = {
            abi.CHECK_EXTENSION: self._check_extension,
            abi.ENABLE_CAP: self._enable_cap,
            abi.SET_TSS_ADDR: lambda call: call.answer(0),
            abi.SET_IDENTITY_MAP_ADDR: lambda call: call.answer(0),
            abi.CREATE_GUEST_MEMFD: self._create_guest_memfd,
            abi.SET_USER_MEMORY_REGION: self._set_memory_region,
            abi.SET_USER_MEMORY_REGION2: self._set_memory_region,
            abi.SET_MEMORY_ATTRIBUTES: self._set_memory_attributes,
            abi.MEMORY_ENCRYPT_OP: self._command,
            abi.GET_STATS_FD: lambda call: call.go_on(),
            abi.GET_TSC_KHZ: lambda call: call.go_on(),
        }
        self._commands: dict[int, Callable[[Call, Command], None]] = {
            abi.CAPABILITIES: self._capabilities,
            abi.INIT_VM: self._init_vm,
            abi.FINALIZE_VM: self._finalize,
        }

    def begin(self, call: Call) -> None:
        """Have the plain VM exit for the MSRs that the TDX module would answer."""
        room = call.scratch
        call.write(room, abi.CAP_ENABLING.pack(abi.CAP_X86_USER_SPACE_MSR, 0,
                                               _EXIT_REASON_FILTER, 0, 0, 0))  # fmt: skip
        self._perform(call, abi.ENABLE_CAP, room)
        bitmap = room + abi.MSR_FILTER_SIZE
        ranges = [(_READ | _WRITE, count, base, bitmap) for base, count in _NATIVE]
        ranges += [(_READ, count, base, bitmap) for base, count in _READABLE]
        call.write(room, abi.msr_filter(ranges) + b"\xff" * 8)
        self._perform(call, abi.X86_SET_MSR_FILTER, room)

    def ioctl(self, call: Call) -> None:
        """Answer an ioctl on the VM other than KVM_CREATE_VCPU."""
        request = call.arguments[1] & 0xFFFFFFFF
        handler = self._ioctls.get(request)
        if handler is None:
            with answering(call):
                self.td.step(f"VM ioctl {request:#x}", lambda: _unknown(request))
        else:
            handler(call)

    def address(self, gpa: int, size: int) -> int:
        """Return where private memory is in the tracee. Raises LookupError where none was added."""
        pages = range(gpa // abi.PAGE, (gpa + size - 1) // abi.PAGE + 1)
        region = self.td.slot_of(gpa)
        if region is None or any(page * abi.PAGE not in self.td.added for page in pages):
            raise LookupError(f"nothing was added at {gpa:#x}")
        return self.memory[region.slot] + gpa - region.guest_phys_addr

    def _check_extension(self, call: Call) -> None:
        capability = call.arguments[2]
        if capability == abi.CAP_MAX_VCPUS:
            call.answer(self.td.cpus)
        elif capability in _EXTENSIONS:
            call.answer(_EXTENSIONS[capability])
        else:
            check_extension(call)

    def _enable_cap(self, call: Call) -> None:
        capability, *_ = abi.CAP_ENABLING.unpack(call.read(call.arguments[2], abi.CAP_SIZE))
        if capability == abi.CAP_SPLIT_IRQCHIP:

            def enabled(call: Call) -> None:
                if not call.result:
                    self.td.step("KVM_CAP_SPLIT_IRQCHIP", self.td.enable_split_irqchip)
                call.let_go()

            call.go_on(enabled)
        elif capability == abi.CAP_PMU_CAPABILITY:
            call.go_on()
        else:
            with answering(call):
                self.td.step(f"KVM_ENABLE_CAP {capability}", lambda: _unknown(capability))

    def _create_guest_memfd(self, call: Call) -> None:
        size, flags, reserved = abi.GUEST_MEMFD.unpack(
            call.read(call.arguments[2], abi.GUEST_MEMFD.size)
        )
        with answering(call):
            self.td.step("KVM_CREATE_GUEST_MEMFD", lambda: _check_memfd(size, flags, reserved))
            name = call.scratch
            call.write(name, b"guest_memfd\0")
            fd = call.perform(MEMFD_CREATE, name, _MFD_CLOEXEC)
            call.perform(FTRUNCATE, fd, size)
            self.memfds[fd] = size
            call.answer(fd)

    def _set_memory_region(self, call: Call) -> None:
        is_new = call.arguments[1] & 0xFFFFFFFF == abi.SET_USER_MEMORY_REGION2
        size = abi.MEMORY_REGION.size if is_new else abi.OLD_MEMORY_REGION_SIZE
        data = call.read(call.arguments[2], size).ljust(abi.MEMORY_REGION.size, b"\0")
        region = MemoryRegion.unpack(data)
        has_file = region.flags & abi.MEM_GUEST_MEMFD
        with answering(call):
            file_size = self.memfds.get(region.guest_memfd)
            name = "KVM_SET_USER_MEMORY_REGION2" if is_new else "KVM_SET_USER_MEMORY_REGION"
            self.td.step(name, lambda: self.td.set_memory_region(region, file_size))
            if has_file and region.memory_size:
                self.memory[region.slot] = call.perform(
                    MMAP, 0, region.memory_size, _PROT_READ_WRITE,
                    _MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0,
                )  # fmt: skip
            call.answer(0)

    def _set_memory_attributes(self, call: Call) -> None:
        fields = abi.MEMORY_ATTRIBUTES.unpack(
            call.read(call.arguments[2], abi.MEMORY_ATTRIBUTES.size)
        )
        with answering(call):
            name = "KVM_SET_MEMORY_ATTRIBUTES"
            self.td.step(name, lambda: self.td.set_memory_attributes(*fields))
            call.answer(0)

    # KVM_MEMORY_ENCRYPT_OP

    def _command(self, call: Call) -> None:
        command = Command.unpack(call.read(call.arguments[2], abi.COMMAND.size))

        def perform() -> None:
            self.td.check(command, of_vcpu=False)
            self._commands[command.id](call, command)

        with answering(call):
            try:
                self.td.step(command.name, perform)
            except Refused as refused:
                answered = command._replace(hw_error=refused.hw_error or command.hw_error)
                call.write(call.arguments[2], answered.pack())
                raise

    def _capabilities(self, call: Call, command: Command) -> None:
        at = command.data + abi.TDX_CAPABILITIES.size
        nent, _ = abi.CPUID_HEAD.unpack(call.read(at, abi.CPUID_HEAD.size))
        entries = self.td.capabilities(command.flags, nent)
        offers = (self.td.supported_attributes, module.SUPPORTED_XFAM, 0, 0, 0, 0)
        data = abi.TDX_CAPABILITIES.pack(*offers) + abi.CPUID_HEAD.pack(len(entries), 0)
        call.write(command.data, data + b"".join(entry.pack() for entry in entries))
        call.answer(0)

    def _init_vm(self, call: Call, command: Command) -> None:
        parameters = InitVm.unpack(call.read(command.data, abi.INIT_VM_HEAD.size))
        at = command.data + abi.INIT_VM_HEAD.size
        padding, cpuid = read_cpuid(call, at)
        self.td.init_vm(command.flags, parameters, padding, cpuid)
        call.answer(0)

    def _finalize(self, call: Call, command: Command) -> None:
        self.td.finalize(command.flags)
        # The plain VM gets no other memory: a TD must not touch what it was not given.
        for slot, (gpa, size) in enumerate(self.td.added_ranges()):
            at = self.address(gpa, size)
            call.write(at, call.read(at, size).replace(OPCODE, TRAP))
            room = call.scratch
            call.write(room, abi.old_memory_region(slot, gpa, size, at))
            made = self._perform(call, abi.SET_USER_MEMORY_REGION, room)
            assert not made, f"the plain VM's memory at {gpa:#x}: {made}"
        call.answer(0)

    def _perform(self, call: Call, request: int, argument: int) -> int:
        return call.perform(IOCTL, self.fd, request, argument)


def check_extension(call: Call) -> None:
    """Answer KVM_CHECK_EXTENSION of the system, or of a plain VM."""
    capability = call.arguments[2]
    if capability in (abi.CAP_MEMORY_ATTRIBUTES, abi.CAP_USER_MEMORY2, abi.CAP_GUEST_MEMFD):
        call.answer(_EXTENSIONS[capability])
    elif capability == abi.CAP_VM_TYPES:
        call.go_on(lambda call: call.answer(max(call.result, 0) | 1 << abi.TDX_VM))
    else:
        call.go_on()


def read_cpuid(call: Call, at: int) -> tuple[int, tuple[CpuidEntry, ...]]:
    """Read a struct kvm_cpuid2: its padding and its entries. Raises Refused for too many."""
    nent, padding = abi.CPUID_HEAD.unpack(call.read(at, abi.CPUID_HEAD.size))
    if nent > abi.MAX_CPUID_ENTRIES:
        raise Refused(errno.E2BIG, f"{nent} CPUID entries")
    data = call.read(at + abi.CPUID_HEAD.size, nent * abi.CPUID_ENTRY.size) if nent else b""
    return padding, CpuidEntry.unpack_all(data)


def _check_memfd(size: int, flags: int, reserved: bytes) -> None:
    """kvm_gmem_create."""
    if flags or any(reserved) or not size or size % abi.PAGE:
        raise Refused(errno.EINVAL, "flags, reserved fields or the size are wrong")


def _unknown(what: int) -> None:
    raise Refused(errno.ENOTTY, f"{what:#x} is not documented for TDs")
