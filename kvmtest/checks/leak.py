"""Leaks
=====

vmx.leak.*: what is counted while SMIs come in guest mode, with the knob off and on, and with no
SMIs. First the windows of the three arms are interleaved; then a toggler writes the knob beside
them, and each window's arm is told from the time of these writes. kvmtest.judge.leak judges them.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace

from kvmtest._native import lib
from kvmtest.guests import Guest
from kvmtest.guests.mailbox import GuestFault
from kvmtest.host.machine import Machine
from kvmtest.host.toggler import Toggler
from kvmtest.judge import Absence, Reading, measure
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Samples, Toggle
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError

from .context import Context
from .leak_counters import Counters, GuestCounters, HostCounters
from .leak_windows import Crew, MakeCounters, Smis, Taken, arm_under, hired, prove_smis
from .vmx_scene import Observations, Scene

__all__ = ["guest_pmu", "host_events", "l2_events", "with_host_counters"]

#: Of the interleaved arms; each time another one comes first, against drift.
ROUNDS = 5
ORDER = (Arm.QUIET, Arm.CONTROL, Arm.TREATMENT)
KNOB = {Arm.QUIET: 0, Arm.CONTROL: 0, Arm.TREATMENT: 1}
#: Beside the toggler: quiet windows tell what its VM-exits cost; others are sorted afterwards.
TOGGLED = (Arm.QUIET, Arm.MIXED, Arm.MIXED) * 5
#: Times from one toggle to the next, in windows: seldom one has a toggle in it.
SHORTEST, LONGEST = 2.0, 5.0
#: Writes that there is room for; then the toggler is at its end.
TOGGLES = 1000


def with_host_counters(stack: ExitStack, machine: Machine, guest: Guest, cpu: int) -> Counters:
    """Return counters of the calling thread's guest mode."""
    return stack.enter_context(HostCounters(machine, guest, cpu))


def host_events(context: Context) -> Observations:
    """Count a guest's execution by perf events of the host."""
    yield from _experiment(context, with_host_counters)


def guest_pmu(context: Context) -> Observations:
    """Have the guest count its own execution."""
    yield from _experiment(context, lambda _, __, guest, ___: GuestCounters(guest))


def l2_events(context: Context) -> Observations:
    """Count L2 by perf events of the host. L1 sees each toggle first, and then enters L2 anew."""
    yield from _experiment(context, with_host_counters, nested=True)


def _experiment(context: Context, make: MakeCounters, *, nested: bool = False) -> Observations:
    with Smis.found(context.machine) as smis, ExitStack() as stack:
        if isinstance(smis, Missing):
            yield Absence("leak", smis)
            return
        scene = stack.enter_context(Scene(context, "leak"))
        proof = prove_smis(context, smis)
        yield proof
        if not proof.agrees:
            return
        yield from scene.set_knob(0)
        try:
            crew = hired(scene, stack, smis, make, nested=nested)
        except (CounterError, GuestFault) as error:
            yield Absence("leak", Missing(str(error)))
            return
        yield crew.clock
        samples = Samples()
        crew.calibrate()
        yield from _rounds(scene, crew, samples)
        yield from _toggled(scene, crew, samples)
        yield from conclude(samples)


def _rounds(scene: Scene, crew: Crew, samples: Samples) -> Observations:
    """Take the windows of all arms in turn, and record them."""
    for turn in range(ROUNDS):
        for at in range(len(ORDER)):
            arm = ORDER[(turn + at) % len(ORDER)]
            yield from _set_knob(scene, KNOB[arm], samples)
            yield from crew.renew()
            yield from _windows(crew.take(arm), samples)


def _toggled(scene: Scene, crew: Crew, samples: Samples) -> Observations:
    """Take windows beside a toggler, then sort them by its writes, and record all."""
    # In the journal with this, as the toggler needs it.
    yield from _set_knob(scene, 0, samples)
    path, window_s = scene.machine.tree.path(scene.knob.paths[0]), crew.smis.window_s
    shortest, spread = SHORTEST * window_s, (LONGEST - SHORTEST) * window_s
    with Toggler(path, interval=shortest, spread=spread, limit=TOGGLES, stamps=TOGGLES) as toggler:
        crew.workers.start(toggler)
        taken = [each for arm in TOGGLED for each in crew.take(arm)]
        crew.workers.end(toggler)
        toggles = [Toggle(*stamp) for stamp in toggler.stamps]
    yield from _toggles(toggles, samples)
    smis = dict.fromkeys(Arm, 0)
    for at, (window, gaps) in enumerate(taken):
        if window.arm is not Arm.QUIET:
            window = replace(window, arm=arm_under(samples.toggles, window))
            taken[at] = window, gaps
        smis[window.arm] += window.smis
    yield from _windows(taken, samples)
    what = f"SMIs beside {len(toggles)} toggles, with the knob off, on, being written"
    counts = ", ".join(str(smis[arm]) for arm in (Arm.CONTROL, Arm.TREATMENT, Arm.MIXED))
    yield measure("leak", what, counts)


def _set_knob(scene: Scene, value: int, samples: Samples) -> Observations:
    began = lib.clock_tsc()
    yield from scene.set_knob(value)
    yield from _toggles([Toggle(value, began, lib.clock_tsc())], samples)


def _toggles(toggles: Iterable[Toggle], samples: Samples) -> Iterable[Reading]:
    for toggle in toggles:
        yield toggle.reading(len(samples.toggles))
        samples.toggles.append(toggle)


def _windows(taken: Iterable[Taken], samples: Samples) -> Iterable[Reading]:
    for window, gaps in taken:
        yield window.reading(len(samples.windows))
        samples.windows.append(window)
        for gap in gaps:
            yield gap.reading(len(samples.gaps))
            samples.gaps.append(gap)
