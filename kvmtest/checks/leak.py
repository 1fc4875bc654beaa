"""Leaks
=====

vmx.leak.*: what is counted while SMIs come in guest mode, with the knob off and on, and with no
SMIs. The windows of the three arms are interleaved; kvmtest.judge.leak judges them.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.guests import Guest
from kvmtest.guests.mailbox import GuestFault
from kvmtest.guests.nested import NestedGuest
from kvmtest.host.machine import Machine
from kvmtest.host.tsc import tsc_hz
from kvmtest.judge import Absence, Reading, control
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Gap, Samples, Window
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError
from kvmtest.smi import SmiCount, Source, choose, counts, prove

from .context import Context
from .leak_counters import Counters, Execution, GuestCounters, HostCounters
from .vmx_scene import Observations, Scene, only_on

__all__ = ["guest_pmu", "host_events", "l2_events"]

#: Of the interleaved arms; each time another one comes first, against drift.
ROUNDS = 9
ORDER = (Arm.QUIET, Arm.CONTROL, Arm.TREATMENT)
KNOB = {Arm.QUIET: 0, Arm.CONTROL: 0, Arm.TREATMENT: 1}
#: SMIs that a window is long enough for. In all they are fewer than a hundred.
SMIS_PER_WINDOW = 5
#: A firmware's handlers take up to a millisecond: at such rates a machine still does its work.
RATE_HZ = 50.0
#: An emulated machine's handler is short, and the machine slow.
LAB_RATE_HZ = 5000.0
#: SMIs that a source proves itself by.
PROOFS = 4
#: To learn how the guest's time goes without exits: so many short watches.
TRIALS, TRIAL_S = 15, 0.0002
#: Between the longest step without an exit and the shortest gap that is one.
MARGIN = 1.5
#: A gap that no guest has.
NO_GAP = 1 << 62
#: The guest's TSC is read so often, and the read that took least time is believed.
IA32_TSC, OFFSET_READS = 0x10, 5

#: What makes the counters for a guest on a CPU; in a stack that closes them.
MakeCounters = Callable[[ExitStack, Machine, Guest, int], Counters]


def host_events(context: Context) -> Observations:
    """Count a guest's execution by perf events of the host."""
    yield from _experiment(context, _host_counters)


def guest_pmu(context: Context) -> Observations:
    """Have the guest count its own execution."""
    yield from _experiment(context, lambda _, __, guest, ___: GuestCounters(guest))


def l2_events(context: Context) -> Observations:
    """Count L2 by perf events of the host. L1 sees each toggle first, and then enters L2 anew."""
    yield from _experiment(context, _host_counters, nested=True)


@dataclass(frozen=True, slots=True)
class Smis:
    """What raises SMIs, what counts them on ``cpu``, and how long a window is."""

    source: Source
    count: SmiCount
    rate_hz: float
    cpu: int

    @property
    def window_s(self) -> float:
        return SMIS_PER_WINDOW / self.rate_hz


def _smis(machine: Machine) -> Smis | Missing:
    source = choose(machine, machine.smi_source)
    if isinstance(source, Missing):
        return source
    count = counts(machine)
    if isinstance(count, Missing):
        return Missing(f"SMIs can't be counted: {count.what}", count.remedy)
    allowed = sorted(os.sched_getaffinity(0) & set(count.cpus))
    if not allowed:
        count.close()
        return Missing("no CPU that this process may use counts SMIs", "run it without taskset")
    rate = LAB_RATE_HZ if source.name == "lab" else RATE_HZ
    return Smis(source, count, min(rate, source.fastest_hz), allowed[0])


def _host_counters(stack: ExitStack, machine: Machine, guest: Guest, cpu: int) -> Counters:
    return stack.enter_context(HostCounters(machine, guest, cpu))


def _experiment(context: Context, make: MakeCounters, *, nested: bool = False) -> Observations:
    smis = _smis(context.machine)
    if isinstance(smis, Missing):
        yield Absence("leak", smis)
        return
    with (
        closing(smis.count),
        Scene(context, "leak") as scene,
        scene.guest() as guest,
        only_on(smis.cpu),
    ):
        proof = _proof(context, smis)
        yield proof
        if not proof.agrees:
            return
        yield from scene.set_knob(0)
        scene.run(guest)
        with ExitStack() as stack:
            try:
                counters = make(stack, context.machine, guest, smis.cpu)
            except (CounterError, GuestFault) as error:
                yield Absence("leak", Missing(str(error)))
                return
            samples = Samples()
            l2 = NestedGuest(guest) if nested else None
            yield from _rounds(scene, Watcher(guest, counters, smis), samples, l2)
        yield from conclude(samples)


def _proof(context: Context, smis: Smis) -> Reading:
    """Show that the count follows the source."""
    run = context.kernel_log
    log = run if isinstance(run, Missing) else run.log
    proof = prove(smis.source, smis.count, log, triggers=PROOFS, rate_hz=smis.rate_hz)
    what = f"{proof.count} follows the SMI source {proof.source}"
    remedy = "see what kvmtest smi probe says, and name a source that works by --smi-source"
    observed = proof.refusal or "yes"
    return control("leak", what, observed, "yes", remedy, sent=proof.sent)


def _rounds(
    scene: Scene, watcher: "Watcher", samples: Samples, l2: NestedGuest | None
) -> Observations:
    """Take the windows of all arms, and record them."""
    if l2:
        l2.enter()
    watcher.calibrate()
    for turn in range(ROUNDS):
        for at in range(len(ORDER)):
            arm = ORDER[(turn + at) % len(ORDER)]
            yield from scene.set_knob(KNOB[arm])
            if l2:
                l2.leave()
                l2.enter()
            window, gaps = watcher.take(arm)
            if l2:
                remedy = "see why L1 gets L2's exits"
                yield control("leak", "the window was L2's", l2.is_in_l2, True, remedy)
            yield window.reading(len(samples.windows))
            samples.windows.append(window)
            for gap in gaps:
                yield gap.reading(len(samples.gaps))
                samples.gaps.append(gap)


class Watcher:
    """Takes windows of one guest, whose ``counters`` count it."""

    def __init__(self, guest: Guest, counters: Counters, smis: Smis) -> None:
        self._guest = guest
        self._counters = counters
        self._smis = smis
        self._tsc_hz = tsc_hz()
        self._offset = _tsc_offset(guest)
        self._threshold = NO_GAP
        self._own_exits = 0

    def calibrate(self) -> None:
        """Learn how many VM-exits a watch is made of by itself, and what a gap is.

        Raises KvmtestError where the guest hardly runs without other exits.
        """
        ticks = int(TRIAL_S * self._tsc_hz)
        trials = [self._counted_exits(ticks) for _ in range(TRIALS)]
        self._own_exits = min(exits for exits, _ in trials)
        undisturbed = [seen.longest for exits, seen in trials if exits == self._own_exits]
        self._threshold = int(MARGIN * median(undisturbed))

    def take(self, arm: Arm) -> tuple[Window, list[Gap]]:
        """Take a window of an arm, and the gaps in it."""
        smis, raising = self._smis, ExitStack()
        with raising:
            count = smis.count.read(smis.cpu)
            if arm is not Arm.QUIET:
                raising.enter_context(smis.source.raising(smis.rate_hz))
            began = lib.clock_tsc()
            exits, seen = self._counted_exits(int(smis.window_s * self._tsc_hz))
            ended = lib.clock_tsc()
        raised = smis.count.increase(count, smis.count.read(smis.cpu))
        window = Window(
            arm, began, ended, seen.counted, seen.known, exits - self._own_exits, raised, seen.gaps
        )
        gaps = self._guest.gaps(seen.gaps)
        if len(gaps) < seen.gaps:
            raise KvmtestError(f"the guest saw {seen.gaps} gaps; try again on an idle machine")
        return window, [Gap(g.begin + self._offset, g.end + self._offset) for g in gaps]

    def _counted_exits(self, ticks: int) -> tuple[int, Execution]:
        before = self._exits()
        seen = self._counters.execute(ticks, self._threshold)
        return self._exits() - before, seen

    def _exits(self) -> int:
        exits = self._guest.vcpu.stats()["exits"]
        assert isinstance(exits, int)
        return exits


def _tsc_offset(guest: Guest) -> int:
    """Return what is to be added to the guest's TSC to have the host's, as exactly as it goes."""
    reads = []
    for _ in range(OFFSET_READS):
        before = int(lib.clock_tsc())
        guests = guest.vcpu.get_msr(IA32_TSC)
        after = int(lib.clock_tsc())
        reads.append((after - before, (before + after) // 2 - guests))
    return min(reads)[1]
