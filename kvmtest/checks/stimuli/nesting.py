"""Nested entries
==============

L1 enters and leaves L2, by its own code or by userspace, or makes an entry to L2 that fails because
the CPU, not KVM, refuses it; userspace restores an L2.
"""

from kvmtest.guests import Guest, commands
from kvmtest.guests.l1 import L1
from kvmtest.guests.nested import NestedGuest
from kvmtest.guests.saved import SavedGuest

from .stimulus import Stimulus
from .vmcs12_debugctl import controls

__all__ = ["CodedL2", "GivenL2", "relaunched_l2"]


def relaunched_l2(guest: Guest) -> Stimulus:
    """Have L1's code launch L2; return the stimulus that leaves L2, runs L1, and resumes L2.

    L2 is thus the first to see a toggle that precedes the stimulus, and enters anew after it.
    """
    l2 = CodedL2()
    l2.enter(guest)
    return Stimulus("L1 resumed L2", lambda guest: l2.leave(guest) and l2.enter(guest))


class CodedL2:
    """Has L1s enter L2 by code of their own."""

    def __init__(self) -> None:
        self._l1s: dict[Guest, L1] = {}

    def of(self, guest: Guest) -> L1:
        """Return the L1 that a booted guest is, or now becomes."""
        if guest not in self._l1s:
            self._l1s[guest] = L1(guest)
        return self._l1s[guest]

    def enter(self, guest: Guest, *, loads: bool = True, debugctl: int = 0) -> bool:
        """Have L1 launch or resume L2; return whether L2 runs.

        ``debugctl`` is what vmcs12 has, and ``loads`` whether the entry loads it.
        """
        l1 = self.of(guest)
        l1.write(**controls(l1, load=loads), guest_ia32_debugctl=debugctl)
        return l1.enter() is None

    def leave(self, guest: Guest) -> bool:
        """Have L2 exit to L1; return whether it did."""
        l1 = self.of(guest)
        was_in_l2 = l1.is_in_l2
        if was_in_l2:
            l1.leave()
        return was_in_l2

    def end(self, guest: Guest) -> bool:
        """Have L1 leave VMX operation; return whether it did."""
        return self._l1s.pop(guest).try_command(commands.vmxoff()) is None


class GivenL2:
    """Has userspace give KVM the state of an L2 that is being launched, or that was saved."""

    def __init__(self) -> None:
        self._nested: dict[Guest, NestedGuest] = {}
        self._saved: dict[Guest, SavedGuest] = {}

    def of(self, guest: Guest) -> NestedGuest:
        """Return the nested guest that a booted guest is, or now becomes."""
        if guest not in self._nested:
            self._nested[guest] = NestedGuest(guest)
        return self._nested[guest]

    def enter(self, guest: Guest) -> bool:
        """Have KVM enter L2; return whether L2 runs."""
        self.of(guest).enter_l2()
        return self.of(guest).is_in_l2

    def leave(self, guest: Guest) -> bool:
        """Take the vCPU out of L2, and out of VMX operation; return whether L1 runs."""
        self.of(guest).leave_l2()
        return not self.of(guest).is_in_l2

    def enter_to_fail(self, guest: Guest) -> bool:
        """Enter L2, whose next entry will fail: KVM accepts vmcs12, and the CPU refuses it."""
        is_in_l2 = self.enter(guest)
        self.of(guest).remove_virtual_apic_page()
        return is_in_l2

    def fail(self, guest: Guest) -> bool:
        """Enter L2, which fails; return whether L1 runs on."""
        return self.of(guest).fail_entry()

    def enter_to_save(self, guest: Guest) -> bool:
        """Enter L2, and save it; return whether L2 runs."""
        is_in_l2 = self.enter(guest)
        self._saved[guest] = SavedGuest.of(guest)
        return is_in_l2

    def restore(self, guest: Guest) -> bool:
        """Restore the saved L2 into its own vCPU; return whether L2 is to run."""
        guest.vcpu.complete()
        self._saved[guest].restore(guest)
        return self.of(guest).is_in_l2
