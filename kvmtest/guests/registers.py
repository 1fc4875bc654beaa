"""Registers
=========

The transport through I/O ports alone, for a guest whose memory the host does not see. Each exit
carries 32 bits. The guest's side is guests/registers.h.
"""

from collections.abc import Sequence

from kvmtest._native import ffi, lib
from kvmtest.kvm import Exit, IoExit, Vcpu

from .commands import Command, Fault, Result, read_result

__all__ = ["LOOP_OVERHEAD", "Registers", "watch_instructions"]

#: Instructions that one ``loop(n)`` alone retires from resume to the list's end: this plus 2 n.
LOOP_OVERHEAD: int = lib.REGISTERS_LOOP_OVERHEAD

# The last word of a command that the guest reads before it executes it.
LAST_ARGUMENT = lib.COMMAND_OFF_ARGUMENT + 12


class Registers:
    """The registers that a guest finds at its I/O ports."""

    def __init__(self) -> None:
        self.is_up = False
        self._commands: Sequence[Command] = ()
        self._results: list[bytes] = []
        self._command = ffi.new("struct guest_command *")
        self._result = ffi.new("struct guest_result *")
        self._is_read = False

    def expect_guest(self) -> None:
        """Forget that an earlier guest has come up."""
        self.is_up = False

    def send(self, commands: Sequence[Command]) -> None:
        """Show these to the guest, one after the other."""
        self._commands, self._results = commands, []
        self._show_next()

    def has_begun(self, at: int) -> bool:
        """Whether the guest has read all of the command, or given its result."""
        done = len(self._results)
        return at < done or (at == done and self._is_read)

    def serve(self, vcpu: Vcpu, exit: Exit | None) -> bool:  # noqa: A002 - the field's word
        """Have a register read or written; False where the exit is no access to one."""
        if not isinstance(exit, IoExit) or (exit.size, exit.count) != (4, 1):
            return False
        if exit.is_out:
            return self._write(exit.port, exit.data)
        value = self._read(exit.port)
        if value:
            vcpu.set_io_data(value)
        return bool(value)

    def receive(self) -> list[Result]:
        """Return the results; raises KvmtestError where the guest does not know a command."""
        return [read_result(ffi.from_buffer("struct guest_result *", r)) for r in self._results]

    @property
    def fault(self) -> Fault:
        """The exception outside commands."""
        return Fault(self._result.vector, self._result.error, self._result.rip)

    def _show_next(self) -> None:
        done = len(self._results)
        self._is_read = False
        if done < len(self._commands):
            op, arguments = self._commands[done]
            self._command.op = op
            self._command.argument = [*arguments, 0, 0, 0][:3]

    def _read(self, port: int) -> bytes:
        """Return the four bytes of a register; none where there is no such register."""
        if port == lib.REGISTERS_LEFT_PORT:
            return (len(self._commands) - len(self._results)).to_bytes(4, "little")
        at = port - lib.REGISTERS_COMMAND_PORT
        if at not in range(0, lib.COMMAND_SIZE, 4):
            return b""
        self._is_read |= at == LAST_ARGUMENT
        return bytes(ffi.buffer(self._command))[at : at + 4]

    def _write(self, port: int, data: bytes) -> bool:
        if port == lib.REGISTERS_HELLO_PORT:
            self.is_up = int.from_bytes(data, "little") == lib.GUEST_MAGIC
            return True
        at = port - lib.REGISTERS_RESULT_PORT
        if at not in range(0, lib.RESULT_SIZE, 4):
            return False
        ffi.buffer(self._result)[at : at + 4] = data
        if at == lib.RESULT_OFF_STATUS:
            if len(self._results) == len(self._commands):
                return False  # a result of nothing: the guest has gone astray
            self._results.append(bytes(ffi.buffer(self._result)))
            self._show_next()
        return True


def watch_instructions(polls: int, gaps: int) -> int:
    """Return how many instructions a list of one ``watch`` retires, as of the mailbox's guest."""
    each: int = polls * lib.COMMAND_WATCH_POLL + gaps * lib.COMMAND_WATCH_GAP
    return each + int(lib.REGISTERS_WATCH_OVERHEAD)
