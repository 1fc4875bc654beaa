"""Toggles there and back
======================

vmx.entry.toggled-back: the entry after the knob was toggled away and back carries its value.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene

__all__ = ["toggled_back"]

WORDS = ("off", "on")


def toggled_back(context: Context) -> Observations:
    """Toggle the knob away and back between two entries, from on and from off."""
    with Scene(context, "vmcs") as scene, scene.guest() as guest:
        yield from scene.begin()
        for value in (1, 0):
            yield from scene.set_knob(value)
            scene.run(guest)
            for times in (1, 2):
                for _ in range(times):
                    yield from scene.set_knob(1 - value)
                    yield from scene.set_knob(value)
                went = ", ".join(WORDS[at % 2 ^ value] for at in range(1 + 2 * times))
                yield from scene.look(guest, f"at the entry after the knob was {went}", value)
                scene.run(guest)
        yield from scene.end(guest)
