"""Writing the freeze_on_smi knob
=============================

One write sets IA32_DEBUGCTL.FREEZE_WHILE_SMM on every CPU (arch/x86/events/intel/core.c,
``freeze_on_smi_store``).
"""

from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.freeze_knob import Knob, KnobError

__all__ = ["write_knob"]


def write_knob(journal: Journal, knob: Knob, value: int) -> None:
    """Write 0 or 1 through ``journal``; one path is enough. Raises KnobError for another value.

    The kernel sends the IPIs that write the MSRs only when the value changes.
    """
    if value not in (0, 1):
        raise KnobError(f"freeze_on_smi takes 0 or 1, not {value!r}")
    journal.write(knob.paths[0], str(value))
