"""The witness hostmsr
===================

Reads bit 14 of the host's MSR 0x1d9 where a guest has just run.
"""

import os

from kvmtest.checks.affinity import only_on
from kvmtest.checks.context import Observations
from kvmtest.checks.scene import Scene
from kvmtest.guests import Guest
from kvmtest.host.facts.msr import IA32_DEBUGCTL, freeze_bit
from kvmtest.judge import claim

__all__ = ["look_after_runs"]


def look_after_runs(scene: Scene, guest: Guest, noun: str) -> Observations:
    """Run a guest on every CPU, with the knob at 0 and at 1, and claim that bit 14 is the knob's.

    The control is of Scene.set_knob: before the guest runs, each CPU's MSR has the knob's value.
    """
    for value in (0, 1, 0, 1):
        yield from scene.set_knob(value)
        for cpu in sorted(os.sched_getaffinity(0) & set(scene.msr.cpus)):
            with only_on(cpu):
                scene.run(guest)
                debugctl = scene.msr.read(IA32_DEBUGCTL, cpu)
            what = f"bit 14 of CPU {cpu} after {noun} ran there with the knob at {value}"
            yield claim("hostmsr", what, freeze_bit(debugctl), value, debugctl=hex(debugctl))
