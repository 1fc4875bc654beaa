"""Schedules
=========

vmx.entry.schedules: whatever the order of toggles and entries, the next entry carries the host's
bit.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.schedules.enumeration import all_enumerated

__all__ = ["schedules"]


def schedules(context: Context) -> Observations:
    """Play all schedules up to a length on two vCPUs, each from new vCPUs and the knob on."""
    yield from all_enumerated(context)
