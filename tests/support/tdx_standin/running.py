"""KVM_RUN of a TD's vCPU: from the TD's first instruction over its TDCALLs to userspace."""

import errno
import struct
from collections.abc import Mapping

from . import abi, entry_state
from .calls import Call, answering
from .entries import Entries, processor
from .entry_state import REGISTERS, REGS, SystemRegisters
from .exceptions import VIRTUALIZATION, Undeliverable, deliver
from .td import Refused, TdVcpu
from .tdcall import NAMES, FatalError, Io, Mmio, Resume, completion, tdcall
from .vm import DEBUGCTL, IOCTL, TRAP_PORT, Vm

# struct kvm_run
IMMEDIATE_EXIT_AT, _EXIT_REASON_AT, _UNION_AT = 1, 8, 32
_VALID_REGS_AT, _REGS_AT = 288, 304
_SREGS_AT = _REGS_AT + REGS.size
_HEAD_SIZE = _SREGS_AT + entry_state.SREGS_SIZE
_SYNC_REGS, _SYNC_SREGS = 1, 2
_EXIT_IO, _EXIT_MMIO, _EXIT_SHUTDOWN, _EXIT_SYSTEM_EVENT = 2, 6, 8, 24
_EXIT_INTERNAL_ERROR, _EXIT_RDMSR, _EXIT_WRMSR = 17, 29, 30
_IO_EXIT = struct.Struct("<BBHIQ")
_IO_OUT = 1
_IO_DATA_AT = abi.PAGE
_MMIO_EXIT = struct.Struct("<Q8sIB")
_MSR_EXIT = struct.Struct("<B7xIIQ")
_MSR_DATA_AT = 16
_SYSTEM_EVENT_TDX_FATAL = 7
#: What KVM says of TDX_VCPU_STATE_INCORRECT: KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, and the
#: status of TDH.VP.ENTER.
_ENTERED_DEAD = struct.pack("<IIQ", 4, 1, 0xC000070000000000)
#: VMX's exit reasons, as #VE has them.
_RDMSR, _WRMSR = 31, 32
#: LBR and BTF; the TDX module refuses bit 14.
_DEBUGCTL_WRITABLE = 0x3
#: Exits of the plain VM that are the machine's own affair.
_OTHERS = frozenset((_EXIT_SHUTDOWN, 9, 10, _EXIT_INTERNAL_ERROR))

_APIC_BASE, _APIC_BASE_BSP = 0xFEE00000 | 1 << 11, 1 << 8
_MP_STATE_RUNNABLE = 0
#: What becomes of RBX where a TD exit loses registers.
_LOST = 1 << 2


class Running:
    """A TD's vCPU as it runs, on the plain VM's vCPU of descriptor ``fd``."""

    def __init__(
        self, vm: Vm, td: TdVcpu, fd: int, entries: Entries, *, loses_registers: bool
    ) -> None:
        self._vm = vm
        self._td = td
        self._fd = fd
        self._entries = entries
        self._loses_registers = loses_registers
        #: Where struct kvm_run is in the tracee.
        self.kvm_run = 0
        self.tdcalls = 0
        #: Why the TD can't go on.
        self.dead = ""
        self._started = False
        self._registers: dict[str, int] = {}
        self._pending: Io | Mmio | None = None
        self._debugctl = 0

    def run(self, call: Call) -> None:
        """Answer KVM_RUN."""
        with answering(call):
            self._vm.td.check_run(self._td)
            if self.dead:
                self._exit_to_user(call, _EXIT_INTERNAL_ERROR, _ENTERED_DEAD)
                return
            head = call.read(self.kvm_run, _UNION_AT)
            valid, dirty = struct.unpack("<QQ", call.read(self.kvm_run + _VALID_REGS_AT, 16))
            if valid or dirty:
                raise Refused(errno.EINVAL, "a TD's registers can't be synchronised")
            if not self._started:
                self._start(call)
            changes = self._complete(call) if self._pending else None
            self._enter(call, changes, is_entry=not head[IMMEDIATE_EXIT_AT])

    def _start(self, call: Call) -> None:
        """Put the plain VM's vCPU into the state of a TD's."""
        room = call.scratch
        signature = next((e.eax for e in self._td.cpuid if e.function == 1), 0)
        is_first = self._td.number == 0
        base = _APIC_BASE | (_APIC_BASE_BSP if is_first else 0)
        steps = (
            (abi.SET_MP_STATE, struct.pack("<I", _MP_STATE_RUNNABLE)),
            (abi.SET_SREGS, entry_state.system_registers(base)),
            (abi.SET_REGS, entry_state.registers(
                self._vm.td.gpaw, self._td.number, self._td.rcx, signature)),
        )  # fmt: skip
        for request, data in steps:
            call.write(room, data)
            result = call.perform(IOCTL, self._fd, request, room)
            assert not result, f"the plain VM refused {request:#x}: {result}"
        self._started = True

    def _complete(self, call: Call) -> Mapping[str, int]:
        """Take what userspace answered to the last exit, and return it as registers."""
        pending, self._pending = self._pending, None
        assert pending
        value = None
        if isinstance(pending, Io) and not pending.is_out:
            data = call.read(self.kvm_run + _IO_DATA_AT, pending.size)
            value = int.from_bytes(data, "little")
        elif isinstance(pending, Mmio) and not pending.is_write:
            data = call.read(self.kvm_run + _UNION_AT + 8, pending.size)
            value = int.from_bytes(data, "little")
        return completion(pending.takes, value)

    def _enter(self, call: Call, changes: Mapping[str, int] | None, *, is_entry: bool) -> None:
        """Enter the TD; ``is_entry`` tells whether KVM does, and not the TDX module by itself."""
        if is_entry:
            self.dead = self._entries.enter(call.tid, processor(call.tid))
            if self.dead:
                self._exit_to_user(call, _EXIT_SHUTDOWN)
                return
        self._registers |= changes or {}
        if changes and self._loses_registers and self._entries.was_toggled:
            self._registers["rbx"] |= _LOST
        dirty = _SYNC_REGS if changes else 0
        data = struct.pack("<QQ", _SYNC_REGS | _SYNC_SREGS, dirty)
        if changes:
            data += REGS.pack(*(self._registers[name] for name in REGISTERS))
        call.write(self.kvm_run + _VALID_REGS_AT, data)
        call.go_on(self._exited)

    def _exited(self, call: Call) -> None:
        data = call.read(self.kvm_run, _HEAD_SIZE)
        # The host sees no registers of a TD.
        call.write(self.kvm_run + _VALID_REGS_AT, bytes(_HEAD_SIZE - _VALID_REGS_AT))
        if call.result:
            self._entries.leave(processor(call.tid))
            call.let_go()
            return
        self._registers = dict(zip(REGISTERS, REGS.unpack_from(data, _REGS_AT), strict=True))
        (reason,) = struct.unpack_from("<I", data, _EXIT_REASON_AT)
        direction, _, port, _, _ = _IO_EXIT.unpack_from(data, _UNION_AT)
        if reason == _EXIT_IO and direction == _IO_OUT and port == TRAP_PORT:
            system = SystemRegisters.unpack(data[_SREGS_AT:])
            if system.is_64_bit and not system.cpl:
                self._tdcall(call)
            else:
                self._die(call, "TDCALL outside of 64-bit mode at CPL 0: #UD or #GP")
        elif reason in (_EXIT_RDMSR, _EXIT_WRMSR):
            self._msr(call, data, is_write=reason == _EXIT_WRMSR)
        elif reason in _OTHERS:
            self._entries.leave(processor(call.tid))
            call.let_go()
        else:
            what = f"port {port:#x}" if reason == _EXIT_IO else f"exit reason {reason}"
            self._die(call, f"an instruction that a TD has #VE for ({what})")

    def _tdcall(self, call: Call) -> None:
        self.tdcalls += 1
        outcome = tdcall(self._vm.td, self._td, self._registers)
        if isinstance(outcome, Resume):
            if outcome.by_kvm:
                self._entries.leave(processor(call.tid))
            self._enter(call, outcome.changes, is_entry=outcome.by_kvm)
            return
        self._entries.leave(processor(call.tid))
        if isinstance(outcome, FatalError):
            self._exit_to_user(call, _EXIT_SYSTEM_EVENT, fatal_event(outcome.registers))
            return
        self._pending = outcome
        value = outcome.data.to_bytes(8, "little")
        if isinstance(outcome, Io):
            exit_ = _IO_EXIT.pack(outcome.is_out, outcome.size, outcome.port, 1, _IO_DATA_AT)
            call.write(self.kvm_run + _IO_DATA_AT, value[: outcome.size])
            self._exit_to_user(call, _EXIT_IO, exit_)
        else:
            exit_ = _MMIO_EXIT.pack(outcome.gpa, value, outcome.size, outcome.is_write)
            self._exit_to_user(call, _EXIT_MMIO, exit_)

    def _msr(self, call: Call, data: bytes, *, is_write: bool) -> None:
        """Answer as the TDX module does, which shows a TD its own IA32_DEBUGCTL."""
        _, _, index, value = _MSR_EXIT.unpack_from(data, _UNION_AT)
        is_refused = is_write and bool(value & ~_DEBUGCTL_WRITABLE)
        if index == DEBUGCTL and is_write and not is_refused:
            self._debugctl = value
        seen = 0 if is_write else self._debugctl
        call.write(self.kvm_run + _UNION_AT, bytes((index == DEBUGCTL and is_refused,)))
        call.write(self.kvm_run + _UNION_AT + _MSR_DATA_AT, seen.to_bytes(8, "little"))
        if index == DEBUGCTL:
            self._enter(call, None, is_entry=False)
            return
        # KVM completes the instruction, and then it is undone.
        call.write(self.kvm_run + IMMEDIATE_EXIT_AT, b"\1")
        call.perform(IOCTL, self._fd, abi.RUN, 0)
        call.write(self.kvm_run + IMMEDIATE_EXIT_AT, data[IMMEDIATE_EXIT_AT:][:1])
        self._virtualization(call, data, _WRMSR if is_write else _RDMSR, f"MSR {index:#x}")

    def _virtualization(self, call: Call, data: bytes, reason: int, what: str) -> None:
        """Deliver #VE for an exit reason."""
        if self._td.ve_reason is not None:
            self._die(call, f"#VE for {what} before the TD asked for the last one: #DF")
            return
        self._td.ve_reason = reason
        system = SystemRegisters.unpack(data[_SREGS_AT:])
        try:
            changes = deliver(
                VIRTUALIZATION,
                self._registers,
                system,
                lambda gpa, size: call.read(self._vm.address(gpa, size), size),
                lambda gpa, frame: call.write(self._vm.address(gpa, len(frame)), frame),
            )
        except Undeliverable as error:
            self._die(call, f"#VE for {what}: {error}")
            return
        self._enter(call, self._registers | changes, is_entry=False)

    def _die(self, call: Call, why: str) -> None:
        self.dead = why
        self._entries.leave(processor(call.tid))
        self._exit_to_user(call, _EXIT_SHUTDOWN)

    def _exit_to_user(self, call: Call, reason: int, data: bytes = b"") -> None:
        call.write(self.kvm_run + _EXIT_REASON_AT, struct.pack("<I", reason))
        if data:
            call.write(self.kvm_run + _UNION_AT, data)
        call.answer(0)


def fatal_event(registers: Mapping[str, int]) -> bytes:
    """Return kvm_run.system_event of a fatal error (tdx_report_fatal_error in tdx.c)."""
    values = (registers[name] for name in NAMES)
    return struct.pack("<II16Q", _SYSTEM_EVENT_TDX_FATAL, len(NAMES), *values)
