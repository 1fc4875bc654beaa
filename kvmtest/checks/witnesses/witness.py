"""The interface of a witness of VM-entries
========================================

The scene of a check opens a witness of entries, and has guests make entries for the witness to look
at. The witness's controls show that it would have seen another value. A new witness is a class in a
module of its own, and an element of scene.ENTRY_WITNESSES.
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
    """The next VM-entry of ``guest``, and its expected values.

    ``state`` follows "bit 14 of DebugCtl" in readings. ``host_bit`` is the bit 14 that the entry
    must carry; with None, a figure records it. ``flagged`` is 1 if the entry's run flags must have
    KVM_RUN_LOAD_DEBUGCTL, 0 if they must not. ``cpu`` is the entry's CPU, and ``own_bits`` are the
    other bits of DEBUGCTL written before. For each of these three, None checks nothing.
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
        """Return a witness, which ``stack`` closes, or what keeps it from looking.

        The preconditions of ``name`` are met. The journal undoes the witness's host changes.
        """

    def prepare(self, guest: Guest) -> None:
        """Drop observations before the guest's next entry; called on all before any looks."""

    def look(self, entry: Entry) -> Observations:
        """Yield readings of an entry, made here if ``makes_entry``, else already made."""

    def controls(self, guest: Guest) -> Observations:
        """Show, after all entries, that the witness saw each of them and reads true values.

        ``guest`` is booted, and may be changed.
        """
