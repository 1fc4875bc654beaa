"""What a witness of VM-entries has
================================

A witness of entries is opened by the scene of a check, looks at entries that the scene has a guest
make, and shows by its controls that it would have seen another value. A new one is a class in a
module of its own, and a row of scene.ENTRY_WITNESSES.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from kvmtest.checks.context import Context, Observations
from kvmtest.guests import Guest
from kvmtest.missing import Missing

__all__ = ["Entry", "EntryWitness"]


@dataclass(frozen=True, slots=True)
class Entry:
    """The next VM-entry of ``guest``, and what is to be seen of it.

    ``state`` follows "bit 14 of DebugCtl" in the words of readings. ``host_bit`` is the bit 14 that
    the entry must carry; None makes a figure of it. ``flagged`` tells whether the entry must be
    told to load DEBUGCTL, 1 or 0, ``cpu`` on which CPU it must be, and ``own_bits`` which other
    bits of DEBUGCTL were written before: None claims, or shows, nothing.
    """

    guest: Guest
    state: str
    host_bit: int | None
    flagged: int | None = None
    cpu: int | None = None
    own_bits: int | None = None


class EntryWitness(Protocol):
    """Looks at VM-entries. All its readings and absences are by ``name``, a row of WITNESSES."""

    name: ClassVar[str]
    #: Whether looking makes the guest enter; if no witness does, the scene runs the guest.
    makes_entry: ClassVar[bool]

    @classmethod
    def open(cls, context: Context, stack: ExitStack) -> "Self | Missing":
        """Return one that can look, which ``stack`` closes, or what keeps it from looking.

        The preconditions of ``name`` are met. What it changes on the host the journal undoes.
        """

    def prepare(self, guest: Guest) -> None:
        """Forget what was before the guest's next entry; called on all before any looks."""

    def look(self, entry: Entry) -> Observations:
        """Yield what is seen of an entry, which was made already unless this makes it."""

    def controls(self, guest: Guest) -> Observations:
        """Show, after all entries, that it looked at each of them and sees what is there.

        ``guest`` has come up, and may be changed.
        """
