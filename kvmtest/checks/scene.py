"""The scene of a check
====================

The knob and the host's MSRs, guests, and the witnesses of the guests' VM-entries.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from kvmtest.errors import EnvironmentUnfit
from kvmtest.guests import Guest, commands, guest_memory, long_guest
from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.host.facts.freeze_knob import Knob
from kvmtest.host.facts.msr import IA32_DEBUGCTL, MsrAccess, freeze_bit
from kvmtest.judge import Absence, control
from kvmtest.kvm import Cpuid, System, Vcpu, Vm
from kvmtest.missing import Missing

from .context import Context, Observations
from .preconditions import witness_lacks
from .witnesses.runflags import RunFlagsWitness
from .witnesses.vmcs import VmcsWitness
from .witnesses.witness import Entry, EntryWitness

__all__ = ["ENTRY_WITNESSES", "Scene"]

T = TypeVar("T")
W = TypeVar("W", bound=EntryWitness)

#: The witnesses of entries, in the order in which they look: one that makes the entry comes first.
ENTRY_WITNESSES: tuple[type[EntryWitness], ...] = (VmcsWitness, RunFlagsWitness)


class Scene:
    """A context manager for one check; the journal's scope undoes its changes of the host.

    ``names`` are the check's witnesses, by their names in properties.WITNESSES. The scene opens the
    witnesses of entries that can look on this machine, and records its controls once for each
    witness that can. Methods yield readings as they take them.
    """

    def __init__(self, context: Context, *names: str) -> None:
        self.machine = context.machine
        self.journal = context.journal
        #: Called with the step that a long check has reached.
        self.on_step = context.on_step
        #: The witnesses of entries that can look on this machine.
        self.witnesses: list[EntryWitness] = []
        self._context = context
        self._names = names
        self._absences: list[Absence] = []
        self._booted: set[Guest] = set()
        self._stack = ExitStack()

    def __enter__(self) -> "Scene":
        try:
            self.system = self._stack.enter_context(System())
            for kind in ENTRY_WITNESSES:
                if kind.name in self._names and not witness_lacks(self.machine, kind.name):
                    self._open(kind)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _open(self, kind: type[EntryWitness]) -> None:
        opened = kind.open(self._context, self._stack)
        if isinstance(opened, Missing):
            self._absences.append(Absence(kind.name, opened))
        else:
            self.witnesses.append(opened)

    def begin(self) -> Observations:
        """Yield an absence for each witness of entries that could not be opened."""
        yield from self._absences

    def witness(self, kind: type[W]) -> W | None:
        """Return the open witness of that class; None if it can't look on this machine."""
        return next((each for each in self.witnesses if isinstance(each, kind)), None)

    @property
    def looking(self) -> list[str]:
        """The names of the check's witnesses, without those of entries that can't look."""
        opened = {each.name for each in self.witnesses}
        absent = {kind.name for kind in ENTRY_WITNESSES} - opened
        return [name for name in self._names if name not in absent]

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
        """Write the knob, and show on every CPU that the MSR follows: a control.

        The knob is changed away first if it has the value already: the kernel sends no IPIs for an
        unchanged value, and a guest may have left other values in the MSRs.
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
        for witness in self.looking:
            remedy = "run where the knob reaches the MSR (see host.knob-effective)"
            yield control(witness, what, observed, value, remedy)

    # Guests

    @contextmanager
    def guest(
        self, cpuid: Cpuid | None = None, *, irqchip: bool = False, pmu: bool = False
    ) -> Iterator[Guest]:
        """Yield a 64-bit guest on a new vCPU, not entered yet.

        Its CPUID is ``cpuid``, or all that KVM supports. ``irqchip`` puts its local APIC into the
        kernel. ``pmu`` gives it a PMU, if KVM has one.
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
        """Run the guest briefly: boot it, or execute one command. Raises UnexpectedExit."""
        if guest in self._booted:
            guest.execute(commands.nop())
        else:
            guest.boot()
            self._booted.add(guest)

    def came_up(self, guest: Guest) -> None:
        """Take a guest as booted, which is to be restored from one that was."""
        self._booted.add(guest)

    # Looking

    def look(
        self,
        guest: Guest,
        state: str,
        host_bit: int | None,
        *,
        flagged: int | None = None,
        cpu: int | None = None,
        own_bits: int | None = None,
    ) -> Observations:
        """Have the guest enter, and every witness look at the entry: see :class:`Entry`."""
        entry = Entry(guest, state, host_bit, flagged, cpu, own_bits)
        for witness in self.witnesses:
            witness.prepare(guest)
        if not any(witness.makes_entry for witness in self.witnesses):
            self.run(guest)
        for witness in self.witnesses:
            yield from witness.look(entry)

    def end(self, guest: Guest) -> Observations:
        """Run the controls of the witnesses of entries, on a guest that must still run.

        Call this last: the controls write the guest's DEBUGCTL.
        """
        self.run(guest)
        for witness in self.witnesses:
            yield from witness.controls(guest)


def _there(fact: T | Missing) -> T:
    """Return a fact that the preconditions promised; raises EnvironmentUnfit without it."""
    if isinstance(fact, Missing):
        raise EnvironmentUnfit(str(fact))
    return fact
