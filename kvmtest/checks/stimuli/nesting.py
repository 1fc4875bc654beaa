"""Nested entries
==============

L1 launches L2, or makes an entry to L2 that fails because the CPU, not KVM, refuses it.
"""

from kvmtest.guests import Guest
from kvmtest.guests.nested import NestedGuest

from .stimulus import Stimulus

__all__ = ["FailingL2", "relaunched_l2"]


def relaunched_l2(guest: Guest) -> Stimulus:
    """Launch L2; return the stimulus that leaves L2, runs L1, and enters L2 again.

    L1 is thus the first to see a toggle that precedes the stimulus.
    """
    nested = NestedGuest(guest)
    nested.enter_l2()

    def again(_: Guest) -> bool:
        nested.leave_l2()
        nested.enter_l2()
        return nested.is_in_l2

    return Stimulus("L1 launched L2", again)


class FailingL2:
    """Makes a guest's next entry to L2 fail: KVM accepts vmcs12, and the CPU refuses it."""

    def __init__(self) -> None:
        self._nested: dict[Guest, NestedGuest] = {}

    def launch(self, guest: Guest) -> bool:
        """Have L1 launch L2, and make its next entry fail; return whether L2 runs."""
        if guest not in self._nested:
            self._nested[guest] = NestedGuest(guest)
        nested = self._nested[guest]
        nested.enter_l2()
        nested.remove_virtual_apic_page()
        return nested.is_in_l2

    def fail(self, guest: Guest) -> bool:
        """Enter L2, which fails; return whether L1 runs on."""
        return self._nested[guest].fail_entry()
