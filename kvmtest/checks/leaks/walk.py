"""The leak walk
=============

The source of the witness leak, for properties that other witnesses observe too. Once a run, vCPUs
perform a step for each property, and a few windows after each step show whether SMM is counted.
The windows of a property's step are judged against those of one reference step.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import NamedTuple

from kvmtest.checks.affinity import only_on
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.preconditions import answer
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import (
    FREEZE_BIT_WRITES,
    GUEST_WRITES_0,
    USERSPACE_WRITES_0,
)
from kvmtest.checks.stimuli.nesting import CodedL2, GivenL2
from kvmtest.checks.stimuli.stimulus import Stimulus
from kvmtest.checks.stimuli.toggles import toggle, toggle_and_show
from kvmtest.guests import Guest, commands
from kvmtest.host.facts.msr import IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.host.machine import Machine
from kvmtest.judge import Absence, Reading
from kvmtest.judge.samples import Arm, Samples, Toggle, Window

from .counters import PATIENCE_S, Counters, HostCounters
from .experiment import Procedure, experiment
from .watchers import Disturbed, Watchers
from .windows import more_quiet

__all__ = ["LENGTH", "OFF", "ON", "Step", "Walk", "walked"]

#: Windows with SMIs of a step, with the knob on and off, and their length in usual windows. A leak
#: of a hundredth must show with the knob on, and a property is judged by fewer than a hundred SMIs.
#: A longer window hardly costs more.
ON, OFF, LENGTH = 8, 6, 1.2
#: If each window has the SMIs of one trigger: the factor on the windows, and after how many of them
#: one window without SMIs follows.
SLOW_TIMES, QUIET_EACH = 2, 4


class Step(StrEnum):
    """A step of the vCPUs, in words that follow "counts SMM"."""

    TOGGLED = "after a toggle"
    NEW = "on a new vCPU"
    REFUSED = "after writes of bit 14"
    WRITTEN = "after writes of DEBUGCTL"
    MIGRATED = "after a toggle and a move to another CPU"
    RUNNING = "after a toggle amid its KVM_RUN"
    L2 = "in L2"
    FREEZE12 = "in an L2 with bit 14 in its vmcs12"
    RESTORED = "in an L2 that was restored"
    VMFAIL = "in L1 after a VM-Fail"


#: The step whose windows with the knob off show how much an SMI counts.
REFERENCE = {step: Step.TOGGLED if step is Step.NEW else Step.NEW for step in Step}


@dataclass
class Walk:
    """The readings before the first step and in each step, and the samples.

    ``error`` ended the walk early. A walk is not tried again.
    """

    before: list[Reading | Absence] = field(default_factory=list)
    readings: dict[Step, list[Reading | Absence]] = field(default_factory=dict)
    windows: dict[Step, list[Window]] = field(default_factory=dict)
    quiet: list[Window] = field(default_factory=list)
    toggles: list[Toggle] = field(default_factory=list)
    error: Exception | None = None

    def has(self, step: Step) -> bool:
        """Whether the step can be judged."""
        return bool(self.windows.get(step) and self.windows.get(REFERENCE[step]))

    def samples(self, step: Step) -> Samples:
        """Return the samples that a step is judged by, in order of time."""
        off = [window for window in self.windows[REFERENCE[step]] if window.arm is Arm.KNOB_OFF]
        reference = [replace(window, state="") for window in off]
        windows = [*self.quiet, *reference, *self.windows[step]]
        windows.sort(key=lambda window: window.began)
        return Samples(windows, toggles=self.toggles)


def walked(context: Context) -> Walk:
    """Return the run's walk; the first call performs it."""
    if __name__ not in context.found:
        context.found[__name__] = _walked(context)
    walk: Walk = context.found[__name__]
    return walk


def _walked(context: Context) -> Walk:
    """Perform every step; return the walk, with the error if one ended it early."""
    walk = Walk()
    here = walk.before

    def perform_steps(scene: Scene, watchers: Watchers, times: int = 1) -> Observations:
        nonlocal here
        for step, perform in STEPS.items():
            here = walk.readings[step] = []
            if times > 1:
                scene.on_step(f"SMIs {step}")
            run = StepRun(scene, watchers, step, [], walk, times)
            yield from perform(run)
            # Set last, so that a step that failed has no windows to judge.
            walk.windows[step] = run.windows
            # Not once at the end: in Bochs, a timer does not end the run of an L1 whose entry to L2
            # failed, so that no quiet window after that step has a VM-exit.
            every = chain(walk.quiet, *walk.windows.values())
            walk.quiet.extend(window for window, _ in more_quiet(watchers, every, LENGTH))

    def perform_slowly(scene: Scene, watchers: Watchers) -> Observations:
        if watchers.smis.windows.waited:
            raise Disturbed("SMIs that come by themselves are too few to look at each step")
        yield from perform_steps(scene, watchers, SLOW_TIMES)

    try:
        for reading in experiment(
            context, _counters, Procedure(perform_steps, perform_slowly), knob=1
        ):
            here.append(reading)
    except Exception as error:
        walk.error = error
    return walk


def _counters(stack: ExitStack, machine: Machine, _: Guest, cpu: int) -> Counters:
    return stack.enter_context(HostCounters(machine, cpu, modes=("kG",)))


class StepRun(NamedTuple):
    """One step of a walk while it is performed, and the ``windows`` recorded in it.

    ``times`` is the factor on the number of windows; it is 1 if SMIs are fast.
    """

    scene: Scene
    watchers: Watchers
    step: Step
    windows: list[Window]
    walk: Walk
    times: int = 1

    def set_knob(self, value: int) -> Observations:
        """Write the knob (see Scene.set_knob), and keep the time of the toggle."""
        toggled = yield from toggle_and_show(self.scene, value)
        self.walk.toggles.append(toggled)

    def show_knob(self, value: int) -> Observations:
        """Write the knob, and have each vCPU see the toggle before it does anything else."""
        yield from self.set_knob(value)
        self.watchers.settle()

    def take_windows(self, knob: int, count: int) -> None:
        """Take windows with SMIs, and one without; more of both if SMIs come one by one."""
        arm = Arm.KNOB_ON if knob else Arm.KNOB_OFF
        each = count if self.times == 1 else QUIET_EACH
        for number in range(1, self.times * count + 1):
            windows = [window for window, _ in self.watchers.take_windows(arm, LENGTH)]
            self.windows.extend(replace(window, state=self.step.value) for window in windows)
            if not number % each:
                self.walk.quiet.extend(
                    window for window, _ in self.watchers.take_windows(Arm.QUIET, LENGTH)
                )


def _toggled(run: StepRun) -> Observations:
    """Turn the knob off under a vCPU that was made and ran with the knob on."""
    yield from run.set_knob(0)
    run.take_windows(0, OFF)


def _new(run: StepRun) -> Observations:
    """Make a new vCPU with the knob on, another while it stays on, and one with it off."""
    yield from run.set_knob(1)
    for _ in range(2):
        yield from run.watchers.replace_guests(run.scene)
        run.take_windows(1, ON // 2)
    yield from run.set_knob(0)
    yield from run.watchers.replace_guests(run.scene)
    run.take_windows(0, OFF)


def _refused(run: StepRun) -> Observations:
    """Have guest and userspace write bit 14, refused or not, under a vCPU that saw no toggle."""
    yield from run.watchers.apply(FREEZE_BIT_WRITES)
    run.take_windows(0, OFF)


def _written(run: StepRun) -> Observations:
    """Have the guest, then userspace write 0 to DEBUGCTL, after KVM has seen the knob on."""
    yield from run.show_knob(1)
    for stimulus in (GUEST_WRITES_0, USERSPACE_WRITES_0):
        yield from run.watchers.apply(stimulus)
        run.take_windows(1, ON // 2)


def _migrated(run: StepRun) -> Observations:
    """Turn the knob on, and have each vCPU first run on another CPU."""
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        return

    def moved(guest: Guest) -> bool:
        own = os.sched_getaffinity(0)  # of the vCPU's thread
        with only_on(min(cpus - own)):
            guest.execute(commands.nop(), timeout=PATIENCE_S)
        return True

    yield from run.show_knob(0)
    yield from run.set_knob(1)
    yield from run.watchers.apply(Stimulus("the vCPU ran on another CPU, and came back", moved))
    run.take_windows(1, ON)


def _running(run: StepRun) -> Observations:
    """Turn the knob on in the middle of each window, while vCPUs run; SMIs come only afterwards.

    If a vCPU's KVM_RUN began after the toggle, its window is of no arm.
    """
    if len(os.sched_getaffinity(0)) < 2:
        return
    for _ in range(run.times * ON):
        yield from run.show_knob(0)
        toggled, taken = run.watchers.take_windows_around(
            Arm.KNOB_ON, partial(toggle, run.scene, 1), LENGTH
        )
        run.walk.toggles.append(toggled)
        for window, _ in taken:
            arm = window.arm if window.began < toggled.began else Arm.MIXED
            run.windows.append(replace(window, arm=arm, state=run.step.value))


def _l2(run: StepRun) -> Observations:
    """Turn the knob on in L2, and before entries to L2; by L1's code, and by userspace."""
    if answer(run.scene.machine, "nested"):
        return
    coded, given = CodedL2(), GivenL2()
    on, off = ON // 4, OFF // 3

    def apply(does: str, act: Callable[[Guest], bool]) -> Observations:
        yield from run.watchers.apply(Stimulus(does, act))

    yield from run.show_knob(0)
    yield from apply("L1 launched L2", coded.enter)
    run.take_windows(0, off)
    yield from run.set_knob(1)
    run.take_windows(1, on)
    yield from apply("L2 exited to L1", coded.leave)
    yield from apply("L1 resumed L2", coded.enter)
    run.take_windows(1, on)
    for value, count in ((0, off), (1, on)):
        yield from apply("L2 exited to L1", coded.leave)
        yield from run.show_knob(value)
        without = partial(coded.enter, loads=False)
        yield from apply("L1 resumed L2, which loads no DEBUGCTL", without)
        run.take_windows(value, count)
    yield from apply("L2 exited to L1", coded.leave)
    yield from apply("L1 left VMX operation", coded.end)
    for value, count in ((1, on), (0, off)):
        yield from run.show_knob(value)
        yield from apply("userspace launched L2", given.enter)
        run.take_windows(value, count)
        yield from apply("userspace took the vCPU out of L2", given.leave)


def _freeze12(run: StepRun) -> Observations:
    """Have L1 set bit 14 in vmcs12, if KVM takes it, with the knob off and on."""
    if answer(run.scene.machine, "nested"):
        return
    coded, entered = CodedL2(), []

    def enter(guest: Guest) -> bool:
        """Enter L2, or try to."""
        entered.append(coded.enter(guest, debugctl=IA32_DEBUGCTL_FREEZE_WHILE_SMM))
        return True

    for value, count in ((0, OFF), (1, ON)):
        yield from run.show_knob(value)
        yield from run.watchers.apply(Stimulus("L1 set bit 14 in vmcs12, or tried", enter))
        if not all(entered):
            break
        run.take_windows(value, count)
        yield from run.watchers.apply(Stimulus("L2 exited to L1", coded.leave))
    yield from run.watchers.apply(Stimulus("L1 left VMX operation", coded.end))


def _restored(run: StepRun) -> Observations:
    """Restore a running L2 after the knob was turned on, and again while it stays on."""
    if answer(run.scene.machine, "nested"):
        return
    l2 = GivenL2()
    yield from run.show_knob(0)
    yield from run.watchers.apply(Stimulus("L1 launched L2, which was saved", l2.enter_to_save))
    yield from run.set_knob(1)
    for _ in range(2):
        yield from run.watchers.apply(Stimulus("L2 was restored", l2.restore))
        run.take_windows(1, ON // 2)
    yield from run.watchers.apply(Stimulus("L1 ran again", l2.leave))


def _vmfail(run: StepRun) -> Observations:
    """Turn the knob on before an entry to L2 that fails in the CPU."""
    if answer(run.scene.machine, "nested"):
        return
    l2 = GivenL2()
    yield from run.show_knob(0)
    yield from run.watchers.apply(Stimulus("L1 launched L2", l2.enter_to_fail))
    yield from run.set_knob(1)
    what = "L1 went on after an entry to L2 failed that saw the toggle"
    yield from run.watchers.apply(Stimulus(what, l2.fail))
    run.take_windows(1, ON)


#: The order matters: bit 14 is written under a vCPU that never saw the knob on, and nesting, which
#: may spoil the vCPUs, comes last.
STEPS: dict[Step, Callable[[StepRun], Observations]] = {
    Step.TOGGLED: _toggled,
    Step.NEW: _new,
    Step.REFUSED: _refused,
    Step.WRITTEN: _written,
    Step.MIGRATED: _migrated,
    Step.RUNNING: _running,
    Step.L2: _l2,
    Step.FREEZE12: _freeze12,
    Step.RESTORED: _restored,
    Step.VMFAIL: _vmfail,
}
