"""What VM-entries and exits do to the host: vmx_vcpu_run, and tdx_vcpu_run with its faults."""

from collections.abc import Collection
from pathlib import Path

from .host import TDX_VCPU_RUN, VMX_VCPU_RUN, Host

_LOAD_DEBUGCTL = 1 << 2
_PROCESSOR_FIELD = 36
#: So often an interrupt of the host has KVM enter again within one KVM_RUN. As on a real host, hits
#: outnumber KVM_RUNs then, of which some end before they enter.
_INTERRUPTED_EVERY = 8


def _again(entries: int) -> bool:
    return not entries % _INTERRUPTED_EVERY


class OrdinaryEntries:
    """The entries of a vCPU that is no TD's, on a kernel with the fix (commit 6b1dd26544d0)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._host_debugctl = 0
        self._count = 0

    def enter(self, tid: int, cpu: int) -> None:
        """Note an entry on a CPU: the flag is raised once for each change of the host's bit."""
        bit = self._host.bit(cpu)
        flags = _LOAD_DEBUGCTL if bit != self._host_debugctl else 0
        self._host_debugctl = bit
        self._host.hit(VMX_VCPU_RUN, tid, cpu, flags)
        self._count += 1
        if _again(self._count):
            self._host.hit(VMX_VCPU_RUN, tid, cpu, 0)


class Entries:
    """The entries of a TD's vCPU, by the threads that run it."""

    def __init__(self, host: Host, faults: Collection[str]) -> None:
        self._host = host
        self._faults = frozenset(faults)
        self.count = 0
        self.was_toggled = False
        #: The host's bit 14 at the first entry, and at the last one.
        self._at_first: int | None = None
        self._at_last: int | None = None

    def enter(self, tid: int, cpu: int) -> str:
        """Note an entry on a CPU; return why the TD dies of it, or ""."""
        bit, before = self._host.bit(cpu), self._at_last
        is_toggled = before is not None and before != bit
        self._at_last = bit
        self.was_toggled |= is_toggled
        if self._at_first is None:
            self._at_first = bit
        self.count += 1
        # As KVM compares with a new vCPU's host_debugctl, which is 0.
        is_flagged = bit != (before or 0) and bool(self._faults & {"flag-seen", "flag-unwarned"})
        self._host.hit(TDX_VCPU_RUN, tid, cpu, _LOAD_DEBUGCTL if is_flagged else 0)
        if _again(self.count):
            self._host.hit(TDX_VCPU_RUN, tid, cpu, 0)
        if (is_flagged and "flag-seen" in self._faults) or (is_toggled and "warns" in self._faults):
            self._host.warn_on_once(TDX_VCPU_RUN, cpu, tid)
        return "a toggle" if is_toggled and "dies-of-toggle" in self._faults else ""

    def leave(self, cpu: int) -> None:
        """Note a TD exit on a CPU, whose IA32_DEBUGCTL KVM has to bring back."""
        if "host-bit-lost" in self._faults:
            self._host.set_bit(cpu, 0)
        if "host-bit-set" in self._faults:
            self._host.set_bit(cpu, 1)
        if "host-bit-stale" in self._faults:
            self._host.set_bit(cpu, self._at_first or 0)


def processor(tid: int) -> int:
    """Return the CPU that a thread last ran on (proc(5), field 39 of stat)."""
    stat = Path(f"/proc/{tid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[_PROCESSOR_FIELD])
