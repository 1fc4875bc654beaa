"""Moves to another CPU
====================

vmx.entry.migrated: an entry on another CPU than the one before carries the host's bit.
"""

from kvmtest.checks.affinity import move_to, own_cpus_kept, two_cpus
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.judge import Absence
from kvmtest.missing import Missing

__all__ = ["migrated"]


def migrated(context: Context) -> Observations:
    """Move a vCPU between two CPUs, with toggles before the move, after it, both and none."""
    cpus = two_cpus()
    if isinstance(cpus, Missing):
        yield Absence("vmcs", cpus)
        return
    here, there = cpus
    with Scene(context, "vmcs") as scene, scene.guest() as guest, own_cpus_kept():
        yield from scene.begin()
        for value in (1, 0):
            move_to(here)
            yield from scene.set_knob(1 - value)
            scene.run(guest)

            yield from scene.set_knob(value)
            move_to(there)
            state = f"after freeze_on_smi went to {value} and the vCPU to another CPU"
            yield from scene.look(guest, state, value, cpu=there)
            scene.run(guest)

            move_to(here)
            yield from scene.set_knob(1 - value)
            state = f"after the vCPU went to another CPU and freeze_on_smi to {1 - value}"
            yield from scene.look(guest, state, 1 - value, cpu=here)
            scene.run(guest)

            yield from scene.set_knob(value)
            move_to(there)
            yield from scene.set_knob(1 - value)
            yield from scene.set_knob(value)
            state = f"after freeze_on_smi was toggled before and after the move, to {value}"
            yield from scene.look(guest, state, value, cpu=there)
            scene.run(guest)

            move_to(here)
            state = f"after the vCPU moved with freeze_on_smi={value}"
            yield from scene.look(guest, state, value, cpu=here)
            scene.run(guest)
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.MIGRATED)
