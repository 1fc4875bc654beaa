"""The procedures of leak experiments
===================================

Take windows of three arms: knob off, knob on, and quiet, which is without SMIs. First the arms
alternate. Then a toggler writes the knob beside the windows, and the times of its writes tell each
window's arm. kvmtest.judge.leak judges the windows.
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

#: Rounds of the interleaved arms. Each round begins with another arm, against drift.
ROUNDS = 8
ORDER = (Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON)
KNOB = {Arm.QUIET: 0, Arm.KNOB_OFF: 0, Arm.KNOB_ON: 1}
#: Window lengths in usual windows, without and with later windows beside a toggler: all SMIs are
#: fewer than a hundred, and six windows of each arm have enough of them for a verdict.
LENGTH, WITH_TOGGLER = 1.4, 1.05
#: Beside the toggler: quiet windows show what its VM-exits cost; others get their arm afterwards.
TOGGLED = (Arm.QUIET, Arm.MIXED, Arm.MIXED) * 3
#: Time between toggles, in windows: most windows have one toggle, and SMIs before and after it.
SHORTEST, LONGEST = 0.8, 2.0
#: The toggler's room for writes; it ends after so many.
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

    A window with the knob on is the first entry after its toggle. Windows of other arms are
    references, and begin after the guest has run under the knob's value.
    """
    for at in range(len(order)):
        arm = order[(turn + at) % len(order)]
        yield from _set_knob(scene, KNOB[arm], samples)
        yield from watchers.apply_own()
        if arm is not Arm.KNOB_ON:
            watchers.settle()
        taken = watchers.take_windows(arm, length)
        if is_waited:
            # Only afterwards is it known whether a window had SMIs.
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
    """Record how long the plan takes; take the windows of its stages until one decides.

    Return False if the plan would take too long.
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
    """Take windows beside a toggler, tell their arms by its writes, and record all."""
    # Puts the knob's value into the journal, which the toggler's own writes do not.
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
            # A reference window begins settled; this one mostly begins at a toggle's first entry.
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
