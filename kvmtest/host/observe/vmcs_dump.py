"""VMCS dumps
==========

What KVM writes into the kernel log when the CPU refuses a VM-entry and kvm_intel.dump_invalid_vmcs
is on (arch/x86/kvm/vmx/vmx.c, ``dump_vmcs``). A dump that lacks a line, or is mixed with another,
does not count.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kvmtest.host.observe.kernel_log import Record
from kvmtest.missing import Missing

__all__ = ["VmcsDump", "dump_of", "parse_dumps"]

#: VM-entry control "load debug controls" (Intel SDM volume 3, table 25-15).
_LOAD_DEBUG_CONTROLS = 1 << 2

# The lines that are read, in order; but for the first, each must be in a dump exactly once.
_LINES = {
    # Older kernels (5.10, say) do not have this line.
    "last_entry": r"VMCS .*, last attempted VM-entry on CPU (?P<cpu>-?\d+)$",
    "guest": r"\*\*\* Guest State \*\*\*$",
    "fs": r"FS: .* base=0x(?P<fs_base>[0-9a-f]{16})$",
    "debugctl": (
        r"DebugCtl = 0x(?P<bits>[0-9a-f]{16})  DebugExceptions = 0x(?P<exceptions>[0-9a-f]{16})$"
    ),
    "host": r"\*\*\* Host State \*\*\*$",
    "control": r"\*\*\* Control State \*\*\*$",
    # Older kernels (5.10, say) have PinBased in a line of its own.
    "entry": (
        r"(?:PinBased=\S+ )?EntryControls=(?P<controls>[0-9a-f]{8}) ExitControls=[0-9a-f]{8}$"
    ),
}
_ORDER = tuple(_LINES)[1:]

# Newer kernels begin each line with the module's name, 6.1 and older ones do not.
_MODULE = "kvm_intel: "
_LINE = re.compile(
    f"(?:{_MODULE})?(?:{'|'.join(f'(?P<{name}>{form})' for name, form in _LINES.items())})"
)
# Most lines begin otherwise, which is quicker to tell than that they are none of these.
_STARTS = ("VMCS ", "*** ", "FS:", "DebugCtl ", "PinBased=", "EntryControls=")
_BEGINNINGS = (*(_MODULE + start for start in _STARTS), *_STARTS)

_REMEDY = "look at the kernel log, and run without other VMs"
_BROKEN = Missing("a VMCS dump in the kernel log is cut off, or mixed with another", _REMEDY)


@dataclass(frozen=True, slots=True)
class VmcsDump:
    """One whole dump: guest fields as the refused VM-entry found them.

    ``cpu`` is the CPU of the last attempted VM-entry, None where the kernel does not say.
    """

    debugctl: int
    debug_exceptions: int
    fs_base: int
    entry_controls: int
    cpu: int | None

    @property
    def loads_debugctl(self) -> bool:
        """Tell whether the VM-entry would have loaded DEBUGCTL from the VMCS."""
        return bool(self.entry_controls & _LOAD_DEBUG_CONTROLS)


def parse_dumps(records: Iterable[Record]) -> list[VmcsDump] | Missing:
    """Return the dumps in ``records``, or say that one is cut off, or mixed with another.

    No dump is trusted then, as nothing tells to which of them a line belongs. Skips other lines in
    between, and what userspace wrote into the log.
    """
    whole: list[VmcsDump] = []
    begun: _Begun | None = None
    cpu: int | None = None
    for match in _lines(records):
        name = match.lastgroup
        if name == "last_entry":
            cpu = int(match["cpu"])
        elif name == "guest" and begun is None:
            begun, cpu = _Begun(cpu), None
        elif begun is None or not begun.take(name, match):
            return _BROKEN
        elif begun.is_whole:
            whole.append(begun.dump())
            begun = None
    return whole if begun is None else _BROKEN


def dump_of(records: Iterable[Record], fs_base: int) -> VmcsDump | Missing:
    """Return the one dump whose guest FS base is ``fs_base``, or say how many there are."""
    dumps = parse_dumps(records)
    if isinstance(dumps, Missing):
        return dumps
    mine = [dump for dump in dumps if dump.fs_base == fs_base]
    if len(mine) == 1:
        return mine[0]
    how_many = f"{len(mine)} VMCS dumps" if mine else "no VMCS dump"
    return Missing(f"the kernel log has {how_many} with FS base {fs_base:#x}", _REMEDY)


def _lines(records: Iterable[Record]) -> Iterator[re.Match[str]]:
    """Yield the lines that are read; each match's last group is that of the kind of line."""
    for record in records:
        message = record.message
        for line in message.split("\n") if "\n" in message else (message,):
            if line.startswith(_BEGINNINGS) and record.is_from_kernel:
                match = _LINE.match(line)
                if match:
                    yield match


class _Begun:
    """A dump of which only the first lines were read."""

    def __init__(self, cpu: int | None) -> None:
        self._cpu = cpu
        self._found: list[re.Match[str]] = []

    def take(self, name: str | None, match: re.Match[str]) -> bool:
        """Keep a line; return False where it is not the next one, so that the dump is broken."""
        if _ORDER[1 + len(self._found)] != name:
            return False
        self._found.append(match)
        return True

    @property
    def is_whole(self) -> bool:
        return len(self._found) == len(_ORDER) - 1

    def dump(self) -> VmcsDump:
        found = dict(zip(_ORDER[1:], self._found, strict=True))
        return VmcsDump(
            debugctl=int(found["debugctl"]["bits"], 16),
            debug_exceptions=int(found["debugctl"]["exceptions"], 16),
            fs_base=int(found["fs"]["fs_base"], 16),
            entry_controls=int(found["entry"]["controls"], 16),
            cpu=self._cpu,
        )
