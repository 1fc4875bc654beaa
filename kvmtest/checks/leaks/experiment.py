"""A leak experiment
=================

Proves the SMIs, makes guests and their watchers, and runs the experiment's procedure.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.stimulus import Stimulus
from kvmtest.guests import Guest, GuestFault
from kvmtest.host.machine import Machine
from kvmtest.judge import Absence, Reading, control
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError
from kvmtest.workers import Supervisor

from .counters import Counters
from .smis import Smis, proved_smis
from .watchers import Disturbed, Watcher, Watchers

__all__ = ["Procedure", "disturbance", "experiment", "noise_as_control"]

#: Makes the counters of a guest on a CPU, in the vCPU's thread; the stack closes them.
MakeCounters = Callable[[ExitStack, Machine, Guest, int], Counters]
#: Makes a guest to watch.
MakeGuest = Callable[[Scene], AbstractContextManager[Guest]]


@dataclass(frozen=True, slots=True)
class Procedure:
    """An experiment's two forms: ``slow`` is for SMIs that come one by one or by themselves."""

    fast: Callable[[Scene, Watchers], Observations]
    slow: Callable[[Scene, Watchers], Observations]


def disturbance(error: Disturbed) -> Reading:
    """Return the failed control of a disturbed experiment, without which no claim counts."""
    happened, _, remedy = str(error).partition("; ")
    return control("leak", "the guests could be watched", happened, "yes", remedy)


def noise_as_control(observations: Observations) -> Observations:
    """Yield an experiment's observations; if noise ends it, a control that fails is the last."""
    try:
        yield from observations
    except Disturbed as error:
        yield disturbance(error)


def experiment(
    context: Context,
    make: MakeCounters,
    procedure: Procedure,
    stimulus: Callable[[Guest], Stimulus] | None = None,
    *,
    knob: int | None = None,
    make_guest: MakeGuest = Scene.guest,
) -> Observations:
    """Prove the SMIs, make watchers with the counters that ``make`` returns; do the procedure.

    ``stimulus`` returns the stimulus that is applied to a guest before each of its windows. The
    vCPUs are made and first run under ``knob``, or under the knob's present value. Raises Disturbed
    and the errors of ``make_guest``.
    """
    with ExitStack() as stack:
        proved = yield from proved_smis(context, stack)
        if not proved:
            return
        smis = stack.enter_context(proved.opened())
        scene = stack.enter_context(Scene(context, "leak"))
        if knob is not None:
            yield from scene.set_knob(knob)
        try:
            watchers = _watchers_of(scene, stack, smis, make, stimulus, make_guest)
        except CounterError as error:
            yield Absence("leak", Missing(str(error)))
            return
        except GuestFault as error:
            # The precondition guest-pmu covers a KVM that gives guests no PMU at all.
            what = f"the guest's counters can't be switched on: {error}"
            yield Absence("leak", Missing(what, "run where KVM gives guests a PMU of version 2"))
            return
        yield watchers.clock
        watchers.calibrate()
        is_slow = smis.windows.by_ones or smis.windows.waited
        yield from (procedure.slow if is_slow else procedure.fast)(scene, watchers)


def _watchers_of(
    scene: Scene,
    stack: ExitStack,
    smis: Smis,
    make: MakeCounters,
    stimulus: Callable[[Guest], Stimulus] | None,
    make_guest: MakeGuest,
) -> Watchers:
    """Return watchers with a guest on each CPU; the stack closes everything they use.

    Raises CounterError or GuestFault if there are no counters.
    """
    guests = [stack.enter_context(make_guest(scene)) for _ in smis.cpus]
    # Closed after the threads that use them.
    opened = stack.enter_context(ExitStack())
    watchers = Watchers(smis, stack.enter_context(Supervisor()), opened)
    for guest, cpu in zip(guests, smis.cpus, strict=True):
        scene.run(guest)

        def watcher(vcpu: int, guest: Guest = guest, cpu: int = cpu) -> Watcher:
            counters = make(opened, scene.machine, guest, cpu)
            return Watcher(guest, counters, vcpu, stimulus(guest) if stimulus else None)

        watchers.add(guest, cpu, watcher)
    return watchers
