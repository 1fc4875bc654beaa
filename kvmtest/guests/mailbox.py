"""The mailbox
===========

The transport through memory that host and guest share. The guest's side is guests/mailbox.h.
"""

from collections.abc import Sequence
from typing import Any

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.kvm import Exit, Memory, Vcpu

from .commands import Command, Fault, Result, read_result

__all__ = ["LOOP_OVERHEAD", "Mailbox", "watch_instructions"]

#: Instructions that one ``loop(n)`` alone retires from resume to exit: this plus 2 n.
LOOP_OVERHEAD: int = lib.MAILBOX_LOOP_OVERHEAD


class Mailbox:
    """The mailbox at a guest-physical address; ``page`` is its ``struct mailbox *``."""

    def __init__(self, memory: Memory, address: int = lib.GUEST_MAILBOX) -> None:
        self.page: Any = memory.struct("struct mailbox *", address)

    def expect_guest(self) -> None:
        """Clear the magic number."""
        self.page.magic = 0

    @property
    def is_up(self) -> bool:
        """Whether the magic number is there."""
        return bool(self.page.magic == lib.GUEST_MAGIC)

    def send(self, commands: Sequence[Command]) -> None:
        """Write a list of up to MAILBOX_CAPACITY commands, else raise ValueError."""
        if len(commands) > lib.MAILBOX_CAPACITY:
            raise ValueError(
                f"the mailbox holds {lib.MAILBOX_CAPACITY} commands, not {len(commands)}"
            )
        page = self.page
        for at, command in enumerate(commands):
            slot = page.command[at]
            slot.op = command.op
            for number, argument in enumerate(command.arguments):
                slot.argument[number] = argument
            page.result[at].status = lib.RESULT_PENDING
        page.count = len(commands)
        page.done = 0

    def has_begun(self, at: int) -> bool:
        """Whether all commands before ``at`` have their results."""
        return bool(self.page.done >= at)

    def serve(self, vcpu: Vcpu, exit: Exit | None) -> bool:  # noqa: A002 - the field's word
        """Return False: memory needs no exits."""
        return False

    def receive(self) -> list[Result]:
        """Read the results; raises KvmtestError where the guest wrote none that make sense."""
        done = self.page.done
        if done > lib.MAILBOX_CAPACITY:
            raise KvmtestError(f"the guest says it has {done} results: it has gone astray")
        return [read_result(self.page.result[at]) for at in range(done)]

    @property
    def fault(self) -> Fault:
        """The exception outside commands."""
        return Fault(self.page.vector, self.page.error, self.page.rip)


def watch_instructions(polls: int, gaps: int) -> int:
    """Return how many instructions a list of one ``watch`` retires from resume to exit.

    ``polls`` and ``gaps`` are its result; the gaps must all have been logged.
    """
    each: int = polls * lib.COMMAND_WATCH_POLL + gaps * lib.COMMAND_WATCH_GAP
    return each + int(lib.MAILBOX_WATCH_OVERHEAD)
