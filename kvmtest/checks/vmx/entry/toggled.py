"""Toggles between entries
=======================

vmx.entry.toggled: the entry after a toggle carries the host's new bit.
"""

from kvmtest.checks.context import Context
from kvmtest.checks.leaks.walk import Step, also_leaks
from kvmtest.checks.scene import Observations, Scene

__all__ = ["toggled"]


def toggled(context: Context) -> Observations:
    """Toggle the knob between two KVM_RUNs of a vCPU, both ways and again, and once leave it."""
    with Scene(context, "vmcs", "runflags") as scene, scene.guest() as guest:
        yield from scene.begin()
        yield from scene.set_knob(0)
        scene.run(guest)
        for value in (1, 0, 1, 0, 1):
            yield from scene.set_knob(value)
            state = f"at the first entry after freeze_on_smi went to {value}"
            yield from scene.look(guest, state, value, flagged=1)
            scene.run(guest)
        yield from scene.look(guest, "at a later entry with freeze_on_smi=1", 1)
        yield from scene.end(guest)
    yield from also_leaks(context, Step.TOGGLED)
