"""vCPU
====

A virtual CPU: its registers, and KVM_RUN with a deadline. Methods are named after the ioctls of
Documentation/virt/kvm/api.rst; registers are the kernel's own structures (``struct kvm_regs *``).
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kvmtest._native import ffi, lib

from . import exits
from .cpuid import Cpuid
from .errors import CapabilityMissing, KvmError, MsrRefused
from .ioctl import ioctl
from .mapped_memory import MappedMemory
from .stats import Stats

__all__ = ["Loop", "Vcpu"]

DEFAULT_TIMEOUT = 1.0
DEFAULT_TIMEOUT_NS = int(DEFAULT_TIMEOUT * 1e9)
# A longer timeout is a mistake.
LONGEST_TIMEOUT = 3600.0

KVM_RUN, RUNNER = ffi.typeof("struct kvm_run *"), ffi.typeof("struct runner *")
RUN_EXIT: int = lib.RUN_EXIT
decode = exits.decode


class Loop:
    """The record of one :meth:`Vcpu.run_loop`: doorbells answered, TSC stamps of its last entries.

    ``exit`` is the exit that ended it, None where the limit did.
    """

    def __init__(self, limit: int, stamps: int) -> None:
        self._stamps = ffi.new("struct run_stamp[]", stamps)
        self._record = ffi.new(
            "struct run_record *", {"limit": limit, "capacity": stamps, "stamps": self._stamps}
        )
        self.exit: exits.Exit | None = None

    @property
    def doorbells(self) -> int:
        """How many doorbells were answered."""
        return int(self._record.doorbells)

    @property
    def stamps(self) -> list[tuple[int, int]]:
        """TSC (entry, exit) around each KVM_RUN, oldest first; the newest ``stamps`` of them.

        The last one is of the entry that ended the loop, unless the limit ended it.
        """
        capacity = self._record.capacity
        count = self._record.stamped
        kept = range(max(0, count - capacity), count)
        return [(s.entry, s.exit) for s in (self._stamps[at % capacity] for at in kept)]


class Vcpu:
    """One vCPU; made by :meth:`kvmtest.kvm.vm.Vm.create_vcpu`. Run it from one thread at a time."""

    def __init__(
        self, fd: int, number: int, mmap_size: int, check_extension: Callable[[str], int]
    ) -> None:
        self.fd = fd
        self.id = number
        self._name = f"vCPU {number}"
        self._check_extension = check_extension
        try:
            self._mapping = MappedMemory(mmap_size, fd)
        except OSError:
            os.close(fd)
            raise
        self._buffer = self._mapping.buffer
        self.kvm_run: Any = ffi.cast(KVM_RUN, self._mapping.pointer)
        self._runner = ffi.new(RUNNER)
        self._runner.fd, self._runner.run = fd, self.kvm_run
        self._stats: Stats | None = None
        self._run_once = lib.run_once

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def _ioctl(self, name: str, argument: Any = 0) -> int:
        return ioctl(self.fd, name, argument, self._name)

    def _get(self, name: str, ctype: str) -> Any:
        struct = ffi.new(ctype)
        self._ioctl(name, struct)
        return struct

    # Running

    def run(self, timeout: float = DEFAULT_TIMEOUT) -> exits.Exit:
        """Enter the guest (KVM_RUN) until it exits, and return the exit.

        Returns :class:`exits.Deadline` after ``timeout`` seconds, :class:`exits.Stopped` after
        :meth:`stop`, and :class:`exits.Signal` after a signal that is not ours. KVM completes an
        I/O or MMIO exit only when the vCPU runs again.
        Raises :class:`KvmError` where KVM_RUN fails.
        """
        ns = DEFAULT_TIMEOUT_NS if timeout is DEFAULT_TIMEOUT else _nanoseconds(timeout)
        end = self._run_once(self._runner, ns)
        if end == RUN_EXIT:
            return decode(self.kvm_run, self._buffer)
        return self._ended(end, timeout)

    def run_loop(
        self,
        doorbell_port: int,
        *,
        limit: int = 0,
        stamps: int = 0,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Loop:
        """Re-enter the guest natively after each OUT to ``doorbell_port``.

        Ends on any other exit, after ``limit`` doorbells (0 for no limit), after ``timeout``
        seconds in all, or on :meth:`stop`. Keeps the TSC stamps of the last ``stamps`` entries.
        """
        loop = Loop(limit, stamps)
        ns = _nanoseconds(timeout)
        end = lib.run_loop(self._runner, loop._record, doorbell_port, ns)
        if end == RUN_EXIT:
            loop.exit = decode(self.kvm_run, self._buffer)
        elif end != lib.RUN_LIMIT:
            loop.exit = self._ended(end, timeout)
        return loop

    def _ended(self, end: int, timeout: float) -> exits.Exit:
        if end == lib.RUN_DEADLINE:
            return exits.Deadline(timeout)
        if end == lib.RUN_STOPPED:
            return exits.Stopped()
        if end == lib.RUN_SIGNAL:
            return exits.Signal()
        raise KvmError("KVM_RUN", self._runner.error, self._name)

    def stop(self) -> None:
        """End the vCPU's run, and every later one, until :meth:`clear_stop`; from any thread."""
        lib.run_stop(self._runner)

    def clear_stop(self) -> None:
        """Let the vCPU run again."""
        lib.run_clear_stop(self._runner)

    def complete(self) -> None:
        """Complete a pending I/O or MMIO exit without entering the guest (immediate_exit)."""
        self.kvm_run.immediate_exit = 1
        try:
            self._ioctl("KVM_RUN")
        except KvmError as error:
            if error.errno != errno.EINTR:  # With immediate_exit EINTR means success.
                raise
        finally:
            self.kvm_run.immediate_exit = 0

    def set_io_data(self, data: bytes) -> None:
        """Give the data of an IN that the vCPU has exited for, ``size * count`` bytes.

        The guest gets them when the exit is completed.
        """
        start = self.kvm_run.io.data_offset
        self._buffer[start : start + len(data)] = data

    @property
    def entries(self) -> int:
        """The number of KVM_RUN calls that :meth:`run` and :meth:`run_loop` made."""
        return int(self._runner.entries)

    @property
    def tsc_entry(self) -> int:
        """The TSC just before the last KVM_RUN."""
        return int(self._runner.tsc_entry)

    @property
    def tsc_exit(self) -> int:
        """The TSC just after the last KVM_RUN."""
        return int(self._runner.tsc_exit)

    # Registers

    def get_regs(self) -> Any:
        """Return the general registers, a ``struct kvm_regs *``."""
        return self._get("KVM_GET_REGS", "struct kvm_regs *")

    def set_regs(self, regs: Any) -> None:
        """Set the general registers."""
        self._ioctl("KVM_SET_REGS", regs)

    def get_sregs(self) -> Any:
        """Return segments, control registers and tables, a ``struct kvm_sregs *``."""
        return self._get("KVM_GET_SREGS", "struct kvm_sregs *")

    def set_sregs(self, sregs: Any) -> None:
        """Set segments, control registers and tables."""
        self._ioctl("KVM_SET_SREGS", sregs)

    def get_debugregs(self) -> Any:
        """Return DR0-3, DR6 and DR7, a ``struct kvm_debugregs *``."""
        return self._get("KVM_GET_DEBUGREGS", "struct kvm_debugregs *")

    def set_debugregs(self, debugregs: Any) -> None:
        """Set DR0-3, DR6 and DR7."""
        self._ioctl("KVM_SET_DEBUGREGS", debugregs)

    def get_vcpu_events(self) -> Any:
        """Return pending exceptions, interrupts, NMIs and SMIs, a ``struct kvm_vcpu_events *``."""
        return self._get("KVM_GET_VCPU_EVENTS", "struct kvm_vcpu_events *")

    def set_vcpu_events(self, events: Any) -> None:
        """Set pending exceptions, interrupts, NMIs and SMIs."""
        self._ioctl("KVM_SET_VCPU_EVENTS", events)

    def get_mp_state(self) -> int:
        """Return the multiprocessing state, one of KVM_MP_STATE_*."""
        return int(self._get("KVM_GET_MP_STATE", "struct kvm_mp_state *").mp_state)

    def set_mp_state(self, state: int) -> None:
        """Set the multiprocessing state."""
        self._ioctl("KVM_SET_MP_STATE", ffi.new("struct kvm_mp_state *", {"mp_state": state}))

    def set_guest_debug(self, control: int, debugreg: Iterable[int] = ()) -> None:
        """Set single-stepping and breakpoints; ``control`` combines KVM_GUESTDBG_*."""
        debug = ffi.new("struct kvm_guest_debug *", {"control": control})
        for at, value in enumerate(debugreg):
            debug.arch.debugreg[at] = value
        self._ioctl("KVM_SET_GUEST_DEBUG", debug)

    def get_cpuid(self) -> Cpuid:
        """Return the guest's CPUID table."""
        struct = ffi.new("struct kvm_cpuid2 *", {"nent": 256, "entries": 256})
        self._ioctl("KVM_GET_CPUID2", struct)
        return Cpuid.from_struct(struct)

    def set_cpuid(self, cpuid: Cpuid) -> None:
        """Set the guest's CPUID table; before the first run."""
        self._ioctl("KVM_SET_CPUID2", cpuid.to_struct())

    # MSRs

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Return MSRs by index; raises :class:`MsrRefused` with the first index that is refused."""
        wanted = list(indices)
        msrs = self._msrs("KVM_GET_MSRS", [(index, 0) for index in wanted])
        return {msrs.entries[at].index: msrs.entries[at].data for at in range(len(wanted))}

    def get_msr(self, index: int) -> int:
        """Return one MSR; raises :class:`MsrRefused`."""
        return self.get_msrs([index])[index]

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Set MSRs in order; raises :class:`MsrRefused` at the first that is refused."""
        self._msrs("KVM_SET_MSRS", list(values.items()))

    def set_msr(self, index: int, value: int) -> None:
        """Set one MSR; raises :class:`MsrRefused`."""
        self.set_msrs({index: value})

    def _msrs(self, name: str, pairs: list[tuple[int, int]]) -> Any:
        entries = [{"index": index, "data": data} for index, data in pairs]
        msrs = ffi.new("struct kvm_msrs *", {"nmsrs": len(pairs), "entries": entries})
        done = self._ioctl(name, msrs)
        if done < len(pairs):
            index, value = pairs[done]
            raise MsrRefused(name, index, value if name == "KVM_SET_MSRS" else None)
        return msrs

    # Nested state, SMIs, interrupts

    def get_nested_state(self) -> bytes:
        """Return the nested state: ``struct kvm_nested_state`` and the VMCSs after it.

        Raises :class:`CapabilityMissing` where KVM has no nested virtualisation.
        """
        state = ffi.new("char[]", 1 << 14)
        struct = ffi.cast("struct kvm_nested_state *", state)
        struct.size = len(state)
        self._nested("KVM_GET_NESTED_STATE", struct)
        return bytes(ffi.buffer(state, struct.size))

    def set_nested_state(self, state: bytes) -> None:
        """Set the nested state that :meth:`get_nested_state` gave, changed or not."""
        copy = ffi.new("char[]", state)
        self._nested("KVM_SET_NESTED_STATE", ffi.cast("struct kvm_nested_state *", copy))

    def _nested(self, name: str, struct: Any) -> None:
        if not self._check_extension("KVM_CAP_NESTED_STATE"):
            raise CapabilityMissing("KVM_CAP_NESTED_STATE")
        self._ioctl(name, struct)

    def smi(self) -> None:
        """Queue an SMI for the guest (KVM_SMI); raises :class:`CapabilityMissing`."""
        if not self._check_extension("KVM_CAP_X86_SMM"):
            raise CapabilityMissing("KVM_CAP_X86_SMM")
        self._ioctl("KVM_SMI")

    def nmi(self) -> None:
        """Queue an NMI for the guest (KVM_NMI)."""
        self._ioctl("KVM_NMI")

    def interrupt(self, vector: int) -> None:
        """Queue an interrupt (KVM_INTERRUPT); only without an irqchip in the kernel."""
        self._ioctl("KVM_INTERRUPT", ffi.new("struct kvm_interrupt *", {"irq": vector}))

    # Registers in kvm_run

    def sync(self, fields: int) -> Any:
        """Have KVM copy registers into kvm_run at every exit, and return where they are.

        ``fields`` combines KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS and KVM_SYNC_X86_EVENTS; 0 ends
        the copying. The result is a ``struct kvm_sync_regs`` that each exit overwrites.
        """
        self.kvm_run.kvm_valid_regs = fields
        return self.kvm_run.s.regs

    def sync_dirty(self, fields: int) -> None:
        """Have KVM take these registers from kvm_run at the next entry."""
        self.kvm_run.kvm_dirty_regs = fields

    def stats(self) -> dict[str, int | tuple[int, ...]]:
        """Return KVM's counters of this vCPU (exits, for one) by name.

        Raises :class:`CapabilityMissing` where KVM has no binary statistics.
        """
        return self._statistics().read()

    def stat(self, name: str) -> int:
        """Return one of KVM's counters of this vCPU, such as "exits"; raises as :meth:`stats`."""
        return self._statistics().read_one(name)

    def _statistics(self) -> Stats:
        if self._stats is None:
            if not self._check_extension("KVM_CAP_BINARY_STATS_FD"):
                raise CapabilityMissing("KVM_CAP_BINARY_STATS_FD")
            self._stats = Stats(self._ioctl("KVM_GET_STATS_FD"))
        return self._stats

    def close(self) -> None:
        """Stop the vCPU if it runs, and close every descriptor of it.

        ``kvm_run`` and synced registers are invalid then; a later run raises :class:`KvmError`.
        """
        if self.fd < 0:
            return
        lib.run_close(self._runner)
        self.kvm_run = ffi.NULL
        self._buffer = b""
        self._mapping.close()
        if self._stats:
            self._stats.close()
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> "Vcpu":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _nanoseconds(timeout: float) -> int:
    if not 0 <= timeout <= LONGEST_TIMEOUT:
        raise ValueError(f"a run's timeout is 0 to {LONGEST_TIMEOUT:g} seconds, not {timeout}")
    return int(timeout * 1e9)
