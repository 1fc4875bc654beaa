"""The host's MSR after a TD
=========================

tdx.host-msr-intact: the TDX module runs a TD with a DEBUGCTL of its own, and afterwards the host's
bit 14 is there again.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.witnesses.host_msr import look_after_runs
from kvmtest.guests import td_guest

from .answers import is_a_td

__all__ = ["host_msr_intact"]


def host_msr_intact(context: Context) -> Observations:
    """Run a TD on every CPU, with the knob at 0 and at 1, and read bit 14 there."""
    with Scene(context, "hostmsr") as scene, td_guest(scene.system) as guest:
        yield from is_a_td(scene, guest)
        yield from look_after_runs(scene, guest, "a TD")
