"""The witness runflags
====================

Reads the run flags that KVM hands to vmx_vcpu_run, svm_vcpu_run or tdx_vcpu_run, by a probe at its
beginning.
"""

from contextlib import ExitStack
from typing import ClassVar, Self

from kvmtest.checks.context import Context, Observations
from kvmtest.guests import Guest
from kvmtest.host.changes.journal import JournalError
from kvmtest.host.changes.kprobes import KprobeEvent
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.facts.run_flags import RunFlags
from kvmtest.host.observe.trace import Hits
from kvmtest.judge import claim, control, measure
from kvmtest.missing import Missing

from . import owned_mask
from .witness import Entry

__all__ = ["RunFlagsWitness"]

REMEDY = "run outside a container, where task ids are the machine's own"


class RunFlagsWitness:
    """Sees whether an entry's run flags have KVM_RUN_LOAD_DEBUGCTL.

    On AMD, the hits also have KVM's mask of host-owned bits: see :mod:`.owned_mask`.
    """

    name: ClassVar[str] = "runflags"
    makes_entry: ClassVar[bool] = False

    def __init__(self, probe: KprobeEvent, flags: RunFlags) -> None:
        self._probe = probe
        self._flags = flags
        # Kept for the controls.
        self._hits = Hits()
        self._entries = 0
        self._entries_before = 0

    @classmethod
    def open(cls, context: Context, stack: ExitStack) -> "Self | Missing":
        """Return a witness that uses the run's probe, which pauses as the stack closes."""
        flags, module = context.machine.run_flags, context.machine.kvm_module
        if isinstance(flags, Missing):
            return flags
        fetch = {"flags": f"%{flags.register}"}
        if isinstance(module, KvmModule) and module.name == "kvm_amd":
            mask = owned_mask.fetched(context.machine)
            if isinstance(mask, Missing):
                return mask
            fetch |= mask
        return cls._at(context, stack, "entry", flags, fetch)

    @classmethod
    def open_for_tds(cls, context: Context, stack: ExitStack) -> "Self | Missing":
        """Return a witness of the entries of TDs, which go through tdx_vcpu_run."""
        flags = context.machine.td_run_flags
        if isinstance(flags, Missing):
            return flags
        fetch = {"flags": f"%{flags.register}"}
        return cls._at(context, stack, "td_entry", flags, fetch)

    @classmethod
    def _at(
        cls,
        context: Context,
        stack: ExitStack,
        event: str,
        flags: RunFlags,
        fetch: dict[str, str],
    ) -> "Self | Missing":
        try:
            probe = context.probe.get(event, flags.place, fetch)
        except JournalError as error:
            remedy = "look at /sys/kernel/tracing/error_log, and run as root without lockdown"
            return Missing(str(error), remedy)
        stack.callback(probe.record, on=False)
        return cls(probe, flags)

    def prepare(self, guest: Guest) -> None:
        """Drop the hits since the last look."""
        self.collect()
        self._entries_before = guest.vcpu.entries

    def look(self, entry: Entry) -> Observations:
        """Claim that the entry was, or was not, told to load DEBUGCTL."""
        hits = self.collect(entry.guest.vcpu.entries - self._entries_before).hits
        if entry.flagged is not None and hits:
            first = hits[0].values["flags"]
            what = f"KVM_RUN_LOAD_DEBUGCTL {entry.state}"
            observed = int(self.is_flagged(first))
            yield claim("runflags", what, observed, entry.flagged, run_flags=hex(first))

    def collect(self, entries: int = 0) -> Hits:
        """Return the hits since the last time; ``entries`` KVM_RUNs must be among them."""
        hits = self._probe.read()
        if entries:
            self.account(hits, entries)
        return hits

    def account(self, hits: Hits, entries: int = 0) -> None:
        """Add these hits, and ``entries`` KVM_RUNs, to those that the controls check."""
        self._hits += hits
        self._entries += entries

    def flagged(self, hits: Hits) -> list[int]:
        """Return which of the hits, counted from 0, have KVM_RUN_LOAD_DEBUGCTL."""
        return [at for at, hit in enumerate(hits.hits) if self.is_flagged(hit.values["flags"])]

    def is_flagged(self, run_flags: int) -> bool:
        """Tell whether run flags have KVM_RUN_LOAD_DEBUGCTL."""
        return bool(run_flags & self._flags.load_debugctl)

    def follow(self, tasks: list[int]) -> None:
        """From now on, take only hits of these tasks (thread ids)."""
        self._probe.follow(tasks)

    def record(self, *, on: bool) -> None:
        """Go on recording hits, or pause: those recorded are still collected."""
        self._probe.record(on=on)

    def figure(self, state: str, entries: int) -> Observations:
        """Record how often the flag was raised in ``entries`` KVM_RUNs, without a claim."""
        hits = self.collect(entries)
        if hits.hits:
            raised, what = len(self.flagged(hits)), f"KVM_RUN_LOAD_DEBUGCTL raised {state}"
            yield measure("runflags", what, raised, hits=len(hits.hits))

    def controls(self, guest: Guest) -> Observations:
        """Show that every KVM_RUN had a hit, in the right function, with flags that are known."""
        hits, entries = self._hits.hits, self._entries
        function = self._flags.function
        what = f"{function} was hit at least once for each of {entries} KVM_RUNs"
        yield control("runflags", what, len(hits) >= entries > 0, True, REMEDY, hits=len(hits))
        yield from self.probe_controls()

    def probe_controls(self) -> Observations:
        """Show that the hits were in the right function, whole, and with flags that are known."""
        hits = self._hits.hits
        function = self._flags.function
        elsewhere = sorted({hit.symbol for hit in hits} - {function})
        what = f"functions other than {function} that were hit"
        yield control("runflags", what, ", ".join(elsewhere) or "none", "none", REMEDY)
        what = "hits that the trace lost"
        yield control("runflags", what, "some" if self._hits.lost else "none", "none", "try again")
        unknown = 0
        for hit in hits:
            unknown |= hit.values["flags"] & ~self._flags.known
        what = "bits in the run flags that enum kvm_x86_run_flags does not have"
        yield control("runflags", what, hex(unknown), hex(0), "report this kernel's BTF")
