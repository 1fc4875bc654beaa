"""Exits
=====

One class for each exit reason of KVM_RUN, each mirroring its member of struct kvm_run
(Documentation/virt/kvm/api.rst, "The kvm_run structure"), and one for each way that a run ends
without a guest exit. A reason that is not in the table becomes :class:`UnknownExit`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kvmtest._native import ffi, lib

from .struct_formats import unpacker

__all__ = [
    "BusLockExit",
    "Deadline",
    "DebugExit",
    "DirtyRingFullExit",
    "ExceptionExit",
    "Exit",
    "FailEntryExit",
    "HltExit",
    "HypercallExit",
    "HypervExit",
    "InternalErrorExit",
    "IntrExit",
    "IoExit",
    "IoapicEoiExit",
    "IrqWindowOpenExit",
    "MemoryFaultExit",
    "MmioExit",
    "NmiExit",
    "NotifyExit",
    "RdmsrExit",
    "SetTprExit",
    "ShutdownExit",
    "Signal",
    "Stopped",
    "SystemEventExit",
    "TdxExit",
    "TdxFatalExit",
    "TdxGetQuoteExit",
    "TdxGetTdvmcallInfoExit",
    "TdxSetupEventNotifyExit",
    "TprAccessExit",
    "UnknownExit",
    "WrmsrExit",
    "XenExit",
    "decode",
]


class UnknownExit(NamedTuple):
    """A reason this version does not know, or KVM_EXIT_UNKNOWN with the hardware's own reason."""

    exit_reason: int
    hardware_exit_reason: int


class ExceptionExit(NamedTuple):
    """kvm_run.ex."""

    exception: int
    error_code: int


class IoExit(NamedTuple):
    """kvm_run.io: port I/O; ``data`` holds what an OUT wrote, ``count`` items of ``size`` bytes."""

    port: int
    is_out: bool
    size: int
    count: int  # type: ignore[assignment]  # the kernel's word, over tuple.count
    data: bytes


class HypercallExit(NamedTuple):
    """kvm_run.hypercall."""

    nr: int
    args: tuple[int, ...]
    longmode: bool


class DebugExit(NamedTuple):
    """kvm_run.debug.arch: a breakpoint or single step that KVM_SET_GUEST_DEBUG asked for."""

    exception: int
    pc: int
    dr6: int
    dr7: int


class HltExit(NamedTuple):
    """The guest executed HLT, and the VM has no irqchip in the kernel."""


class MmioExit(NamedTuple):
    """kvm_run.mmio: an access to guest-physical memory that no slot backs."""

    phys_addr: int
    is_write: bool
    data: bytes


class IrqWindowOpenExit(NamedTuple):
    """An interrupt can be injected now."""


class ShutdownExit(NamedTuple):
    """A triple fault, or another end of the guest."""


class FailEntryExit(NamedTuple):
    """kvm_run.fail_entry: the CPU refused the VM-entry (Intel SDM volume 3, 27.8)."""

    hardware_entry_failure_reason: int
    cpu: int


class IntrExit(NamedTuple):
    """A signal was pending; KVM_RUN usually says EINTR instead."""


class SetTprExit(NamedTuple):
    """The guest wrote CR8, and the VM has no irqchip in the kernel."""

    cr8: int


class TprAccessExit(NamedTuple):
    """kvm_run.tpr_access."""

    rip: int
    is_write: bool


class NmiExit(NamedTuple):
    """The guest can take an NMI."""


class InternalErrorExit(NamedTuple):
    """kvm_run.internal: KVM could not go on; ``suberror`` is one of KVM_INTERNAL_ERROR_*."""

    suberror: int
    data: tuple[int, ...]


class SystemEventExit(NamedTuple):
    """kvm_run.system_event."""

    type: int
    data: tuple[int, ...]


class IoapicEoiExit(NamedTuple):
    """kvm_run.eoi."""

    vector: int


class HypervExit(NamedTuple):
    """kvm_run.hyperv."""

    type: int


class RdmsrExit(NamedTuple):
    """kvm_run.msr after KVM_EXIT_X86_RDMSR; ``reason`` is one of KVM_MSR_EXIT_REASON_*."""

    index: int  # type: ignore[assignment]  # the kernel's word, over tuple.index
    reason: int


class WrmsrExit(NamedTuple):
    """kvm_run.msr after KVM_EXIT_X86_WRMSR."""

    index: int  # type: ignore[assignment]  # the kernel's word, over tuple.index
    reason: int
    data: int


class DirtyRingFullExit(NamedTuple):
    """The vCPU's dirty ring is full."""


class BusLockExit(NamedTuple):
    """The guest took a bus lock, and bus lock detection exits."""


class XenExit(NamedTuple):
    """kvm_run.xen."""

    type: int


class NotifyExit(NamedTuple):
    """kvm_run.notify: the guest kept the CPU longer than the notify window."""

    flags: int


class MemoryFaultExit(NamedTuple):
    """kvm_run.memory_fault."""

    flags: int
    gpa: int
    size: int


class TdxExit(NamedTuple):
    """kvm_run.tdx of a TDVMCALL that this version does not know; ``data[0]`` is the status."""

    flags: int
    nr: int
    data: tuple[int, ...]


class TdxGetQuoteExit(NamedTuple):
    """kvm_run.tdx.get_quote: the TD wants its report in the shared memory at ``gpa`` signed."""

    gpa: int
    size: int


class TdxGetTdvmcallInfoExit(NamedTuple):
    """kvm_run.tdx.get_tdvmcall_info: the TD asks which TDVMCALLs it may make."""

    leaf: int


class TdxSetupEventNotifyExit(NamedTuple):
    """kvm_run.tdx.setup_event_notify: the TD wants events told by an interrupt."""

    vector: int


class TdxFatalExit(NamedTuple):
    """KVM_SYSTEM_EVENT_TDX_FATAL: the TD says that it can't go on.

    ``registers`` are the TD's RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI and R8 to R15; KVM sets RAX to
    the status of TDH.VP.ENTER, and RSP and RBP to 0.
    """

    registers: tuple[int, ...]

    @property
    def error(self) -> int:
        """The TD's error code, from R12 (Intel TDX GHCI, TDG.VP.VMCALL<ReportFatalError>)."""
        return self.registers[12]


class Deadline(NamedTuple):
    """The deadline passed with the guest still running; it can be run again."""

    timeout: float


class Stopped(NamedTuple):
    """Another thread stopped the vCPU."""


class Signal(NamedTuple):
    """A signal that is not kvmtest's own ended the run; Python's handlers have run since."""


Exit = (
    UnknownExit
    | ExceptionExit
    | IoExit
    | HypercallExit
    | DebugExit
    | HltExit
    | MmioExit
    | IrqWindowOpenExit
    | ShutdownExit
    | FailEntryExit
    | IntrExit
    | SetTprExit
    | TprAccessExit
    | NmiExit
    | InternalErrorExit
    | SystemEventExit
    | IoapicEoiExit
    | HypervExit
    | RdmsrExit
    | WrmsrExit
    | DirtyRingFullExit
    | BusLockExit
    | XenExit
    | NotifyExit
    | MemoryFaultExit
    | TdxExit
    | TdxFatalExit
    | TdxGetQuoteExit
    | TdxGetTdvmcallInfoExit
    | TdxSetupEventNotifyExit
    | Deadline
    | Stopped
    | Signal
)


def _mmio(run: Any) -> MmioExit:
    mmio = run.mmio
    data = bytes(mmio.data)[: mmio.len] if mmio.is_write else b""
    return MmioExit(mmio.phys_addr, bool(mmio.is_write), data)


def _overlay(run: Any, name: str) -> Any:
    """Read the exit union through one of the structures that kvm_abi.h declares."""
    return ffi.cast(f"struct {name} *", ffi.addressof(run, "hw"))


def _memory_fault(run: Any) -> MemoryFaultExit:
    fault = _overlay(run, "kvmtest_exit_memory_fault")
    return MemoryFaultExit(fault.flags, fault.gpa, fault.size)


def _tdx(run: Any) -> Exit:
    tdx = _overlay(run, "kvmtest_exit_tdx")
    data = tuple(tdx.data)
    decoder = TDVMCALLS.get(tdx.nr)
    return decoder(*data[1:]) if decoder else TdxExit(tdx.flags, tdx.nr, data)


def _debug(run: Any) -> DebugExit:
    arch = run.debug.arch
    return DebugExit(arch.exception, arch.pc, arch.dr6, arch.dr7)


def _hypercall(run: Any) -> HypercallExit:
    call = _overlay(run, "kvmtest_exit_hypercall")
    return HypercallExit(call.nr, tuple(call.args), bool(call.flags & 1))


def _internal(run: Any) -> InternalErrorExit:
    internal = run.internal
    return InternalErrorExit(internal.suberror, tuple(internal.data[0 : min(internal.ndata, 16)]))


def _system_event(run: Any) -> Exit:
    event = run.system_event
    data = tuple(event.data[0 : min(event.ndata, 16)])
    if event.type == lib.KVM_SYSTEM_EVENT_TDX_FATAL and len(data) == 16:
        return TdxFatalExit(data)
    return SystemEventExit(event.type, data)


def _fail_entry(run: Any) -> FailEntryExit:
    return FailEntryExit(run.fail_entry.hardware_entry_failure_reason, run.fail_entry.cpu)


# By kvm_run.tdx.nr, of the data after the status: TDVMCALL_* (arch/x86/include/asm/shared/tdx.h).
TDVMCALLS: dict[int, Callable[..., Exit]] = {
    0x10000: lambda leaf, *_: TdxGetTdvmcallInfoExit(leaf),
    0x10002: lambda gpa, size, *_: TdxGetQuoteExit(gpa, size),
    0x10004: lambda vector, *_: TdxSetupEventNotifyExit(vector),
}

# By exit_reason; KVM_EXIT_IO is in decode itself.
DECODERS: dict[int, Callable[[Any], Exit]] = {
    lib.KVM_EXIT_EXCEPTION: lambda run: ExceptionExit(run.ex.exception, run.ex.error_code),
    lib.KVM_EXIT_HYPERCALL: _hypercall,
    lib.KVM_EXIT_DEBUG: _debug,
    lib.KVM_EXIT_HLT: lambda run: HltExit(),
    lib.KVM_EXIT_MMIO: _mmio,
    lib.KVM_EXIT_IRQ_WINDOW_OPEN: lambda run: IrqWindowOpenExit(),
    lib.KVM_EXIT_SHUTDOWN: lambda run: ShutdownExit(),
    lib.KVM_EXIT_FAIL_ENTRY: _fail_entry,
    lib.KVM_EXIT_INTR: lambda run: IntrExit(),
    lib.KVM_EXIT_SET_TPR: lambda run: SetTprExit(run.cr8),
    lib.KVM_EXIT_TPR_ACCESS: lambda run: TprAccessExit(
        run.tpr_access.rip, bool(run.tpr_access.is_write)
    ),
    lib.KVM_EXIT_NMI: lambda run: NmiExit(),
    lib.KVM_EXIT_INTERNAL_ERROR: _internal,
    lib.KVM_EXIT_SYSTEM_EVENT: _system_event,
    lib.KVM_EXIT_IOAPIC_EOI: lambda run: IoapicEoiExit(run.eoi.vector),
    lib.KVM_EXIT_HYPERV: lambda run: HypervExit(run.hyperv.type),
    lib.KVM_EXIT_X86_RDMSR: lambda run: RdmsrExit(run.msr.index, run.msr.reason),
    lib.KVM_EXIT_X86_WRMSR: lambda run: WrmsrExit(run.msr.index, run.msr.reason, run.msr.data),
    lib.KVM_EXIT_DIRTY_RING_FULL: lambda run: DirtyRingFullExit(),
    lib.KVM_EXIT_X86_BUS_LOCK: lambda run: BusLockExit(),
    lib.KVM_EXIT_XEN: lambda run: XenExit(run.xen.type),
    lib.KVM_EXIT_NOTIFY: lambda run: NotifyExit(run.notify.flags),
    lib.KVM_EXIT_MEMORY_FAULT: _memory_fault,
    lib.KVM_EXIT_TDX: _tdx,
}


KVM_EXIT_IO: int = lib.KVM_EXIT_IO
KVM_EXIT_IO_OUT: int = lib.KVM_EXIT_IO_OUT

# kvm_run.exit_reason and kvm_run.io are unpacked together, and IoExit is made without its
# Python-level constructor: no other exit is so frequent.
IO = ("io.direction", "io.size", "io.port", "io.count", "io.data_offset")
REASON_OFFSET: int = ffi.offsetof("struct kvm_run", "exit_reason")
unpack_io = unpacker("struct kvm_run", "exit_reason", *IO, start=REASON_OFFSET).unpack_from
new_tuple = tuple.__new__


def decode(run: Any, mapping: Any) -> Exit:
    """Return the exit that the ``struct kvm_run *`` at the head of ``mapping`` describes.

    Never raises, whatever the two hold; data outside the mapping are left out.
    """
    reason, direction, size, port, count, start = unpack_io(mapping, REASON_OFFSET)
    if reason == KVM_EXIT_IO:
        is_out = direction == KVM_EXIT_IO_OUT
        # A slice never reaches beyond the mapping, whatever offset and length say.
        data = mapping[start : start + size * count] if is_out else b""
        return new_tuple(IoExit, (port, is_out, size, count, data))
    decoder = DECODERS.get(reason)
    if decoder is None:
        return UnknownExit(reason, run.hw.hardware_exit_reason)
    return decoder(run)
