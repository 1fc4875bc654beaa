"""Transports
==========

How commands get into a guest, and results out of it: through memory that host and guest share
(:mod:`.mailbox`), or through I/O ports alone (:mod:`.registers`).
"""

from collections.abc import Sequence
from typing import Protocol

from kvmtest.kvm import Exit, Vcpu

from .commands import Command, Fault, Result

__all__ = ["Transport"]


class Transport(Protocol):
    """The host's end of the way to one guest.

    The guest exits to GUEST_DONE_PORT when it has come up, and each time that a list of commands is
    done; to GUEST_FAULT_PORT after an exception outside commands. Whatever else the transport has
    the guest exit for, it serves itself.
    """

    def expect_guest(self) -> None:
        """Forget an earlier guest: the next one has yet to say that it has come up."""

    @property
    def is_up(self) -> bool:
        """Whether the guest has said that it has come up."""

    def send(self, commands: Sequence[Command]) -> None:
        """Have the guest execute these when it is next entered; ValueError if they are too many."""

    def has_begun(self, at: int) -> bool:
        """Whether the guest has come to command ``at`` of the list, from 0; from any thread."""

    def serve(self, vcpu: Vcpu, exit: Exit | None) -> bool:  # noqa: A002 - the field's word
        """Do what an exit of the transport's own asks for; False where the exit is none."""

    def receive(self) -> list[Result]:
        """Return the results of the list so far; raises KvmtestError where they make no sense."""

    @property
    def fault(self) -> Fault:
        """The exception outside commands, once the guest has exited to GUEST_FAULT_PORT."""
