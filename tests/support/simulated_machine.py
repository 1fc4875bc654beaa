"""A machine that takes SMIs while its guest runs, simulated: samples whose truth is known."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from math import exp, sqrt
from random import Random

from kvmtest.checks.leaks.plan import Plan, Windows
from kvmtest.checks.leaks.walk import OFF, ON, QUIET_EACH, SLOW_TIMES
from kvmtest.judge.samples import Arm, Gap, Samples, Toggle, Window

KNOWN = 100_000  # instructions that the guest executes in a window
TICKS = 10_000_000  # TSC ticks that the window lasts
EXIT_TICKS = 2_000
CYCLES_PER_TICK = 0.8

#: Windows to be taken: the arm, what part of a handler is counted, and the state.
Steps = list[tuple[Arm, float, str]]


@dataclass(frozen=True, slots=True)
class Machine:
    """``handler`` is what an SMI executes; ``noise`` is in counts, of the named kind.

    Each window gains 3 counts, and one per VM-exit. ``smis`` is the mean of a window with SMIs, of
    which the part ``in_host`` comes in host mode. ``variation`` is the relative deviation of the
    handler's length, ``drift`` the step of a random walk and, ten times, the slope over all
    windows, in units of the noise. The part ``lost`` of all gaps is not seen by the guest; of those
    seen the part ``recorded`` fits into the log.

    With the knob on the part ``leak`` of each handler is counted, and all of it in ``lost_updates``
    of the windows. Each block is a quiet window, one with the knob off, and one with it on. After
    these come ``toggled`` windows with a toggle amid each, and a quiet one for every two; with
    ``goes_on`` KVM goes on with the knob's state at their begin.

    With ``by_ones`` windows with SMIs have one each, and are those of the plan for slow SMIs, in
    its stages; lost updates are in the first, as an experiment may end with it. With ``waited`` so
    are those of SMIs that come by themselves: windows that have none are quiet ones.

    A ``walk`` is a few windows with the knob off, then on, then off again, with quiet ones after
    each; the part ``frozen`` of each handler is not counted with the knob off again.
    """

    handler: float
    kind: str = "exact"
    noise: float = 0.0
    blocks: int = 10
    smis: float = 5.0
    in_host: float = 0.0
    variation: float = 0.0
    drift: float = 0.0
    lost: float = 0.0
    recorded: float = 1.0
    counter: str = "instructions:k"
    exits: int = 4
    leak: float = 0.0
    lost_updates: int = 0
    control: float = 1.0
    toggled: int = 0
    goes_on: bool = False
    walk: bool = False
    frozen: float = 0.0
    by_ones: bool = False
    waited: bool = False

    @property
    def plan(self) -> Plan | None:
        """The plan for slow SMIs, where they are."""
        if self.walk or not (self.by_ones or self.waited):
            return None
        return Plan.of(Windows(1.0, self.smis, self.by_ones, self.waited))

    @property
    def first(self) -> int | None:
        """How many windows the judge is asked about first, where it is asked twice."""
        return self.plan.stages[0] * len(self.plan.order) if self.plan else None

    def looks(self, random: Random) -> Iterator[Samples]:
        """Yield one experiment's samples as the judge is asked, each time with those before."""
        samples = self.samples(random)
        if self.first:
            yield replace(samples, windows=samples.windows[: self.first])
        yield samples

    def samples(self, random: Random) -> Samples:
        """Return one experiment's samples."""
        samples = Samples()
        plan = self._walk() if self.walk else self._blocks()
        treated = [at for at, (arm, *_) in enumerate(plan[: self.first]) if arm is Arm.KNOB_ON]
        stale = set(random.sample(treated, self.lost_updates))
        walk, clock = 0.0, 0
        slope = 10 * self.drift * self.noise / len(plan) * random.choice((-1, 1))
        for at, (arm, share, state) in enumerate(plan):
            walk += slope
            if self.drift:
                walk += random.gauss(0, self.drift * self.noise)
            is_stale = at in stale
            if is_stale:
                share = 1.0
            clock = self._window(samples, random, arm, share, walk, clock, is_stale, state)
        for number in range(self.toggled):
            if not number % 2:
                clock = self._toggled(samples, random, 0, clock, Arm.QUIET)
            clock = self._toggled(samples, random, number % 2, clock)
        if self.recorded < 1:
            del samples.gaps[int(self.recorded * len(samples.gaps)) :]
        return samples

    def _blocks(self) -> Steps:
        """Return the arms, what part of a handler is counted in each, and no states."""
        shares = {Arm.QUIET: 0.0, Arm.KNOB_OFF: self.control, Arm.KNOB_ON: self.leak}
        blocks, order = self.blocks, tuple(shares)
        if self.plan:
            blocks, order = sum(self.plan.stages), self.plan.order
        return [(arm, shares[arm], "") for _ in range(blocks) for arm in order]

    def _walk(self) -> Steps:
        quiet = (Arm.QUIET, 0.0, "")
        again = self.control * (1 - self.frozen)
        if self.by_ones:
            off = [(Arm.KNOB_OFF, self.control, "")] * QUIET_EACH + [quiet]
            on = [(Arm.KNOB_ON, self.leak, "after")] * QUIET_EACH + [quiet]
            off_again = [(Arm.KNOB_OFF, again, "after")] * QUIET_EACH + [quiet]
            offs, ons = SLOW_TIMES * OFF // QUIET_EACH, SLOW_TIMES * ON // QUIET_EACH
            return [*off * offs, *on * ons, *off_again * offs]
        return [
            *[(Arm.KNOB_OFF, self.control, "")] * OFF, quiet, quiet,
            *[(Arm.KNOB_ON, self.leak, "after")] * ON, quiet, quiet,
            *[(Arm.KNOB_OFF, again, "after")] * OFF, quiet, quiet, quiet,
        ]  # fmt: skip

    def _window(
        self,
        samples: Samples,
        random: Random,
        arm: Arm,
        share: float,
        drift: float,
        began: int,
        is_stale: bool,
        state: str,
    ) -> int:
        smis = 0
        if arm is not Arm.QUIET:
            smis = 1 if self.by_ones else poisson(random, self.smis)
        in_guest = sum(random.random() >= self.in_host for _ in range(smis))
        if is_stale:  # It is the truth about the machine only if it shows.
            smis, in_guest = max(smis, 1), max(in_guest, 1)
        exits = random.randint(0, self.exits)
        if smis > in_guest:
            exits = max(exits, 1)  # An SMI in host mode comes amid a VM-exit.
        counted = 3 + exits + drift + self._noise(random)
        if share and in_guest:
            length = 1.0
            if self.variation:
                shape = in_guest / self.variation**2
                length = random.gammavariate(shape, 1 / shape)
            counted += share * in_guest * self.handler * length
        gaps = exits + in_guest
        ended = began + TICKS
        known = {self.counter: KNOWN}
        if self.counter.startswith("cycles"):
            known = {}
            at = began + 1
            for gap in range(gaps):
                length = EXIT_TICKS if gap < exits else int(self.handler)
                samples.gaps.append(Gap(at, at + length))
                at += length + 1
            ran = TICKS - exits * EXIT_TICKS - in_guest * int(self.handler)
            counted += CYCLES_PER_TICK * ran
        else:
            counted += KNOWN
        if self.lost:
            gaps = sum(random.random() >= self.lost for _ in range(gaps))
        if self.waited and not smis:
            arm = Arm.QUIET
        samples.windows.append(
            Window(
                arm, began, ended, {self.counter: round(counted)}, known, exits, smis, gaps,
                state="" if arm is Arm.QUIET else state,
            )
        )  # fmt: skip
        return ended + 1000

    def _toggled(
        self, samples: Samples, random: Random, begin: int, began: int, arm: Arm = Arm.MIXED
    ) -> int:
        """Take a window in which the knob goes from its value at the begin to the other."""
        samples.toggles.append(Toggle(begin, began - 500, began - 400))
        smis = poisson(random, self.smis) if arm is Arm.MIXED else 0
        others = random.randint(0, max(self.exits - 1, 0))
        counted = KNOWN + 3 + 1 + others + self._noise(random)
        places = range(10_000, TICKS - 10_000, 10_000)
        write, *rest = random.sample(places, 1 + smis + others)
        toggle = Toggle(1 - begin, began + write, began + write + 2_000)
        samples.toggles.append(toggle)
        samples.gaps.append(Gap(toggle.began + 100, toggle.ended - 100))
        for at, place in enumerate(rest):
            samples.gaps.append(Gap(began + place, began + place + 1_000))
            is_on = begin if self.goes_on or place < write else 1 - begin
            if at < smis and not is_on:
                shape = 1 / self.variation**2 if self.variation else 0
                counted += self.handler * (random.gammavariate(shape, 1 / shape) if shape else 1)
        samples.windows.append(
            Window(
                arm, began, began + TICKS, {self.counter: round(counted)},
                {self.counter: KNOWN}, 1 + others, smis, 1 + others + smis,
            )
        )  # fmt: skip
        return began + TICKS + 1000

    def _noise(self, random: Random) -> float:
        match self.kind:
            case "exact":
                return 0.0
            case "gaussian":
                return random.gauss(0, self.noise)
            case "heavy":  # Student's t with 3 degrees of freedom: its variance is barely finite.
                squares = sum(random.gauss(0, 1) ** 2 for _ in range(3))
                return random.gauss(0, self.noise) / sqrt(squares / 3)
            case "spiked":  # One window in twenty is ten times as noisy.
                scale = 10 if random.random() < 0.05 else 1
                return random.gauss(0, scale * self.noise)
        raise ValueError(self.kind)


def poisson(random: Random, mean: float) -> int:
    """Return a count of events that come at random, so many in the mean."""
    return bisect_left(_poisson_table(mean), random.random())


@cache
def _poisson_table(mean: float) -> list[float]:
    terms = [exp(-mean)]
    for count in range(1, int(mean + 10 * sqrt(mean) + 10)):
        terms.append(terms[-1] * mean / count)
    return list(accumulate(terms))
