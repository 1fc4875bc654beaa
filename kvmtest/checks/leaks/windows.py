"""The windows of a leak experiment
================================

Stretches in which guests are watched, with SMIs or without: one guest on each CPU whose SMIs are
counted, all at the same time, each in a thread of its own.
"""

import os
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import NamedTuple, TypeVar

from kvmtest._native import lib
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.stimulus import Stimulus
from kvmtest.errors import KvmtestError
from kvmtest.guests import Guest, GuestFault, commands
from kvmtest.host.facts.msr import IA32_TSC
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.host.machine import Machine
from kvmtest.judge import Absence, Reading, control
from kvmtest.judge.baseline import Covariates
from kvmtest.judge.samples import Arm, Clock, Gap, Samples, Toggle, Window
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError
from kvmtest.smi import (
    FAST_HZ,
    ONLY_AFTER,
    SAFE_SHARE,
    Periodic,
    Proved,
    Ready,
    SmiCount,
    Source,
    Triggered,
    Turns,
    best,
    candidates,
    counts,
    prove,
    ready,
)
from kvmtest.workers import Runner, Supervisor

from .counters import PATIENCE_S, Counters, HostCounters
from .plan import Windows

__all__ = [
    "Body",
    "Crew",
    "Disturbed",
    "MakeCounters",
    "Smis",
    "Taken",
    "Watcher",
    "arm_under",
    "disturbance",
    "experiment",
    "more_quiet",
    "proved_smis",
    "record",
    "tell_noise",
    "with_host_counters",
]

T = TypeVar("T")

#: SMIs that a window is long enough for. In all they are fewer than a hundred.
SMIS_PER_WINDOW = 4
#: A firmware's handlers take up to a millisecond: at such rates a machine still does its work.
RATE_HZ = 50.0
#: Between the longest step without an exit and the shortest gap that is one. A step in which a gap
#: is logged is of 23 instructions instead of 16, and no gap for that.
MARGIN = 1.5
#: An emulated machine's handler is a few instructions, and the machine is slow.
LAB_RATE_HZ = 5000.0
#: A window of one SMI: guests are in it after a part of AMID_S, and out of SMM long before its end.
WINDOW_S = 0.08
#: SMIs in the mean of a window of those that can only be waited for: half of the windows have none
#: and are quiet ones. They are not longer than this: a host's timer takes a guest out of them a
#: thousand times a second at most, and the guest has room for fewer than four thousand gaps.
WAITED_SMIS, LONGEST_S = 0.7, 2.0
#: SMIs that a source proves itself by.
PROOFS = 3
#: CPUs that guests run on at most.
MOST_CPUS = 4
#: To learn how the guest's time goes without exits: so many short watches.
TRIALS, MOST_TRIALS, TRIAL_S = 9, 100, 0.0002
#: What is done amid a window, and a wait until guests are in it, take so long at most.
AMID_S = 0.05
#: Quiet windows that are taken more, at most, until they say what a VM-exit costs.
MORE_QUIET = 24
#: Says, in the raw part, that the kernel reported trouble: no other source is tried then.
_TROUBLED = "troubled"
_NAME_ANOTHER = "see what kvmtest smi probe says, and name a source that works by --smi-source"
#: A gap that no guest has.
NO_GAP = 1 << 62
#: The guest's TSC is read so often, and the read that took least time is believed.
OFFSET_READS = 5

#: What makes the counters for a guest on a CPU, in the vCPU's thread; in a stack that closes them.
MakeCounters = Callable[[ExitStack, Machine, Guest, int], Counters]
#: What gives a guest to watch.
MakeGuest = Callable[[Scene], AbstractContextManager[Guest]]
#: A window and the gaps in it.
Taken = tuple[Window, list[Gap]]


class Disturbed(KvmtestError):
    """A guest could not be watched: too much else goes on here."""


@dataclass(frozen=True, slots=True)
class Smis:
    """What raises SMIs, what counts them on ``cpus``, and how long a window is.

    ``trigger_s`` is how long a trigger takes. ``fire`` raises SMIs once, in its turn, where they
    can be asked for: then each window has those of one trigger. It is called on ``firing_cpu``, if
    there is one that no guest needs.
    """

    source: Ready
    count: SmiCount
    rate_hz: float
    cpus: tuple[int, ...]
    trigger_s: float = 0.0
    firing_cpu: int | None = None
    fire: Turns | None = None

    @property
    def window_s(self) -> float:
        """The length of a window in seconds."""
        if isinstance(self.source, Triggered):
            return WINDOW_S + self.trigger_s
        if self._is_waited:
            return min(WAITED_SMIS / self.rate_hz, LONGEST_S)
        return SMIS_PER_WINDOW / self.rate_hz

    @property
    def windows(self) -> Windows:
        """How SMIs get into windows."""
        by_ones = isinstance(self.source, Triggered)
        return Windows(self.window_s, self.rate_hz, by_ones, self._is_waited)

    @property
    def _is_waited(self) -> bool:
        return isinstance(self.source, Periodic) and self.source.patience_s is not None

    @contextmanager
    def opened(self) -> "Iterator[Smis]":
        """Give them ready to be raised one by one, where they can be asked for."""
        if not isinstance(self.source, Triggered):
            yield self
            return
        with self.source.opened() as fire:
            turns = fire if isinstance(fire, Turns) else Turns([fire], [1 / self.rate_hz])
            yield replace(self, fire=turns)

    def proved(self, context: Context) -> "Generator[Reading, None, Smis | None]":
        """Show that the count follows the source.

        Give them on the CPUs that SMIs come on, at a rate that the machine bears.
        """
        run = context.kernel_log
        log = run if isinstance(run, Missing) else run.log
        proof = prove(self.source, self.count, log, triggers=PROOFS, rate_hz=self.rate_hz)
        what = f"{proof.count} follows the SMI source {proof.source}"
        remedy = _NAME_ANOTHER
        observed = proof.refusal or "yes"
        raw = {_TROUBLED: True} if proof.troubled else {}
        yield control("leak", what, observed, "yes", remedy, sent=proof.sent, **raw)
        if proof.refusal:
            return None
        taking = [cpu for cpu in self.cpus if proof.counted[cpu]]
        if not taking:
            what, remedy = "SMIs come on a CPU of this process", "run it without taskset"
            yield control("leak", what, False, True, remedy)
            return None
        # Of a few triggers the longest is chance: one may have had to wait for a CPU.
        took_s = median(proof.latencies_s) if proof.latencies_s else 0.0
        safe_hz = SAFE_SHARE / took_s if took_s else proof.safe_hz or self.rate_hz
        rate = min(self.rate_hz, safe_hz)
        is_triggered = isinstance(self.source, Triggered)
        firing_cpu, cpus = _apart(self.cpus, taking) if is_triggered else (None, taking)
        return replace(
            self,
            cpus=tuple(cpus[:MOST_CPUS]),
            rate_hz=rate,
            trigger_s=took_s,
            firing_cpu=firing_cpu,
        )


def _apart(allowed: Sequence[int], taking: Sequence[int]) -> tuple[int | None, Sequence[int]]:
    """Return the CPU to fire on, and the CPUs for guests.

    Where a guest shares its CPU with what fires it is in host mode when the SMI comes. The first of
    them is the one that drivers raise their SMIs on.
    """
    others = [cpu for cpu in allowed if cpu not in taking]
    if others:
        return others[0], taking
    return (taking[0], taking[1:]) if len(taking) > 1 else (None, taking)


def proved_smis(
    context: Context, stack: ExitStack
) -> Generator[Reading | Absence, None, Smis | None]:
    """Try the machine's sources, the gentlest first, until one is fast enough; give what proved.

    What the sources need ends with the stack. Those that proved themselves once in a run are tried
    before others later.
    """
    machine = context.machine
    found = candidates(machine, machine.smi_source)
    if isinstance(found, Missing):
        yield Absence("leak", found)
        return None
    count = counts(machine)
    if isinstance(count, Missing):
        yield Absence("leak", Missing(f"SMIs can't be counted: {count.what}", count.remedy))
        return None
    stack.callback(count.close)
    names = context.found.setdefault(__name__, [])
    known = [source for source in found if source.name in names]
    for sources in (known, found) if known else (found,):
        smis = yield from _first_proved(context, stack, sources, count)
        if smis:
            names[:] = smis.source.name.split(" and ")
            return smis
    return None


def _first_proved(
    context: Context, stack: ExitStack, sources: Sequence[Source], count: SmiCount
) -> Generator[Reading | Absence, None, Smis | None]:
    """Try sources until one is fast enough; yield what proves itself, or why nothing does."""
    cpus = tuple(sorted(os.sched_getaffinity(0) & set(count.cpus)))
    proved: list[Smis] = []
    failed: list[Reading] = []
    for source in sources:
        first = ONLY_AFTER.get(source.name)
        if len(sources) > 1 and first and first not in (each.source.name for each in proved):
            continue
        context.say(f"does it raise SMIs: {source.describes}")
        rate = min(LAB_RATE_HZ if source.name == "lab" else RATE_HZ, source.fastest_hz)
        try:
            opened = stack.enter_context(ready(source, context.journal))
        except KvmtestError as error:
            what = f"the SMI source {source.name} can be used"
            failed.append(control("leak", what, str(error), "yes", _NAME_ANOTHER))
            continue
        readings, smis = _collected(Smis(opened, count, rate, cpus).proved(context))
        if smis is None:
            failed += readings
            if any(reading.raw.get(_TROUBLED) for reading in readings):
                break
            continue
        # Others that did not prove themselves stand in the way of no verdict.
        tried = {f"not {reading.what}": reading.observed for reading in failed}
        for reading in readings:
            yield replace(reading, raw={**reading.raw, **tried})
        proved.append(smis)
        if smis.rate_hz >= FAST_HZ:
            break
    if not proved:
        yield from failed if len(failed) < 2 else [_none_proved(failed)]
        return None
    chosen = best([Proved(each.source, each.rate_hz, each.trigger_s) for each in proved])
    parts = [each for each in proved if each.source.name in chosen.source.name.split(" and ")]
    on_all = set.intersection(*(set(each.cpus) for each in parts))
    taking = tuple(cpu for cpu in parts[0].cpus if cpu in on_all) or parts[0].cpus
    return replace(
        parts[0],
        source=chosen.source,
        rate_hz=chosen.rate_hz,
        cpus=taking,
        trigger_s=chosen.trigger_s,
    )


def _none_proved(failed: Sequence[Reading]) -> Reading:
    """Return one control of several, which tells what became of each source."""
    broken = [reading for reading in failed if not reading.agrees]
    observed = "; ".join(f"{reading.what}: {reading.observed}" for reading in broken)
    return control("leak", "an SMI source proves itself", observed, "yes", _NAME_ANOTHER)


def _collected(
    proving: Generator[Reading, None, Smis | None],
) -> tuple[list[Reading], Smis | None]:
    """Return what a generator yields, and what it returns."""
    readings = []
    while True:
        try:
            readings.append(next(proving))
        except StopIteration as end:
            return readings, end.value


def with_host_counters(stack: ExitStack, machine: Machine, _: Guest, cpu: int) -> Counters:
    """Return counters of the calling thread's guest mode."""
    return stack.enter_context(HostCounters(machine, cpu))


class _Watch(NamedTuple):
    """What one watch saw, its VM-exits, and the TSC around its KVM_RUN."""

    gaps: int
    polls: int
    longest: int
    exits: int
    began: int
    ended: int


class Watcher:
    """Watches one guest, which runs in the caller's thread, and whose ``counters`` count it.

    ``stimulus`` is applied before each window of an arm, if there is one.
    """

    def __init__(
        self, guest: Guest, counters: Counters, vcpu: int, stimulus: Stimulus | None = None
    ) -> None:
        self.vcpu = vcpu
        self.stimulus = stimulus
        self.watch_other(guest)
        self._counters = counters
        self._threshold = NO_GAP
        self._own_exits = 0

    @property
    def guest(self) -> Guest:
        """The guest that is watched."""
        return self._guest

    def watch_other(self, guest: Guest) -> None:
        """Watch this guest from now on, which is like the one before; counters are the thread's."""
        self._guest = guest
        #: To be added to the guest's TSC to have the host's.
        self.tsc_offset = _tsc_offset(guest)

    def calibrate(self, ticks: int) -> None:
        """Learn how many VM-exits a watch is made of by itself, and what a gap is.

        Raises Disturbed where the guest hardly runs without other exits.
        """
        trials: list[_Watch] = []
        for _ in range(MOST_TRIALS):
            trials.append(self._watch(ticks))
            self._own_exits = min(trial.exits for trial in trials)
            longest = [trial.longest for trial in trials if trial.exits == self._own_exits]
            if len(longest) == TRIALS:
                self._threshold = int(MARGIN * median(longest))
                return
        most = max(trial.exits for trial in trials)
        raise Disturbed(
            f"a guest's watch took up to {most} VM-exits, and only {len(longest)} of {MOST_TRIALS} "
            f"took its own {self._own_exits}; try again on an idle machine"
        )

    def settle(self) -> None:
        """Have the guest run for a moment."""
        self._guest.execute(commands.nop(), timeout=PATIENCE_S)

    def watch(self, ticks: int) -> Taken:
        """Watch so long; the window is of no arm and has no SMIs yet. Raises Disturbed.

        It is the one KVM_RUN that a watch is made of: outside it the guest counts a constant.
        """
        before = self._counters.read()
        seen = self._watch(ticks)
        gaps = self._guest.gaps(seen.gaps)
        after = self._counters.read()
        if len(gaps) < seen.gaps:
            raise Disturbed(f"the guest saw {seen.gaps} gaps; try again on an idle machine")
        counted = {name: after[name] - before[name] for name in before}
        known = self._counters.known(seen.polls, seen.gaps)
        window = Window(
            Arm.MIXED, seen.began, seen.ended, counted, known, seen.exits - self._own_exits, 0,
            seen.gaps, self.vcpu,
        )  # fmt: skip
        offset = self.tsc_offset
        return window, [Gap(g.begin + offset, g.end + offset, self.vcpu) for g in gaps]

    def _watch(self, ticks: int) -> "_Watch":
        before = self._guest.vcpu.stat("exits")
        command = commands.watch(ticks, self._threshold)
        (result,) = self._guest.execute(command, timeout=PATIENCE_S)
        vcpu, (gaps, polls, _, longest) = self._guest.vcpu, result.values
        exits = vcpu.stat("exits") - before
        return _Watch(gaps, polls, longest, exits, vcpu.tsc_entry, vcpu.tsc_exit)


class Crew:
    """Watchers that watch at the same time, each in a thread of its own, a CPU of ``smis`` each.

    ``kept`` closes what their threads use, after these.
    """

    def __init__(self, smis: Smis, workers: Supervisor, kept: ExitStack) -> None:
        self.smis = smis
        self.workers = workers
        self._kept = kept
        self._tsc_hz = tsc_hz()
        self._watchers: list[tuple[Runner, Watcher]] = []
        self._firing = Runner(f"SMIs by {smis.source.name}", lambda: None)
        if smis.fire:
            workers.start(self._firing, smis.firing_cpu)

    def hire(self, guest: Guest, cpu: int, make: Callable[[int], Watcher]) -> None:
        """Have ``make`` make a watcher of a vCPU in its thread; raises what that raises."""
        runner = Runner(f"vCPU on CPU {cpu}", guest.vcpu.stop)
        self.workers.start(runner, cpu)
        made = runner.ask(partial(make, len(self._watchers)))
        self._watchers.append((runner, self.workers.result(made, PATIENCE_S)))

    @property
    def clock(self) -> Reading:
        """How all times of the experiment, which are of the host's TSC, are told from others."""
        offsets = {watcher.vcpu: watcher.tsc_offset for _, watcher in self._watchers}
        return Clock(round(self._tsc_hz), offsets).reading()

    def calibrate(self) -> None:
        """Have each watcher learn what it sees without SMIs. Raises Disturbed."""
        ticks = int(TRIAL_S * self._tsc_hz)
        self._each(lambda watcher: watcher.calibrate(ticks), MOST_TRIALS)

    def apply_own(self) -> Iterator[Reading]:
        """Apply to each guest its own stimulus, one after the other, and show that it was done."""
        for runner, watcher in self._watchers:
            if watcher.stimulus:
                apply = partial(watcher.stimulus.apply, watcher.guest)
                done = self.workers.result(runner.ask(apply), 2 * PATIENCE_S)
                yield control("leak", watcher.stimulus.does, done, True, "report this KVM")

    def apply(self, stimulus: Stimulus) -> Iterator[Reading]:
        """Apply a stimulus to all guests at once, and show that it was done."""
        for done in self._each(lambda watcher: stimulus.apply(watcher.guest), 1):
            yield control("leak", stimulus.does, done, True, "report this KVM")

    def begin_anew(self, scene: Scene) -> Iterator[Reading]:
        """Have each watch a guest on a new vCPU, in a VM of its own, which runs for a moment."""
        for runner, watcher in self._watchers:
            guest = self._kept.enter_context(scene.guest())

            def begin(watcher: Watcher = watcher, guest: Guest = guest) -> None:
                scene.run(guest)
                watcher.watch_other(guest)

            self.workers.result(runner.ask(begin), 2 * PATIENCE_S)
            offset = {f"offset {watcher.vcpu}": watcher.tsc_offset}
            yield control("leak", "a new vCPU ran", True, True, "", **offset)

    def settle(self) -> None:
        """Have each guest run for a moment."""
        self._each(Watcher.settle, 1)

    def take(self, arm: Arm, length: float = 1.0) -> list[Taken]:
        """Take a window of an arm on each vCPU, QUIET without SMIs, the others with SMIs.

        It is ``length`` times as long as others. Raises Disturbed.
        """
        smis, raising = self.smis, ExitStack()
        if smis.fire and arm is not Arm.QUIET:
            return self.take_around(arm, lambda: None, length)[1]
        ticks = int(length * smis.window_s * self._tsc_hz)
        with raising:
            before = self._counts()
            if arm is not Arm.QUIET:
                raising.enter_context(smis.source.raising(smis.rate_hz))
            taken = self._each(lambda watcher: watcher.watch(ticks), 1)
        return self._sorted(arm, before, taken)

    def take_around(
        self, arm: Arm, amid: Callable[[], T], length: float = 1.0
    ) -> tuple[T, list[Taken]]:
        """Take a window of an arm on each vCPU amid which something is done, before any SMI.

        Give what came of it too. Windows are longer by AMID_S, but where SMIs are asked for one by
        one, and of no arm where an SMI came before it was over. Raises Disturbed.
        """
        smis = self.smis
        window_s = length * smis.window_s
        # All windows are as long as each other where VM-exits by timers are many.
        ticks = int((window_s if smis.fire else window_s + AMID_S) * self._tsc_hz)
        if smis.fire:
            smis.fire.wait()
        before = self._counts()
        asked = self._ask(lambda watcher: watcher.watch(ticks))
        time.sleep(AMID_S / 4)
        done = amid()
        is_first = self._counts() == before
        if smis.fire:
            # Anywhere in it: a toggler's writes come before some, and after others.
            time.sleep(random.uniform(0, window_s / 2))
            self.workers.result(self._firing.ask(smis.fire), PATIENCE_S)
        else:
            with smis.source.raising(smis.rate_hz):
                time.sleep(window_s)
        taken = self._wait(asked, 1)
        return done, self._sorted(arm if is_first else Arm.MIXED, before, taken)

    def _counts(self) -> list[int]:
        return [self.smis.count.read(cpu) for cpu in self.smis.cpus]

    def _sorted(self, arm: Arm, before: list[int], taken: list[Taken]) -> list[Taken]:
        """Return the windows as ones of that arm, with the SMIs since the counts ``before``."""
        smis, after = self.smis, self._counts()
        raised = map(smis.count.increase, before, after)
        return [
            (replace(window, arm=arm, smis=count), gaps)
            for (window, gaps), count in zip(taken, raised, strict=True)
        ]

    def _each(self, do: Callable[[Watcher], T], times: int) -> list[T]:
        """Have all do what takes so many watches, at the same time, and wait for it."""
        return self._wait(self._ask(do), times)

    def _ask(self, do: Callable[[Watcher], T]) -> list[Future[T]]:
        return [runner.ask(partial(do, watcher)) for runner, watcher in self._watchers]

    def _wait(self, asked: list[Future[T]], times: int) -> list[T]:
        return [self.workers.result(each, 2 * PATIENCE_S * times) for each in asked]


@dataclass(frozen=True, slots=True)
class Body:
    """What an experiment does: the ``patient`` way where SMIs are asked for or waited for."""

    usual: Callable[[Scene, Crew], Observations]
    patient: Callable[[Scene, Crew], Observations]

    def __call__(self, scene: Scene, crew: Crew) -> Observations:
        """Do it the usual way."""
        return self.usual(scene, crew)


def disturbance(error: Disturbed) -> Reading:
    """Return the control that does not hold where too much else goes on: no claim counts then."""
    happened, _, remedy = str(error).partition("; ")
    return control("leak", "the guests could be watched", happened, "yes", remedy)


def tell_noise(observations: Observations) -> Observations:
    """Yield an experiment's observations; if noise ends it, that is the last."""
    try:
        yield from observations
    except Disturbed as error:
        yield disturbance(error)


def experiment(
    context: Context,
    make: MakeCounters,
    body: Callable[[Scene, Crew], Observations],
    stimulus: Callable[[Guest], Stimulus] | None = None,
    *,
    knob: int | None = None,
    make_guest: MakeGuest = Scene.guest,
) -> Observations:
    """Prove the SMIs, have a crew ready with counters that ``make`` makes, and do the ``body``.

    ``stimulus`` makes what is applied to a guest before each of its windows. The vCPUs are made,
    and run for a moment, with the ``knob`` so, or as it is. Raises Disturbed, and what
    ``make_guest`` raises.
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
            crew = _hired(scene, stack, smis, make, stimulus, make_guest)
        except CounterError as error:
            yield Absence("leak", Missing(str(error)))
            return
        except GuestFault as error:
            # KVM says no beforehand where it gives no PMU at all: see the precondition guest-pmu.
            what = f"the guest's counters can't be switched on: {error}"
            yield Absence("leak", Missing(what, "run where KVM gives guests a PMU of version 2"))
            return
        yield crew.clock
        crew.calibrate()
        is_slow = smis.windows.by_ones or smis.windows.waited
        yield from (body.patient if isinstance(body, Body) and is_slow else body)(scene, crew)


def _hired(
    scene: Scene,
    stack: ExitStack,
    smis: Smis,
    make: MakeCounters,
    stimulus: Callable[[Guest], Stimulus] | None,
    make_guest: MakeGuest,
) -> Crew:
    """Return a crew with a guest on each CPU; what it needs ends with the stack.

    Raises CounterError or GuestFault where there are no counters.
    """
    guests = [stack.enter_context(make_guest(scene)) for _ in smis.cpus]
    # Closed after the threads that use them.
    opened = stack.enter_context(ExitStack())
    crew = Crew(smis, stack.enter_context(Supervisor()), opened)
    for guest, cpu in zip(guests, smis.cpus, strict=True):
        scene.run(guest)

        def watcher(vcpu: int, guest: Guest = guest, cpu: int = cpu) -> Watcher:
            counters = make(opened, scene.machine, guest, cpu)
            return Watcher(guest, counters, vcpu, stimulus(guest) if stimulus else None)

        crew.hire(guest, cpu, watcher)
    return crew


def record(taken: Iterable[Taken], samples: Samples) -> Observations:
    """Yield windows and their gaps as readings, and keep them."""
    for window, gaps in taken:
        yield window.reading(len(samples.windows))
        samples.windows.append(window)
        for gap in gaps:
            yield gap.reading(len(samples.gaps))
            samples.gaps.append(gap)


def more_quiet(crew: Crew, windows: Iterable[Window], length: float) -> Iterator[Taken]:
    """Take quiet windows until they say, with those of ``windows``, what VM-exits of others cost.

    A timer's come in a part of all windows, in none of the quiet ones by chance. They cost no SMI.
    """
    windows = list(windows)
    for _ in range(MORE_QUIET):
        quiet = [window for window in windows if window.arm is Arm.QUIET and not window.smis]
        if not quiet or all(map(Covariates(quiet).explain, windows)):
            return
        taken = crew.take(Arm.QUIET, length)
        windows += [window for window, _ in taken]
        yield from taken


def arm_under(toggles: Sequence[Toggle], window: Window) -> Arm:
    """Return the arm of a window with SMIs: what the toggles, in order, say of the knob then.

    It is MIXED where the knob was being written meanwhile, or nobody knows its state.
    """
    arm = Arm.MIXED
    for toggle in toggles:
        if toggle.ended <= window.began:
            arm = Arm.KNOB_ON if toggle.value else Arm.KNOB_OFF
        elif toggle.began < window.ended:
            return Arm.MIXED
    return arm


def _tsc_offset(guest: Guest) -> int:
    """Return what is to be added to the guest's TSC to have the host's, as exactly as it goes."""
    reads = []
    for _ in range(OFFSET_READS):
        before = int(lib.clock_tsc())
        guests = guest.vcpu.get_msr(IA32_TSC)
        after = int(lib.clock_tsc())
        reads.append((after - before, (before + after) // 2 - guests))
    return min(reads)[1]
