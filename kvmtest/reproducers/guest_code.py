"""Guest code
==========

What the reproducers' guests execute: machine code, each instruction beside its assembly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmtest.checks.stimuli.emulation import PORT

__all__ = ["GUEST_CODE", "GuestCode"]


@dataclass(frozen=True, slots=True)
class GuestCode:
    """One piece of code: its instructions in AT&T syntax, and the bytes of each."""

    instructions: Sequence[tuple[str, bytes]]

    @property
    def code(self) -> bytes:
        """The machine code."""
        return b"".join(code for _, code in self.instructions)

    def offset(self, assembly: str) -> int:
        """Return where the first instruction that is written ``assembly`` begins."""
        written = [text for text, _ in self.instructions]
        return sum(len(code) for _, code in self.instructions[: written.index(assembly)])


_OUT = (f"1: out %al, ${PORT:#x}", bytes([0xE6, PORT]))
_AGAIN = ("jmp 1b", bytes([0xEB, 0xFC]))

#: By the name of the array in C. The first is the same in real mode and in 64-bit mode.
GUEST_CODE = {
    "out_and_again": GuestCode([_OUT, _AGAIN]),
    "read_dr6": GuestCode(
        [("nop", b"\x90"), ("mov %db6, %rax", b"\x0f\x21\xf0"), _OUT, _AGAIN],
    ),
}
