"""SMIs that come by themselves
============================

Raises no SMI, and waits for those that the firmware raises anyway.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.smi.counts import counts
from kvmtest.smi.source import Periodic

__all__ = ["find"]

#: How many seconds a proof waits; fewer in a lab, whose seconds take long and whose SMIs never come
#: by themselves.
PATIENCE_S, LAB_PATIENCE_S = 120.0, 1.0


def find(machine: Machine, _: str) -> Periodic | Missing:
    """Return the source, or that nothing counts SMIs here."""
    count = counts(machine)
    if isinstance(count, Missing):
        return count
    count.close()
    patience_s = LAB_PATIENCE_S if machine.lab else PATIENCE_S

    @contextmanager
    def switched(_: float, __: bool) -> Iterator[None]:
        yield None

    return Periodic(
        "passive",
        f"waits for SMIs that come by themselves, up to {patience_s:g} s for a proof",
        "nothing",
        fastest_hz=float("inf"),
        switched=switched,
        patience_s=patience_s,
    )
