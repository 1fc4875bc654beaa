"""What a TD answers
=================

The work that a TD is given, whose right answer is known: it identifies itself, counts, and reads
back from its private memory.
"""

from kvmtest.checks.context import Observations
from kvmtest.checks.scene import Scene
from kvmtest.guests import Guest, Result, commands
from kvmtest.judge import control

__all__ = ["RIGHT", "answer", "is_a_td"]

#: CPUID leaf 0x21, which only the TDX module has: EBX, EDX, ECX, with spaces at the end (Intel TDX
#: Module ABI specification; TDX_CPUID_LEAF_ID in arch/x86/include/asm/shared/tdx.h).
IDENTITY, NAME = 0x21, "IntelTDX"
#: Turns of the counted loop.
TURNS = 10_000
RIGHT = f"{NAME}; {TURNS} turns"


def answer(guest: Guest) -> str:
    """Have the TD do its work, and return its answer, which is RIGHT in a TD that works."""
    identity, loop = guest.execute(commands.cpuid(IDENTITY), commands.loop(TURNS))
    turns = f"{TURNS} turns" if loop.fault is None else str(loop.fault)
    return f"{_name(identity)}; {turns}"


def is_a_td(scene: Scene, guest: Guest) -> Observations:
    """Boot the TD, and show for each witness that it is one and works."""
    scene.run(guest)
    said = answer(guest)
    for witness in scene.looking:
        remedy = "report this KVM: its TD is none"
        yield control(witness, "what the TD answers before any toggle", said, RIGHT, remedy)


def _name(identity: Result) -> str:
    if identity.fault:
        return str(identity.fault)
    _, ebx, ecx, edx = identity.values
    parts = ((register & 0xFFFFFFFF).to_bytes(4, "little") for register in (ebx, edx, ecx))
    return b"".join(parts).decode("ascii", "backslashreplace").rstrip(" ")
