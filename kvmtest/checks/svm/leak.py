"""Leaks on AMD
============

svm.leak.guest-only: the counts that guest-only events gain with each SMI. This is a figure and no
claim, because AMD CPUs have no bit that keeps SMM out of counters. If KVM intercepts SMIs (the
parameter kvm_amd.intercept_smi), they come in host mode after a VM-exit; else they are counted.

AMD counts VMRUN as a branch, so that perf's branches are not used here. Windows without SMIs show
what a VM-exit costs.
"""

from collections.abc import Callable, Iterable
from functools import partial

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.counters import with_host_counters
from kvmtest.checks.leaks.experiment import Procedure, experiment, noise_as_control
from kvmtest.checks.leaks.watchers import Watchers
from kvmtest.checks.leaks.windows import record
from kvmtest.checks.scene import Scene
from kvmtest.judge import Reading, measure
from kvmtest.judge.arms import ticks_run
from kvmtest.judge.baseline import Baseline, Covariates
from kvmtest.judge.excess import expected_counts
from kvmtest.judge.samples import Arm, Samples, Window
from kvmtest.missing import Missing

__all__ = ["figures", "guest_only"]

#: SLOW_ROUNDS apply if each window has the SMIs of one trigger.
ROUNDS, SLOW_ROUNDS = 9, 20


def guest_only(context: Context) -> Observations:
    """Count guests by guest-only perf events, alternately with and without SMIs."""
    procedure = Procedure(_arms, partial(_arms, rounds=SLOW_ROUNDS))
    yield from noise_as_control(experiment(context, with_host_counters, procedure))


def _arms(scene: Scene, watchers: Watchers, rounds: int = ROUNDS) -> Observations:
    module = scene.machine.kvm_module
    intercepts = module if isinstance(module, Missing) else module.enabled("intercept_smi")
    said = intercepts.what if isinstance(intercepts, Missing) else intercepts
    yield measure("leak", "KVM intercepts SMIs", said)
    samples = Samples()
    for turn in range(rounds):
        scene.on_step(f"SMIs by {watchers.smis.source.name}: round {turn + 1} of {rounds}")
        # AMD has no knob, so that windows with SMIs are of neither knob arm.
        for arm in (Arm.QUIET, Arm.MIXED):
            yield from record(watchers.take_windows(arm), samples)
    yield from figures(samples, watchers.smis.count.name)


def figures(samples: Samples, count: str) -> list[Reading]:
    """Return how many SMIs ``count`` counted, and what each counter gained for each of them."""
    quiet = [w for w in samples.windows if w.arm is Arm.QUIET and not w.smis]
    noisy = [w for w in samples.windows if w.arm is not Arm.QUIET and w.smis]
    smis = sum(window.smis for window in noisy)
    in_guest = sum(window.guest_smis or 0 for window in noisy)
    told = f"{smis} in {len(noisy)} windows, {in_guest} in guest mode"
    readings = [measure("leak", f"SMIs that {count} counted", told)]
    if not quiet or not noisy:
        return readings
    ticks = ticks_run(samples.windows, samples.gaps)
    for name in quiet[0].counted:
        known = all(name in window.known for window in samples.windows)
        expected = expected_counts(name, quiet, None if known else ticks)
        excess = _excess(name, quiet, noisy, expected)
        what = f"{name} per SMI"
        observed = "too few quiet windows" if excess is None else round(excess / smis, 3)
        readings.append(measure("leak", what, observed, smis=smis, windows=len(noisy)))
    return readings


def _excess(
    name: str,
    quiet: list[Window],
    noisy: list[Window],
    expected: Callable[[Window], float],
) -> float | None:
    """Return what a counter gained in all noisy windows above what it does without SMIs."""

    def gains(windows: Iterable[Window]) -> list[float]:
        return [window.counted[name] - expected(window) for window in windows]

    covariates = Covariates(quiet)
    baseline = Baseline.fit(covariates, gains(quiet))
    return None if baseline is None else sum(baseline.residuals(gains(noisy), covariates.of(noisy)))
