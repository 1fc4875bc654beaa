"""Excerpts of the kernel log
==========================

Finds the few lines of a run's kernel log that a reading rests on.
"""

from collections.abc import Iterator, Sequence

__all__ = ["dump_of"]

#: A dump's parts as dump_vmcs() of arch/x86/kvm/vmx/vmx.c prints them.
_FIRST, _END = "*** Guest State ***", "*** Host State ***"
#: The most lines of a dump's guest part.
_LONGEST = 60
_LEFT_OUT = "  ..."


def dump_of(fs_base: str, log: Sequence[str]) -> Iterator[str]:
    """Give the lines of a VMCS's dump that show which it is and its DebugCtl.

    The dump is found by its FS base, which is random: "0x9e14f44ee0ec1163". Nothing if the log
    lacks it.
    """
    try:
        base = f"base=0x{int(fs_base, 16):016x}"
    except ValueError:
        return
    at = next((n for n, line in enumerate(log) if base in line), None)
    if at is None:
        return
    first = next((n for n in range(at, max(at - _LONGEST, -1), -1) if _FIRST in log[n]), at)
    # Since Linux 5.12 the line before names the VMCS and the CPU.
    shown = [first - 1] if first and "last attempted VM-entry" in log[first - 1] else []
    shown += [first] if first != at else []
    shown.append(at)
    for number in range(at + 1, min(at + _LONGEST, len(log))):
        if _END in log[number]:
            break
        if "DebugCtl" in log[number]:
            shown.append(number)
    before = shown[0] - 1
    for number in shown:
        if number != before + 1:
            yield _LEFT_OUT
        yield log[number].rstrip()
        before = number
