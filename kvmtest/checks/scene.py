"""The scene of a check
====================

The knob and what the host's MSRs make of it, guests, and the witnesses of their VM-entries.
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

#: The witnesses of entries, in the order in which they look: those that make the entry come first.
ENTRY_WITNESSES: tuple[type[EntryWitness], ...] = (VmcsWitness, RunFlagsWitness)


class Scene:
    """A context manager for one check; what it changes on the host the journal's scope undoes.

    ``names`` are the check's witnesses, rows of properties.WITNESSES. Those of entries are opened
    where they can look here; controls of the scene are by every one that can. Its methods yield
    readings as they take them.
    """

    def __init__(self, context: Context, *names: str) -> None:
        self.machine = context.machine
        self.journal = context.journal
        #: Tells whoever wants to know what the check is at.
        self.on_step = context.on_step
        #: The witnesses of entries that look here.
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
        """Say which witnesses of entries can't look, and why."""
        yield from self._absences

    def witness(self, kind: type[W]) -> W | None:
        """Return the witness of entries of that class, None where it does not look here."""
        return next((each for each in self.witnesses if isinstance(each, kind)), None)

    @property
    def looking(self) -> list[str]:
        """The names of the check's witnesses that look here."""
        looking = {each.name for each in self.witnesses}
        silent = {kind.name for kind in ENTRY_WITNESSES} - looking
        return [name for name in self._names if name not in silent]

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
        for witness in self.looking:
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
        self,
        guest: Guest,
        state: str,
        host_bit: int | None,
        *,
        flagged: int | None = None,
        cpu: int | None = None,
        own_bits: int | None = None,
    ) -> Observations:
        """Have the guest enter, and every witness look at that: see :class:`Entry`."""
        entry = Entry(guest, state, host_bit, flagged, cpu, own_bits)
        for witness in self.witnesses:
            witness.prepare(guest)
        if not any(witness.makes_entry for witness in self.witnesses):
            self.run(guest)
        for witness in self.witnesses:
            yield from witness.look(entry)

    def end(self, guest: Guest) -> Observations:
        """Run the controls of the witnesses of entries; last, as they write the guest's DEBUGCTL.

        A guest is given that has come through all; it must run on.
        """
        self.run(guest)
        for witness in self.witnesses:
            yield from witness.controls(guest)


def _there(fact: T | Missing) -> T:
    """Return a fact that the property's preconditions have promised."""
    if isinstance(fact, Missing):
        raise EnvironmentUnfit(str(fact))
    return fact
