"""The scene of a VMX check
========================

What the checks of vmx.entry.* and vmx.guest.* share: the knob and what the host's MSRs make of it,
guests, and the witnesses vmcs (a refused entry's dump) and runflags (a probe on vmx_vcpu_run). What
has no knob and no dump, the checks of svm.*, shares guests and probe.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TypeVar

from kvmtest.checks.context import Context
from kvmtest.checks.preconditions import witness_lacks
from kvmtest.checks.witnesses.refused_entry import Refusals
from kvmtest.errors import EnvironmentUnfit
from kvmtest.guests import Guest, commands, guest_memory, long_guest
from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.host.changes.journal import JournalError
from kvmtest.host.changes.kprobes import KprobeEvent
from kvmtest.host.facts.freeze_knob import Knob
from kvmtest.host.facts.msr import (
    IA32_DEBUGCTL,
    IA32_DEBUGCTL_FREEZE_WHILE_SMM,
    MsrAccess,
    freeze_bit,
)
from kvmtest.host.facts.run_flags import RunFlags
from kvmtest.host.observe.trace import Hits
from kvmtest.host.observe.vmcs_dump import VmcsDump
from kvmtest.judge import Absence, Reading, Scalar, claim, control, measure
from kvmtest.kvm import Cpuid, System, Vcpu, Vm
from kvmtest.missing import Missing

from .guest_msrs import allowed_bits

__all__ = ["Observations", "Scene"]

Observations = Iterator[Reading | Absence]
T = TypeVar("T")


class Scene:
    """A context manager for one check; what it changes on the host the journal's scope undoes.

    ``refusals`` and ``probe`` are None where the witness vmcs or runflags can't look, or is not
    ``wanted``. Beside the flags the probe fetches what ``fetch`` names (changes/kprobes.py). Its
    methods yield readings as they take them.
    """

    def __init__(
        self, context: Context, *wanted: str, fetch: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.machine = context.machine
        self.journal = context.journal
        #: Tells whoever wants to know what the check is at.
        self.say = context.say
        self._run_log = context.kernel_log
        self._run_probe = context.probe
        self.refusals: Refusals | None = None
        self.probe: KprobeEvent | None = None
        self.flags: RunFlags | None = None
        self._wanted = wanted
        self._fetch = fetch
        self._absences: list[Absence] = []
        self._booted: set[Guest] = set()
        self._hits = Hits()
        self._entries = 0
        self._stack = ExitStack()

    def __enter__(self) -> "Scene":
        try:
            self.system = self._stack.enter_context(System())
            self._open_refusals()
            self._open_probe()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _open_refusals(self) -> None:
        if "vmcs" not in self._wanted or witness_lacks(self.machine, "vmcs"):
            return
        run = self._run_log
        log = None if isinstance(run, Missing) else run.log
        refusals = Refusals.open(self.machine.tree, self.journal, log)
        if isinstance(refusals, Missing):
            self._absences.append(Absence("vmcs", refusals))
        else:
            self.refusals = self._stack.enter_context(refusals)

    def _open_probe(self) -> None:
        if "runflags" not in self._wanted or witness_lacks(self.machine, "runflags"):
            return
        flags = self.machine.run_flags
        if isinstance(flags, Missing):
            self._absences.append(Absence("runflags", flags))
            return
        self.flags = flags
        try:
            fetch = {"flags": f"%{flags.register}", **self._fetch}
            self.probe = self._run_probe.get("entry", flags.place, fetch)
        except JournalError as error:
            remedy = "look at /sys/kernel/tracing/error_log, and run as root without lockdown"
            self._absences.append(Absence("runflags", Missing(str(error), remedy)))

    @property
    def speakers(self) -> list[str]:
        """The wanted witnesses that look here."""
        looking = {"vmcs": self.refusals, "runflags": self.probe}
        return [name for name in self._wanted if looking.get(name, True)]

    def begin(self) -> Observations:
        """Say which witnesses can't look, and why."""
        yield from self._absences

    # The knob

    @property
    def knob(self) -> Knob:
        """The freeze_on_smi knob; raises EnvironmentUnfit where there is none."""
        return _there(self.machine.knob)

    @property
    def msr(self) -> MsrAccess:
        """The host's MSRs; raises EnvironmentUnfit where they can't be read."""
        return _there(self.machine.msr)

    def set_knob(self, value: int) -> Observations:
        """Write the knob for certain, and show on every CPU that the MSR follows: a control.

        The kernel sends no IPIs where the value stays, so that it is changed away first: a guest
        may have left MSRs behind that are not what the knob says.
        """
        if self.knob.value() == value:
            write_knob(self.journal, self.knob, 1 - value)
        write_knob(self.journal, self.knob, value)
        yield from self.show_msrs(value, self.msr.cpus)

    def show_msrs(self, value: int, cpus: tuple[int, ...]) -> Observations:
        """Show that bit 14 of these CPUs' MSR 0x1d9 is ``value``, for each witness of entries."""
        bits = {cpu: freeze_bit(self.msr.read(IA32_DEBUGCTL, cpu)) for cpu in cpus}
        alike = set(bits.values()) == {value}
        observed = value if alike else ", ".join(f"{b} on CPU {cpu}" for cpu, b in bits.items())
        which = f"CPU {','.join(map(str, cpus))}"
        what = f"the host's bit 14 ({which}) with freeze_on_smi={value}"
        for witness in self.speakers:
            remedy = "run where the knob reaches the MSR (see host.knob-effective)"
            yield control(witness, what, observed, value, remedy)

    # Guests

    @contextmanager
    def guest(
        self, cpuid: Cpuid | None = None, *, irqchip: bool = False, pmu: bool = False
    ) -> Iterator[Guest]:
        """Give a 64-bit guest on a new vCPU, not entered yet, with all of CPUID or ``cpuid``.

        With ``irqchip`` its local APIC is in the kernel, with ``pmu`` it has a PMU if KVM has one.
        """
        with self.system.create_vm(pmu=pmu) as vm:
            memory = guest_memory(vm)
            if irqchip:
                vm.create_irqchip()
            yield long_guest(vm, self.vcpu(vm, cpuid), memory)

    def vcpu(self, vm: Vm, cpuid: Cpuid | None = None) -> Vcpu:
        """Return a new vCPU of a VM."""
        vcpu = vm.create_vcpu()
        vcpu.set_cpuid(cpuid or self.system.get_supported_cpuid())
        return vcpu

    def run(self, guest: Guest) -> None:
        """Run the guest for a moment: it comes up, or executes a command. Raises UnexpectedExit."""
        if guest in self._booted:
            guest.execute(commands.nop())
        else:
            guest.boot()
            self._booted.add(guest)

    # Looking

    def look(
        self, guest: Guest, state: str, value: int, *, flagged: int | None = None
    ) -> Observations:
        """Look at the guest's next entry: claim that it carries the host's bit ``value``.

        And, unless ``flagged`` is None, that KVM_RUN_LOAD_DEBUGCTL was raised or not. Without the
        witness vmcs the guest is run instead.
        """
        self.collect()
        before = guest.vcpu.entries
        if self.refusals:
            dump = yield from self.dump(guest.vcpu, state)
            if dump:
                yield self.debugctl_claim(f"bit 14 of DebugCtl in the VMCS {state}", dump, value)
        else:
            self.run(guest)
        if self.probe:
            hits = self.collect(guest.vcpu.entries - before)
            if flagged is not None and hits.hits:
                yield self.flag_claim(f"KVM_RUN_LOAD_DEBUGCTL {state}", hits, flagged)

    def dump(self, vcpu: Vcpu, state: str) -> Generator[Reading, None, VmcsDump | None]:
        """Have the vCPU's next entry refused; give its dump, if it is whole, and a control."""
        assert self.refusals
        refusal = self.refusals.refuse(vcpu)
        expected = f"whole, with FS base {refusal.fs_base:#x}"
        problem, dump = refusal.problem, refusal.dump
        what = f"the dump of the entry refused {state}"
        if problem is not None or isinstance(dump, Missing):
            why = problem or Missing("no dump")
            yield control("vmcs", what, why.what, expected, why.remedy)
            return None
        observed = f"whole, with FS base {dump.fs_base:#x}"
        if not dump.loads_debugctl:
            observed += ", of an entry that does not load DEBUGCTL"
        raw: dict[str, Scalar] = {"entry_controls": hex(dump.entry_controls), "cpu": dump.cpu}
        yield control("vmcs", what, observed, expected, "report this kernel", **raw)
        return dump

    def debugctl_claim(self, what: str, dump: VmcsDump, value: int) -> Reading:
        """Claim that the dump has the host's bit ``value``."""
        return claim(
            "vmcs", what, freeze_bit(dump.debugctl), value, debugctl=hex(dump.debugctl),
            fs_base=hex(dump.fs_base), cpu=dump.cpu,
        )  # fmt: skip

    def flag_claim(self, what: str, hits: Hits, flagged: int) -> Reading:
        """Claim that the first of these entries was, or was not, told to load DEBUGCTL."""
        first = hits.hits[0].values["flags"]
        return claim("runflags", what, int(self.is_flagged(first)), flagged, run_flags=hex(first))

    def is_flagged(self, run_flags: int) -> bool:
        """Tell whether run flags have KVM_RUN_LOAD_DEBUGCTL."""
        return bool(self.flags and run_flags & self.flags.load_debugctl)

    def collect(self, entries: int = 0) -> Hits:
        """Return the probe's hits since the last time; ``entries`` KVM_RUNs must be among them."""
        if self.probe is None:
            return Hits()
        hits = self.probe.read()
        if entries:
            self.account(hits, entries)
        return hits

    def account(self, hits: Hits, entries: int = 0) -> None:
        """Have the controls look at these hits, and at as many KVM_RUNs."""
        self._hits += hits
        self._entries += entries

    # Controls

    def end(self, guest: Guest) -> Observations:
        """Run the controls of the witnesses of entries; last, as they write the guest's DEBUGCTL.

        A guest is given that has come through all; it must run on.
        """
        if self.refusals:
            self.run(guest)
            yield control(
                "vmcs", "the guest ran on after its refused entries", True, True, "report this KVM"
            )
            yield from self._own_bit(guest.vcpu)
        if self.probe:
            yield from self._probe_controls()

    def _own_bit(self, vcpu: Vcpu) -> Observations:
        """Show that a bit of DebugCtl in the dumps comes and goes as userspace writes it."""
        bits = allowed_bits(vcpu)
        if not bits:
            yield measure("vmcs", "DEBUGCTL bits that userspace may set", "none")
            return
        remedy = "report this kernel: its dumps do not show what is in the VMCS"
        for value in (bits[0], 0):
            vcpu.set_msr(IA32_DEBUGCTL, value)
            dump = yield from self.dump(vcpu, f"after userspace wrote {value:#x} to MSR 0x1d9")
            if dump:
                own = dump.debugctl & ~IA32_DEBUGCTL_FREEZE_WHILE_SMM
                what = f"the other bits of DebugCtl after userspace wrote {value:#x} to MSR 0x1d9"
                yield control("vmcs", what, hex(own), hex(value), remedy)

    def _probe_controls(self) -> Observations:
        assert self.flags
        hits, entries = self._hits.hits, self._entries
        remedy = "run outside a container, where task ids are the machine's own"
        function = self.flags.function
        what = f"{function} was hit at least once for each of {entries} KVM_RUNs"
        yield control("runflags", what, len(hits) >= entries > 0, True, remedy, hits=len(hits))
        elsewhere = sorted({hit.symbol for hit in hits} - {function})
        what = f"functions other than {function} that were hit"
        yield control("runflags", what, ", ".join(elsewhere) or "none", "none", remedy)
        what = "hits that the trace lost"
        yield control("runflags", what, "some" if self._hits.lost else "none", "none", "try again")
        unknown = 0
        for hit in hits:
            unknown |= hit.values["flags"] & ~self.flags.known
        what = "bits in the run flags that enum kvm_x86_run_flags does not have"
        yield control("runflags", what, hex(unknown), hex(0), "report this kernel's BTF")


def _there(fact: T | Missing) -> T:
    """Return a fact that the property's preconditions have promised."""
    if isinstance(fact, Missing):
        raise EnvironmentUnfit(str(fact))
    return fact
