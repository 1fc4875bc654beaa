"""Nested entries
==============

L1 launches L2, or makes an entry to L2 that fails because the CPU, not KVM, refuses it; userspace
restores an L2.
"""

from kvmtest.guests import Guest
from kvmtest.guests.nested import NestedGuest
from kvmtest.guests.saved import SavedGuest

from .stimulus import Stimulus

__all__ = ["FailingL2", "RestoredL2", "relaunched_l2"]


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


class RestoredL2:
    """Saves a guest in L2, and restores it into its own vCPU."""

    def __init__(self) -> None:
        self._saved: dict[Guest, tuple[NestedGuest, SavedGuest]] = {}

    def launch(self, guest: Guest) -> bool:
        """Have L1 launch L2, and save it; return whether L2 runs."""
        nested = NestedGuest(guest)
        nested.enter_l2()
        self._saved[guest] = nested, SavedGuest.of(guest)
        return nested.is_in_l2

    def restore(self, guest: Guest) -> bool:
        """Restore L2; return whether L2 is to run."""
        nested, saved = self._saved[guest]
        guest.vcpu.complete()
        saved.restore(guest)
        return nested.is_in_l2

    def leave(self, guest: Guest) -> bool:
        """Have L1 run again, outside VMX operation; return whether it does."""
        nested, _ = self._saved[guest]
        nested.leave_l2()
        return not nested.is_in_l2
