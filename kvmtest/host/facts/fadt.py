"""The FADT
========

What the ACPI Fixed Description Table (table FACP; ACPI 6.5, table 5.9) says of SMIs: the SMI
command port, and the values that must never be written to it.
"""

import struct
from dataclasses import dataclass

from kvmtest.errors import KvmtestError
from kvmtest.host.facts.security import firmware_hidden
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["Fadt", "FadtError", "parse_fadt", "read_fadt"]

_FACP = "/sys/firmware/acpi/tables/FACP"

# The shortest FADT, of ACPI 1.0, ends after Flags.
_LENGTH = struct.Struct("<4xI")
_SMI_COMMANDS = struct.Struct("<48xIBBBB")
_CST_CNT = 95
_FLAGS = struct.Struct("<112xI")
_SHORTEST = _FLAGS.size
_HW_REDUCED_ACPI = 1 << 20


class FadtError(KvmtestError):
    """The ACPI table FACP is damaged."""


@dataclass(frozen=True, slots=True)
class Fadt:
    """What the ACPI Fixed Description Table says of SMIs (ACPI 6.5, table 5.9).

    ``smi_cmd`` is the I/O port, 0 where there is none; the others are the values that the firmware
    takes as a command at that port, 0 where it has no such command.
    """

    smi_cmd: int
    acpi_enable: int
    acpi_disable: int
    s4bios_req: int
    pstate_cnt: int
    cst_cnt: int
    flags: int

    @property
    def hardware_reduced(self) -> bool:
        """Tell whether flag HW_REDUCED_ACPI is set: there is no SMI command port then."""
        return bool(self.flags & _HW_REDUCED_ACPI)

    @property
    def refused(self) -> dict[int, str]:
        """The values that must never be written to the port, and what each commands.

        They hand power management to the firmware, or take it away, under a running kernel. Where
        a command is absent 0 is among them: refusing it is harmless.
        """
        return {
            self.acpi_enable: "ACPI_ENABLE",
            self.acpi_disable: "ACPI_DISABLE",
            self.s4bios_req: "S4BIOS_REQ",
            self.pstate_cnt: "PSTATE_CNT",
            self.cst_cnt: "CST_CNT",
        }


def parse_fadt(table: bytes) -> Fadt:
    """Parse the bytes of the ACPI table FACP. Raises FadtError unless length and sum are right."""
    if table[:4] != b"FACP":
        raise FadtError(f"the table begins with {table[:4]!r} instead of FACP; read {_FACP}")
    if len(table) < _SHORTEST:
        raise FadtError(
            f"the FACP is cut off after {len(table)} of at least {_SHORTEST} bytes; read it whole"
        )
    (length,) = _LENGTH.unpack_from(table)
    if length != len(table):
        raise FadtError(f"the FACP says {length} bytes but has {len(table)}; read it whole")
    if sum(table) & 0xFF:
        raise FadtError(f"the FACP's bytes sum to {sum(table) & 0xFF:#x}, not 0; don't trust it")
    (flags,) = _FLAGS.unpack_from(table)
    port, enable, disable, s4bios, pstate = _SMI_COMMANDS.unpack_from(table)
    return Fadt(port, enable, disable, s4bios, pstate, table[_CST_CNT], flags)


def read_fadt(tree: Tree) -> Fadt | Missing:
    """Read the machine's FADT, or say why it can't be read."""
    table = tree.read_bytes(_FACP)
    if table is None and tree.exists(_FACP):
        return Missing(f"{_FACP} can't be read", "run as root")
    if table is None and firmware_hidden(tree):
        return Missing(
            "no ACPI table is visible: /sys/firmware is empty, as in a container",
            "run outside the container",
        )
    if table is None:
        return Missing("the firmware or the kernel shows no ACPI table FACP")
    try:
        return parse_fadt(table)
    except FadtError as error:
        return Missing(str(error))
