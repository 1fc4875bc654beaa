"""Leaks on AMD
============

svm.leak.guest-only: the counts that guest-only events gain with each SMI. This is a figure and no
claim, because AMD CPUs have no bit that keeps SMM out of counters. If KVM intercepts SMIs (the
parameter kvm_amd.intercept_smi), they come in host mode after a VM-exit; else they are counted.

AMD counts VMRUN as a branch, so that perf's branches are not used here.
"""

from functools import partial

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.counters import with_host_counters
from kvmtest.checks.leaks.experiment import Procedure, experiment, noise_as_control
from kvmtest.checks.leaks.figures import per_smi, quiet_windows, smis_told
from kvmtest.checks.leaks.watchers import Watchers
from kvmtest.checks.leaks.windows import record
from kvmtest.checks.scene import Scene
from kvmtest.judge import Reading, measure
from kvmtest.judge.samples import Arm, Samples
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
    quiet = quiet_windows(samples)
    noisy = [w for w in samples.windows if w.arm is not Arm.QUIET and w.smis]
    told = smis_told(noisy, count)
    if not quiet or not noisy:
        return [told]
    return [told, *(per_smi(samples, noisy, name) for name in quiet[0].counted)]
