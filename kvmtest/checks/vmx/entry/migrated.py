"""Moves to another CPU
====================

vmx.entry.migrated: an entry on another CPU than the one before carries the host's bit.
"""

from kvmtest.checks.context import Context
from kvmtest.checks.leaks.walk import Step, also_leaks
from kvmtest.checks.scene import Observations, Scene
from kvmtest.checks.scene.affinity import move_to, own_cpus_kept, two_cpus
from kvmtest.guests import Guest
from kvmtest.judge import Absence, control
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
            yield from _look_on(scene, guest, there, state, value)

            move_to(here)
            yield from scene.set_knob(1 - value)
            state = f"after the vCPU went to another CPU and freeze_on_smi to {1 - value}"
            yield from _look_on(scene, guest, here, state, 1 - value)

            yield from scene.set_knob(value)
            move_to(there)
            yield from scene.set_knob(1 - value)
            yield from scene.set_knob(value)
            state = f"after freeze_on_smi was toggled before and after the move, to {value}"
            yield from _look_on(scene, guest, there, state, value)

            move_to(here)
            state = f"after the vCPU moved with freeze_on_smi={value}"
            yield from _look_on(scene, guest, here, state, value)
        yield from scene.end(guest)
    yield from also_leaks(context, Step.MIGRATED)


def _look_on(scene: Scene, guest: Guest, cpu: int, state: str, value: int) -> Observations:
    """Look, and show that the entry was on that CPU."""
    if scene.refusals is None:
        return
    dump = yield from scene.dump(guest.vcpu, state)
    if dump:
        where: int | None = dump.cpu if dump.cpu is not None else guest.vcpu.kvm_run.fail_entry.cpu
        remedy = "leave the CPUs of kvmtest's threads alone"
        yield control("vmcs", f"the CPU of the entry {state}", where, cpu, remedy)
        yield scene.debugctl_claim(f"bit 14 of DebugCtl in the VMCS {state}", dump, value)
    scene.run(guest)
