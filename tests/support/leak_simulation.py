"""Evidence of leak experiments that never were: for what shows and reads evidence."""

import random
from collections.abc import Iterable

from kvmtest.judge import Reading
from kvmtest.judge.samples import Arm, Gap, Samples, Toggle, Window

ARMS = (Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON)
COUNTER = "instructions:k"
LENGTH = 2_000_000  # TSC ticks of guest execution in a window
SMI = 40_000


def simulated(
    rounds: int = 8, smis: int = 5, *, leaks: bool = False, per_smi: int = 11, exits: int = 2,
    noise: int = 0, seed: int = 1,
) -> Samples:  # fmt: skip
    """Take the three arms in turns; with ``leaks``, the freeze bit does nothing.

    Every other window has VM-exits, and its gaps may be those.
    """
    chance = random.Random(seed)
    samples, now = Samples(), 5_000_000_000
    for number in range(3 * rounds):
        arm = ARMS[number % 3]
        if arm is not Arm.QUIET:
            samples.toggles.append(Toggle(int(arm is Arm.KNOB_ON), now - 90_000, now - 80_000))
        took = smis + chance.randint(-1, 1) if arm is not Arm.QUIET else 0
        left = exits * (number // 3 % 2)
        began, at = now, now
        for gap in range(took + left):
            at += chance.randint(LENGTH // 20, LENGTH // 5)
            length = int(chance.lognormvariate(0, 0.15) * (SMI if gap < took else 1500))
            samples.gaps.append(Gap(at, at + length))
            at += length
        now = max(at, began + LENGTH)
        counted = took * per_smi if arm is Arm.KNOB_OFF or leaks else 0
        counted += chance.randint(-noise, noise)
        samples.windows.append(
            Window(
                arm,
                began,
                now,
                {COUNTER: 20_000_001 + counted},
                {COUNTER: 20_000_001},
                exits=left,
                smis=took,
                gaps=took + left,
            )
        )
        now += 400_000
    return samples


def readings(samples: Samples, concluded: Iterable[Reading] = ()) -> list[Reading]:
    """Return the samples as evidence has them, and after them what was concluded."""
    windows = [each.reading(n) for n, each in enumerate(samples.windows)]
    gaps = [each.reading(n) for n, each in enumerate(samples.gaps)]
    toggles = [each.reading(n) for n, each in enumerate(samples.toggles)]
    return [*windows, *gaps, *toggles, *concluded]
