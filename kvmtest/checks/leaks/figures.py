"""Figures
=======

The counts that events gain with each SMI, for properties that measure and claim nothing. Windows
without SMIs show what a VM-exit costs.
"""

from collections.abc import Callable, Iterable, Sequence

from kvmtest.judge import Reading, measure
from kvmtest.judge.arms import ticks_run
from kvmtest.judge.baseline import Baseline, Covariates
from kvmtest.judge.excess import expected_counts
from kvmtest.judge.samples import Arm, Samples, Window

__all__ = ["per_smi", "quiet_windows", "smis_told"]


def quiet_windows(samples: Samples) -> list[Window]:
    """Return the windows of the quiet arm in which indeed no SMI came."""
    return [w for w in samples.windows if w.arm is Arm.QUIET and not w.smis]


def smis_told(noisy: Sequence[Window], count: str, state: str = "") -> Reading:
    """Return how many SMIs ``count`` counted in these windows, and how many in guest mode."""
    smis = sum(window.smis for window in noisy)
    in_guest = sum(window.guest_smis or 0 for window in noisy)
    told = f"{smis} in {len(noisy)} windows, {in_guest} in guest mode"
    return measure("leak", f"SMIs that {count} counted{state}", told)


def per_smi(samples: Samples, noisy: Sequence[Window], name: str, state: str = "") -> Reading:
    """Return what a counter gained for each SMI of these windows, above its quiet baseline.

    The windows, and the quiet ones of ``samples``, must not be empty.
    """
    quiet, smis = quiet_windows(samples), sum(window.smis for window in noisy)
    known = all(name in window.known for window in samples.windows)
    ticks = None if known else ticks_run(samples.windows, samples.gaps)
    excess = _excess(name, quiet, noisy, expected_counts(name, quiet, ticks))
    observed = "too few quiet windows" if excess is None else round(excess / smis, 3)
    what = f"{name} per SMI{state}"
    return measure("leak", what, observed, smis=smis, windows=len(noisy))


def _excess(
    name: str,
    quiet: list[Window],
    noisy: Sequence[Window],
    expected: Callable[[Window], float],
) -> float | None:
    """Return what a counter gained in all noisy windows above what it does without SMIs."""

    def gains(windows: Iterable[Window]) -> list[float]:
        return [window.counted[name] - expected(window) for window in windows]

    covariates = Covariates(quiet)
    baseline = Baseline.fit(covariates, gains(quiet))
    return None if baseline is None else sum(baseline.residuals(gains(noisy), covariates.of(noisy)))
