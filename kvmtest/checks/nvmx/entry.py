"""Nested guests
=============

nvmx.entry.vmfail-reload: L1's DEBUGCTL after an entry to L2 that the CPU, not KVM, refuses.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.nesting import FailingL2
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.judge import control

__all__ = ["vmfail_reload"]


def vmfail_reload(context: Context) -> Observations:
    """Toggle the knob before an entry to L2 that fails, and look at L1's next entry.

    The failing entry is the first after the toggle, so that KVM knows the new value afterwards.
    """
    with Scene(context, "vmcs") as scene, scene.guest() as guest:
        yield from scene.begin()
        scene.run(guest)
        l2 = FailingL2()
        for value in (1, 0, 1):
            yield from scene.set_knob(1 - value)
            l2.launch(guest)
            yield from scene.set_knob(value)
            state = f"after an entry to L2 failed that saw freeze_on_smi go to {value}"
            what, remedy = f"L1 went on {state}", "report this KVM: it does not refuse it"
            yield control("vmcs", what, l2.fail(guest), True, remedy)
            yield from scene.look(guest, state, value)
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.VMFAIL)
