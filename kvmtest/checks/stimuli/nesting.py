"""Nested entries
==============

L1 launches L2, or has an entry to L2 fail that only the CPU refuses.
"""

from kvmtest.guests import Guest
from kvmtest.guests.nested import NestedGuest

from .stimulus import Stimulus

__all__ = ["FailingL2", "relaunched_l2"]


def relaunched_l2(guest: Guest) -> Stimulus:
    """Have a guest launch L2; return what has it leave L2, run as L1, and enter L2 anew.

    So L1 is the first to see a toggle before it.
    """
    nested = NestedGuest(guest)
    nested.enter_l2()

    def again(_: Guest) -> bool:
        nested.leave_l2()
        nested.enter_l2()
        return nested.is_in_l2

    return Stimulus("L1 launched L2", again)


class FailingL2:
    """The next entry of guests to L2 fails, as only the CPU finds out."""

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
        """Enter L2, which fails; tell whether it is L1 that waits now."""
        return self._nested[guest].fail_entry()
