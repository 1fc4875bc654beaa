"""Toggles between entries
=======================

vmx.entry.toggled: the entry after a toggle carries the host's new bit.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.witnesses.leak import look_for_leaks

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
    yield from look_for_leaks(context, Step.TOGGLED)
