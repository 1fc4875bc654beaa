"""The watchers of guests
=====================

A guest on each CPU whose SMIs are counted. Each guest runs in a thread of its own, and all are
watched at the same time.
"""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import NamedTuple, TypeVar

from kvmtest._native import lib
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.stimulus import Stimulus
from kvmtest.errors import KvmtestError
from kvmtest.guests import Guest, commands
from kvmtest.host.facts.msr import IA32_TSC
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.judge import Reading, control
from kvmtest.judge.samples import Arm, Clock, Gap, Window
from kvmtest.kvm import MsrRefused
from kvmtest.workers import Runner, Supervisor

from .counters import PATIENCE_S, Counters
from .smis import Smis

__all__ = ["Disturbed", "Watcher", "Watchers", "WindowAndGaps"]

T = TypeVar("T")

#: The shortest gap, as a multiple of the longest step without an exit. A step that logs a gap has
#: 23 instructions instead of 16, and must not count as a gap itself.
MARGIN = 1.5
#: Short watches to learn the guest's longest step without exits: wanted, at most, and their length.
TRIALS, MOST_TRIALS, TRIAL_S = 9, 100, 0.0002
#: Upper bound on the action in the middle of a window, and on waiting until guests are in it.
MEANWHILE_S = 0.05
#: A gap that no guest has.
NO_GAP = 1 << 62
#: Reads of the guest's TSC.
OFFSET_READS = 5

WindowAndGaps = tuple[Window, list[Gap]]


class Disturbed(KvmtestError):
    """A guest could not be watched, because the machine is too busy."""


class _Watch(NamedTuple):
    """One watch: its gaps, polls and longest step, its VM-exits, the TSC around its KVM_RUN."""

    gaps: int
    polls: int
    longest: int
    exits: int
    began: int
    ended: int


class Watcher:
    """Watches one guest, which runs in the caller's thread; ``counters`` count that guest.

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
        """Watch this similar guest from now on; the counters, which are the thread's, stay."""
        self._guest = guest
        #: The host's TSC minus the guest's.
        self.tsc_offset = _tsc_offset(guest)

    def calibrate(self, ticks: int) -> None:
        """Learn how many VM-exits a watch itself causes, and the shortest gap in ticks.

        Raises Disturbed if the guest hardly runs without other exits.
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

    def watch(self, ticks: int) -> WindowAndGaps:
        """Watch for so many ticks; the window has no arm and no SMIs yet. Raises Disturbed.

        The window is the one KVM_RUN of a watch: outside it, the guest counts a constant.
        """
        before = self._counters.read()
        seen = self._watch(ticks)
        after = self._counters.read()
        # Afterwards: a guest whose memory is private runs to give them.
        gaps = self._guest.gaps(seen.gaps)
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
        result, (began, ended) = self._guest.execute_timed(command, timeout=PATIENCE_S)
        gaps, polls, _, longest = result.values
        exits = self._guest.vcpu.stat("exits") - before
        return _Watch(gaps, polls, longest, exits, began, ended)


class Watchers:
    """A watcher for each CPU of ``smis``, each in a thread of its own; they watch at the same time.

    ``kept`` closes what the threads use, after the threads have ended.
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

    def add(self, guest: Guest, cpu: int, make: Callable[[int], Watcher]) -> None:
        """Add the watcher that ``make`` returns for a vCPU's number, in a thread on ``cpu``."""
        runner = Runner(f"vCPU on CPU {cpu}", guest.vcpu.stop)
        self.workers.start(runner, cpu)
        made = runner.ask(partial(make, len(self._watchers)))
        self._watchers.append((runner, self.workers.result(made, PATIENCE_S)))

    @property
    def clock(self) -> Reading:
        """The clock of all times of the experiment: the host's TSC, and each guest's offset."""
        offsets = {watcher.vcpu: watcher.tsc_offset for _, watcher in self._watchers}
        return Clock(round(self._tsc_hz), offsets).reading()

    def calibrate(self) -> None:
        """Calibrate every watcher, without SMIs. Raises Disturbed."""
        ticks = int(TRIAL_S * self._tsc_hz)
        self._on_all(lambda watcher: watcher.calibrate(ticks), MOST_TRIALS)

    def apply_own(self) -> Iterator[Reading]:
        """Apply to each guest its own stimulus, one after the other, and show that it was done."""
        for runner, watcher in self._watchers:
            if watcher.stimulus:
                apply = partial(watcher.stimulus.apply, watcher.guest)
                done = self.workers.result(runner.ask(apply), 2 * PATIENCE_S)
                yield control("leak", watcher.stimulus.does, done, True, "report this KVM")

    def apply(self, stimulus: Stimulus) -> Iterator[Reading]:
        """Apply a stimulus to all guests at once, and show that it was done."""
        for done in self._on_all(lambda watcher: stimulus.apply(watcher.guest), 1):
            yield control("leak", stimulus.does, done, True, "report this KVM")

    def replace_guests(self, scene: Scene) -> Iterator[Reading]:
        """Have each watch a guest on a new vCPU, in a new VM; it runs for a moment first."""
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
        self._on_all(Watcher.settle, 1)

    def take_windows(self, arm: Arm, length: float = 1.0) -> list[WindowAndGaps]:
        """Take a window of an arm on each vCPU, QUIET without SMIs, the others with SMIs.

        It is ``length`` times as long as others. Raises Disturbed.
        """
        smis, raising = self.smis, ExitStack()
        if smis.fire and arm is not Arm.QUIET:
            return self.take_windows_around(arm, lambda: None, length)[1]
        ticks = int(length * smis.window_s * self._tsc_hz)
        with raising:
            before = self._counts()
            if arm is not Arm.QUIET:
                raising.enter_context(smis.source.raising(smis.rate_hz))
            taken = self._on_all(lambda watcher: watcher.watch(ticks), 1)
        return self._sorted(arm, before, taken)

    def take_windows_around(
        self, arm: Arm, meanwhile: Callable[[], T], length: float = 1.0
    ) -> tuple[T, list[WindowAndGaps]]:
        """Take a window of an arm on each vCPU; call ``meanwhile`` in it, before any SMI.

        Return what that returned, too. Windows are longer by MEANWHILE_S, unless SMIs are asked for
        one by one, and of no arm where an SMI came before the call ended. Raises Disturbed.
        """
        smis = self.smis
        window_s = length * smis.window_s
        # With a trigger, all windows have one length: timers' VM-exits are many in such long ones.
        ticks = int((window_s if smis.fire else window_s + MEANWHILE_S) * self._tsc_hz)
        if smis.fire:
            smis.fire.wait()
        before = self._counts()
        asked = self._ask(lambda watcher: watcher.watch(ticks))
        time.sleep(MEANWHILE_S / 4)
        done = meanwhile()
        is_first = self._counts() == before
        if smis.fire:
            # At a random time, so that a toggler's writes precede some SMIs and follow others.
            time.sleep(random.uniform(0, window_s / 2))
            self.workers.result(self._firing.ask(smis.fire), PATIENCE_S)
        else:
            with smis.source.raising(smis.rate_hz):
                time.sleep(window_s)
        taken = self._wait(asked, 1)
        return done, self._sorted(arm if is_first else Arm.MIXED, before, taken)

    def _counts(self) -> list[int]:
        return [self.smis.count.read(cpu) for cpu in self.smis.cpus]

    def _sorted(
        self, arm: Arm, before: list[int], taken: list[WindowAndGaps]
    ) -> list[WindowAndGaps]:
        """Return the windows as ones of that arm, with the SMIs since the counts ``before``."""
        smis, after = self.smis, self._counts()
        raised = map(smis.count.increase, before, after)
        return [
            (window.of_arm(arm, count), gaps)
            for (window, gaps), count in zip(taken, raised, strict=True)
        ]

    def _on_all(self, action: Callable[[Watcher], T], times: int) -> list[T]:
        """Run ``action`` on every watcher at once, and wait; ``times`` scales the timeout."""
        return self._wait(self._ask(action), times)

    def _ask(self, action: Callable[[Watcher], T]) -> list[Future[T]]:
        return [runner.ask(partial(action, watcher)) for runner, watcher in self._watchers]

    def _wait(self, asked: list[Future[T]], times: int) -> list[T]:
        return [self.workers.result(each, 2 * PATIENCE_S * times) for each in asked]


def _tsc_offset(guest: Guest) -> int:
    """Return the host's TSC minus the guest's: amid the bounds that a few reads set.

    KVM does not know a TD's TSC, which only the TDX module sets: the TD reads its own.
    """
    try:
        reads = [_read_by_host(guest) for _ in range(OFFSET_READS)]
    except MsrRefused:
        reads = [_read_by_guest(guest) for _ in range(OFFSET_READS)]
    return (max(low for low, _ in reads) + min(high for _, high in reads)) // 2


def _read_by_host(guest: Guest) -> tuple[int, int]:
    """Return the least and the most that the TSC's offset can be."""
    before = int(lib.clock_tsc())
    guests = guest.vcpu.get_msr(IA32_TSC)
    after = int(lib.clock_tsc())
    return before - guests, after - guests


def _read_by_guest(guest: Guest) -> tuple[int, int]:
    """Return the same bounds, by a watch in its KVM_RUN whose first step is a gap."""
    ticks = int(TRIAL_S * tsc_hz())
    _, (began, ended) = guest.execute_timed(commands.watch(ticks, 0), timeout=PATIENCE_S)
    (first,) = guest.gaps(1)
    return began - first.begin, ended - (first.begin + ticks)
