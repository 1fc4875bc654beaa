"""Refused entries
===============

Makes the CPU refuse one VM-entry of a vCPU, so that KVM dumps the VMCS of that entry
(kvm_intel.dump_invalid_vmcs). Then the vCPU's state is restored, and the vCPU can run on.
"""

import secrets
import time
from dataclasses import dataclass
from typing import Self

from kvmtest.host.changes.journal import Journal
from kvmtest.host.observe.kernel_log import KernelLog, Position
from kvmtest.host.observe.vmcs_dump import VmcsDump, dump_of
from kvmtest.host.tree import Tree
from kvmtest.kvm import Exit, FailEntryExit, Vcpu
from kvmtest.missing import Missing

__all__ = ["INVALID_GUEST_STATE", "Refusal", "Refusals", "non_canonical"]

PARAMETER = "/sys/module/kvm_intel/parameters/dump_invalid_vmcs"

#: Exit reason 33, invalid guest state, with bit 31: VM-entry failure (Intel SDM volume 3, 27.8).
INVALID_GUEST_STATE = 0x80000021

# The dump is in the log when KVM_RUN returns; a record that another CPU has begun can hold it up.
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The outcome of one refused entry: its exit, and the dump with this refusal's FS base.

    ``lost`` counts lines of the kernel log that were overwritten unread since the refusal.
    """

    exit: Exit
    fs_base: int
    dump: VmcsDump | Missing
    lost: int

    @property
    def problem(self) -> Missing | None:
        """Why the refusal shows nothing of the VMCS; None if it does."""
        reason = getattr(self.exit, "hardware_entry_failure_reason", None)
        if not isinstance(self.exit, FailEntryExit) or reason != INVALID_GUEST_STATE:
            end = type(self.exit).__name__ + ("" if reason is None else f" {reason:#x}")
            what = f"the entry with a non-canonical FS base ended in {end}"
            return Missing(what, "report this CPU, or the hypervisor above")
        if self.lost:
            what = f"{self.lost} lines of the kernel log were lost"
            return Missing(what, "boot with a larger log_buf_len")
        return self.dump if isinstance(self.dump, Missing) else None


class Refusals:
    """Makes refusals and reads their dumps from ``log``; close it after use.

    Switches dump_invalid_vmcs on through ``journal``.
    """

    def __init__(self, journal: Journal, log: KernelLog, *, is_own: bool = False) -> None:
        journal.write(PARAMETER, "1")
        self._log = log
        self._is_own = is_own
        self._patience = 0.0 if journal.dry_run else PATIENCE_S

    @classmethod
    def open(
        cls, tree: Tree, journal: Journal, log: KernelLog | None = None
    ) -> "Refusals | Missing":
        """Switch the dumps on, or return what is missing.

        The dumps are read from ``log``, or without one from a newly opened kernel log.
        """
        if log is not None:
            return cls(journal, log)
        opened = KernelLog.open(tree)
        if isinstance(opened, Missing):
            return opened
        try:
            return cls(journal, opened, is_own=True)
        except BaseException:
            opened.close()
            raise

    def refuse(self, vcpu: Vcpu) -> Refusal:
        """Make the CPU refuse the vCPU's next entry, and restore the vCPU's segments."""
        fs_base = non_canonical()
        good, bad = vcpu.get_sregs(), vcpu.get_sregs()
        bad.fs.base = fs_base
        before = self._log.here()
        vcpu.set_sregs(bad)
        try:
            end = vcpu.run()
        finally:
            vcpu.set_sregs(good)
        return self._read(end, fs_base, before)

    def _read(self, end: Exit, fs_base: int, before: Position) -> Refusal:
        deadline = time.monotonic() + self._patience
        while True:
            slice_ = self._log.since(before)
            dump = dump_of(slice_.records, fs_base)
            left = deadline - time.monotonic()
            if isinstance(dump, VmcsDump) or left <= 0 or not self._log.await_more(left):
                return Refusal(end, fs_base, dump, slice_.lost)

    def close(self) -> None:
        """Close the log if this object opened it."""
        if self._is_own:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def non_canonical() -> int:
    """Return a random address that is non-canonical with 48 and with 57 bits.

    Bits 63 to 56 are not all alike. The rest is random, so that the dump is unlike any other.
    """
    return (1 + secrets.randbelow(0x7E)) << 56 | secrets.randbits(56)
