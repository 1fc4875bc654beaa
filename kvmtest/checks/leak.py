"""Leaks
=====

vmx.leak.*: what is counted while SMIs come in guest mode, with the knob off and on, and with no
SMIs. First the windows of the three arms are interleaved; then a toggler writes the knob beside
them, and each window's arm is told from the time of these writes. kvmtest.judge.leak judges them.
"""

from collections.abc import Iterable
from dataclasses import replace

from kvmtest.guests import Guest
from kvmtest.guests.nested import NestedGuest
from kvmtest.host.toggler import Toggler
from kvmtest.judge import Absence, measure
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Samples, Toggle
from kvmtest.kvm import KvmError

from .context import Context
from .guests_own_pmu import guest_with_pmu, make_way, refused, whose_counters
from .leak_counters import GuestCounters
from .leak_windows import (
    Crew,
    arm_under,
    experiment,
    more_quiet,
    record,
    set_knob,
    with_host_counters,
)
from .vmx_scene import Observations, Scene

__all__ = ["guest_pmu", "host_events", "interleaved", "l2_events"]

#: Of the interleaved arms; each time another one comes first, against drift.
ROUNDS = 8
ORDER = (Arm.QUIET, Arm.CONTROL, Arm.TREATMENT)
KNOB = {Arm.QUIET: 0, Arm.CONTROL: 0, Arm.TREATMENT: 1}
#: Their length in others', alone and where windows beside a toggler come after: by fewer than a
#: hundred SMIs in all, and enough in six windows of each arm, should others not show all of theirs.
LENGTH, WITH_TOGGLER = 1.4, 1.05
#: Beside the toggler: quiet windows tell what its VM-exits cost; others are sorted afterwards.
TOGGLED = (Arm.QUIET, Arm.MIXED, Arm.MIXED) * 3
#: Times from one toggle to the next, in windows: most have one in them, and SMIs before and after.
SHORTEST, LONGEST = 0.8, 2.0
#: Writes that there is room for; then the toggler is at its end.
TOGGLES = 1000


def host_events(context: Context) -> Observations:
    """Count a guest's execution by perf events of the host."""
    yield from experiment(context, with_host_counters, _arms)


def guest_pmu(context: Context) -> Observations:
    """Have the guest count its own execution.

    Without a toggler: the guest runs to read its counters, and a toggle between that and its watch
    would have one window count under two states of the knob.
    """
    lacking = make_way(context)
    if lacking:
        yield Absence("leak", lacking)
        return
    try:
        yield from experiment(
            context, lambda _, __, guest, ___: GuestCounters(guest), _own_arms,
            make_guest=guest_with_pmu,
        )  # fmt: skip
    except KvmError as error:
        why = refused(error)
        if why is None:
            raise
        yield Absence("leak", why)


def l2_events(context: Context) -> Observations:
    """Count L2 by perf events of the host."""
    yield from experiment(context, with_host_counters, _arms, L2)


class L2:
    """A renewal: L1 runs, so that it sees each toggle first, and enters L2 anew."""

    does = "L1 launched L2"

    def __init__(self, guest: Guest) -> None:
        self._nested = NestedGuest(guest)
        self._nested.enter()

    def renew(self) -> bool:
        """Do it; tell whether L2 runs now."""
        self._nested.leave()
        self._nested.enter()
        return self._nested.is_in_l2


def _arms(scene: Scene, crew: Crew) -> Observations:
    samples = Samples()
    yield from _rounds(scene, crew, samples, WITH_TOGGLER)
    yield from _toggled(scene, crew, samples)
    yield from conclude(samples)


def _own_arms(scene: Scene, crew: Crew) -> Observations:
    yield from whose_counters(scene)
    yield from interleaved(scene, crew)


def interleaved(scene: Scene, crew: Crew) -> Observations:
    """Take windows of all arms in turn, without a toggler, and judge them."""
    samples = Samples()
    yield from _rounds(scene, crew, samples, LENGTH)
    yield from conclude(samples)


def _rounds(scene: Scene, crew: Crew, samples: Samples, length: float) -> Observations:
    """Take the windows of all arms in turn, and record them.

    A treatment window is the first entry after its toggle. Others are to show what a leak looks
    like, and begin when the guest has run with the knob as it is.
    """
    for turn in range(ROUNDS):
        for at in range(len(ORDER)):
            arm = ORDER[(turn + at) % len(ORDER)]
            yield from _set_knob(scene, KNOB[arm], samples)
            yield from crew.renew()
            if arm is not Arm.TREATMENT:
                crew.settle()
            yield from record(crew.take(arm, length), samples)
    yield from record(more_quiet(crew, samples.windows, length), samples)


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
            state = arm_under(samples.toggles, window)
            smis[state] += window.smis
            # A control begins settled; here it is mostly the first entry after its toggle.
            arm = Arm.MIXED if state is Arm.CONTROL else state
            taken[at] = replace(window, arm=arm), gaps
    yield from record(taken, samples)
    what = f"SMIs beside {len(toggles)} toggles, with the knob off, on, being written"
    counts = ", ".join(str(smis[arm]) for arm in (Arm.CONTROL, Arm.TREATMENT, Arm.MIXED))
    yield measure("leak", what, counts)


def _set_knob(scene: Scene, value: int, samples: Samples) -> Observations:
    toggle = yield from set_knob(scene, value)
    yield from _toggles([toggle], samples)


def _toggles(toggles: Iterable[Toggle], samples: Samples) -> Observations:
    for toggle in toggles:
        yield toggle.reading(len(samples.toggles))
        samples.toggles.append(toggle)
