"""New vCPUs
=========

vmx.entry.fresh: the first entry of a new vCPU carries the host's bit.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.witnesses.leak import look_for_leaks

__all__ = ["fresh"]


def fresh(context: Context) -> Observations:
    """Refuse the first entry that a new vCPU ever makes, with the knob on, off and on.

    Then refuse the first entry of another new vCPU while the knob stays on: KVM must not apply its
    knowledge of the earlier vCPU to this one.
    """
    with Scene(context, "vmcs", "runflags") as scene:
        yield from scene.begin()
        for value, who, is_last in (
            (1, "a new vCPU", False),
            (0, "a new vCPU", False),
            (1, "a new vCPU", False),
            (1, "the next vCPU", True),
        ):
            if not is_last:
                yield from scene.set_knob(value)
            with scene.guest() as guest:
                state = f"at {who}'s first entry with freeze_on_smi={value}"
                # A new vCPU has no host bit yet, so that only a 1 needs the flag.
                yield from scene.look(guest, state, value, flagged=1 if value else None)
                if is_last:
                    yield from scene.end(guest)
    yield from look_for_leaks(context, Step.NEW)
