"""The counters of a leak experiment
=================================

Counters of a guest's execution: the host's perf events that count guest mode, or the guest's own
counters; and the counts that a watch is known to add.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from kvmtest.errors import EnvironmentUnfit
from kvmtest.guests import Guest, commands
from kvmtest.guests.mailbox import watch_instructions
from kvmtest.host.facts.perf_pmus import core_pmu
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.pmu import CounterGroup, find_event

__all__ = ["Counters", "GuestCounters", "HostCounters", "with_host_counters"]

# SDM volume 4, table 2-2, and volume 3, 20.2 (architectural performance monitoring).
IA32_PERFEVTSEL0, IA32_FIXED_CTR_CTRL, IA32_PERF_GLOBAL_CTRL = 0x186, 0x38D, 0x38F
INSTRUCTIONS_RETIRED = 0xC0
USR, OS, ENABLE = 1 << 16, 1 << 17, 1 << 22
FIXED_OS, FIXED_USR = 1, 2
#: RDPMC's bit for fixed counters, which also enables the first of them in IA32_PERF_GLOBAL_CTRL.
RDPMC_FIXED, GLOBAL_FIXED = 1 << 30, 1 << 32

#: A guest shares its CPU with SMIs and threads, so that a command may outlast its watch.
PATIENCE_S = 10.0


class Counters(Protocol):
    """Counters of a guest that waits for commands."""

    def read(self) -> Mapping[str, int]:
        """Return the counts by name; the guest may run for the read."""

    def known(self, polls: int, gaps: int) -> Mapping[str, int]:
        """Return the counts that a watch is known to add, except for a constant."""


class HostCounters:
    """perf events that count this thread's guest mode alone, with user and kernel mode apart.

    Some Atom cores count one more instruction for each VM-exit and entry. The counts keep the cost
    of exits, and kvmtest.judge.baseline learns that cost from windows without SMIs.

    With ``modes``, the only event is instructions, counted once with each of these modifiers: their
    number is known for everything that the guest executes.

    A context manager. Raises CounterError.
    """

    def __init__(self, machine: Machine, cpu: int, *, modes: Sequence[str] = ()) -> None:
        pmus = machine.pmus
        if isinstance(pmus, Missing):
            raise EnvironmentUnfit(str(pmus))
        pmu = core_pmu(pmus, cpu)
        if isinstance(pmu, Missing):
            raise EnvironmentUnfit(str(pmu))
        self._instructions = [f"{pmu.name}/instructions/{mode}" for mode in modes or ("kG",)]
        self._nothing: dict[str, int] = {}
        names = self._instructions
        if not modes:
            user = [f"{pmu.name}/{event}/uG" for event in ("instructions", "cpu-cycles")]
            # The guest runs in kernel mode alone.
            self._nothing = dict.fromkeys(user, 0)
            names = [*names, f"{pmu.name}/cpu-cycles/kG", *user]
        events = [find_event(machine.tree, name, pmus) for name in names]
        self._group = CounterGroup(machine.tree, events, pinned=True)

    def __enter__(self) -> "HostCounters":
        self._group.enable()
        return self

    def __exit__(self, *exception: object) -> None:
        self._group.close()

    def read(self) -> Mapping[str, int]:
        """Return the counts. Raises CounterError."""
        return self._group.read().by_name()

    def known(self, polls: int, gaps: int) -> Mapping[str, int]:
        """Return the instructions of a watch, and 0 for user mode."""
        executed = dict.fromkeys(self._instructions, watch_instructions(polls, gaps))
        return {**executed, **self._nothing}


class GuestCounters:
    """The guest's own counters: a fixed and a general one, both of instructions, read by RDPMC.

    Between two reads of a counter, the guest executes its watch and a constant.
    """

    _INDICES: Mapping[str, int] = {
        "guest's instructions (fixed counter 0)": RDPMC_FIXED,
        "guest's instructions (counter 0)": 0,
    }
    _SETUP: Mapping[int, int] = {
        IA32_FIXED_CTR_CTRL: FIXED_OS | FIXED_USR,
        IA32_PERFEVTSEL0: INSTRUCTIONS_RETIRED | USR | OS | ENABLE,
        IA32_PERF_GLOBAL_CTRL: GLOBAL_FIXED | 1,
    }

    def __init__(self, guest: Guest) -> None:
        """Switch the counters on; raises GuestFault where KVM gives the guest none."""
        self._guest = guest
        writes = [commands.wrmsr(msr, value) for msr, value in self._SETUP.items()]
        for result in guest.execute(*writes):
            _ = result.value

    def read(self) -> Mapping[str, int]:
        """Have the guest read its counters."""
        reads = [commands.rdpmc(index) for index in self._INDICES.values()]
        results = self._guest.execute(*reads, timeout=PATIENCE_S)
        return dict(zip(self._INDICES, (result.value for result in results), strict=True))

    def known(self, polls: int, gaps: int) -> Mapping[str, int]:
        """Return the instructions of a watch; the code around the watch is the constant."""
        return dict.fromkeys(self._INDICES, watch_instructions(polls, gaps))


def with_host_counters(stack: ExitStack, machine: Machine, _: Guest, cpu: int) -> Counters:
    """Return counters of the calling thread's guest mode."""
    return stack.enter_context(HostCounters(machine, cpu))
