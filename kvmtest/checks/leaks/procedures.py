"""The arms of a leak experiment
=============================

Windows of all arms: with the knob off and on, and with no SMIs. First those of the three arms are
interleaved; then a toggler writes the knob beside them, and each window's arm is told from the time
of these writes. kvmtest.judge.leak judges them.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace

from kvmtest.checks.context import Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.toggles import toggle_and_show
from kvmtest.host.changes.toggler import Toggler
from kvmtest.judge import Absence, Reading, Verdict, control, judge, measure
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Samples, Toggle

from .plan import MOST_S, Plan
from .watchers import Watchers
from .windows import arm_under, more_quiet, record

__all__ = ["interleaved", "interleaved_and_toggled", "stages", "stages_and_toggled"]

#: Of the interleaved arms; each time another one comes first, against drift.
ROUNDS = 8
ORDER = (Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON)
KNOB = {Arm.QUIET: 0, Arm.KNOB_OFF: 0, Arm.KNOB_ON: 1}
#: Their length in others', alone and where windows beside a toggler come after: by fewer than a
#: hundred SMIs in all, and enough in six windows of each arm, should others not show all of theirs.
LENGTH, WITH_TOGGLER = 1.4, 1.05
#: Beside the toggler: quiet windows tell what its VM-exits cost; others are sorted afterwards.
TOGGLED = (Arm.QUIET, Arm.MIXED, Arm.MIXED) * 3
#: Times from one toggle to the next, in windows: most have one in them, and SMIs before and after.
SHORTEST, LONGEST = 0.8, 2.0
#: Writes that there is room for; then the toggler is at its end.
TOGGLES = 1000


def interleaved_and_toggled(scene: Scene, watchers: Watchers) -> Observations:
    """Take windows of all arms in turn, then beside a toggler, and judge them."""
    samples = Samples()
    yield from _rounds(scene, watchers, samples, WITH_TOGGLER)
    yield from _beside_toggler(scene, watchers, samples)
    yield from conclude(samples)


def interleaved(scene: Scene, watchers: Watchers) -> Observations:
    """Take windows of all arms in turn, without a toggler, and judge them."""
    samples = Samples()
    yield from _rounds(scene, watchers, samples, LENGTH)
    yield from conclude(samples)


def _rounds(scene: Scene, watchers: Watchers, samples: Samples, length: float) -> Observations:
    """Take the windows of all arms in turn, and record them."""
    for turn in range(ROUNDS):
        yield from _round(scene, watchers, samples, ORDER, turn, length)
    yield from record(more_quiet(watchers, samples.windows, length), samples)


def _round(
    scene: Scene,
    watchers: Watchers,
    samples: Samples,
    order: Sequence[Arm],
    turn: int,
    length: float = 1.0,
    *,
    is_waited: bool = False,
) -> Observations:
    """Take a window of each arm in ``order``, another one first each ``turn``, and record them.

    A treatment window is the first entry after its toggle. Others are to show what a leak looks
    like, and begin when the guest has run with the knob as it is.
    """
    for at in range(len(order)):
        arm = order[(turn + at) % len(order)]
        yield from _set_knob(scene, KNOB[arm], samples)
        yield from watchers.apply_own()
        if arm is not Arm.KNOB_ON:
            watchers.settle()
        taken = watchers.take_windows(arm, length)
        if is_waited:
            # Whether a window is quiet shows afterwards.
            taken = [
                (window if window.smis else replace(window, arm=Arm.QUIET), gaps)
                for window, gaps in taken
            ]
        yield from record(taken, samples)


def stages(scene: Scene, watchers: Watchers) -> Observations:
    """Take windows by a plan for slow SMIs, without a toggler, and judge them."""
    samples = Samples()
    if (yield from _stages(scene, watchers, samples)):
        yield from conclude(samples)


def stages_and_toggled(scene: Scene, watchers: Watchers) -> Observations:
    """Take windows by a plan for slow SMIs, then beside a toggler, and judge them."""
    samples = Samples()
    if (yield from _stages(scene, watchers, samples)):
        if watchers.smis.windows.by_ones:
            yield from _beside_toggler(scene, watchers, samples)
        yield from conclude(samples)


def _stages(
    scene: Scene, watchers: Watchers, samples: Samples
) -> Generator[Reading | Absence, None, bool]:
    """Say how long it takes; take the windows of a stage, and of the next if that decides nothing.

    Give whether it does not take too long.
    """
    windows = watchers.smis.windows
    plan = Plan.of(windows)
    smis, seconds = plan.smis(windows), plan.seconds(windows)
    said = (
        f"{smis[0]} SMIs by {watchers.smis.source.name} at {windows.rate_hz:.2g} a second in "
        f"{seconds[0]:.0f} s, up to {smis[-1]} in {seconds[-1]:.0f} s"
    )
    remedy = f"use an SMI source that takes less than {MOST_S:g} s: see kvmtest smi probe"
    is_bearable = seconds[0] <= MOST_S
    yield control("leak", f"SMIs come often enough ({said})", is_bearable, True, remedy)
    if not is_bearable:
        return False
    turn = 0
    for rounds, ends_s in zip(plan.stages, seconds, strict=True):
        for left in range(rounds, 0, -1):
            left_s = ends_s * left / (turn + left)
            scene.on_step(f"{said}; {left_s:.0f} s left")
            yield from _round(scene, watchers, samples, plan.order, turn, is_waited=windows.waited)
            turn += 1
        yield from record(more_quiet(watchers, samples.windows, 1.0), samples)
        if judge(conclude(samples)).verdict in (Verdict.PASS, Verdict.FAIL):
            break
    return True


def _beside_toggler(scene: Scene, watchers: Watchers, samples: Samples) -> Observations:
    """Take windows beside a toggler, then sort them by its writes, and record all."""
    # In the journal with this, as the toggler needs it.
    yield from _set_knob(scene, 0, samples)
    path, window_s = scene.machine.tree.path(scene.knob.paths[0]), watchers.smis.window_s
    shortest, spread = SHORTEST * window_s, (LONGEST - SHORTEST) * window_s
    with Toggler(path, interval=shortest, spread=spread, limit=TOGGLES, stamps=TOGGLES) as toggler:
        watchers.workers.start(toggler)
        taken = [each for arm in TOGGLED for each in watchers.take_windows(arm)]
        watchers.workers.end(toggler)
        toggles = [Toggle(*stamp) for stamp in toggler.stamps]
    yield from _record_toggles(toggles, samples)
    smis = dict.fromkeys(Arm, 0)
    for at, (window, gaps) in enumerate(taken):
        if window.arm is not Arm.QUIET:
            state = arm_under(samples.toggles, window)
            smis[state] += window.smis
            # A control begins settled; here it is mostly the first entry after its toggle.
            arm = Arm.MIXED if state is Arm.KNOB_OFF else state
            taken[at] = replace(window, arm=arm), gaps
    yield from record(taken, samples)
    what = f"SMIs beside {len(toggles)} toggles, with the knob off, on, being written"
    counts = ", ".join(str(smis[arm]) for arm in (Arm.KNOB_OFF, Arm.KNOB_ON, Arm.MIXED))
    yield measure("leak", what, counts)


def _set_knob(scene: Scene, value: int, samples: Samples) -> Observations:
    toggle = yield from toggle_and_show(scene, value)
    yield from _record_toggles([toggle], samples)


def _record_toggles(toggles: Iterable[Toggle], samples: Samples) -> Observations:
    for toggle in toggles:
        yield toggle.reading(len(samples.toggles))
        samples.toggles.append(toggle)
