"""SMI trigger candidates
======================

What on this machine looks able to raise an SMI: looked at, never fired.

* The SMI command port (0xB2 on most machines, named by the ACPI table FADT): a write raises an SMI
  where the chipset has APMC_EN and GBL_SMI_EN set. Never write a value of :attr:`Fadt.refused`:
  they hand power management to the firmware or take it away under a running kernel. The rate that
  a BIOS bears is limited: start slowly.
* A UEFI variable: reading one through efivarfs enters SMM on most firmware: gentle, and works under
  lockdown.

That a candidate looks usable proves nothing: only an SMI count that rises does. Chipset timers and
SMIs by IPI are left out, since rewriting chipset enables is dangerous.
"""

import struct
from dataclasses import dataclass

from kvmtest.errors import KvmtestError
from kvmtest.host.security import LOCKDOWN_OFF, lockdown
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["Candidate", "Fadt", "FadtError", "candidates", "parse_fadt", "read_fadt"]

_FACP = "/sys/firmware/acpi/tables/FACP"
_EFI = "/sys/firmware/efi"
_EFIVARS = f"{_EFI}/efivars"

# ACPI 6.5, table 5.9. The shortest FADT, of ACPI 1.0, ends after Flags.
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
        """Tell whether flag HW_REDUCED_ACPI is set: then there is no SMI command port."""
        return bool(self.flags & _HW_REDUCED_ACPI)

    @property
    def refused(self) -> frozenset[int]:
        """The values that must never be written to the port.

        0 is among them where a command is absent: harmless to refuse, and not worth a guess.
        """
        return frozenset(
            {self.acpi_enable, self.acpi_disable, self.s4bios_req, self.pstate_cnt, self.cst_cnt}
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way that may raise an SMI here; ``obstacle`` says why it can't, None if it looks usable.

    ``port`` and ``refused`` are those of the SMI command port; None and empty where there is none
    and for other ways.
    """

    name: str
    description: str
    obstacle: Missing | None
    port: int | None = None
    refused: frozenset[int] = frozenset()


def candidates(tree: Tree) -> list[Candidate]:
    """Look at each way to raise an SMI; nothing is written and no variable is read."""
    return [_command_port(tree), _efi_variable(tree)]


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
    """Read the machine's FADT, or say why it can't be had."""
    table = tree.read_bytes(_FACP)
    if table is None and tree.exists(_FACP):
        return Missing(f"{_FACP} can't be read", "run as root")
    if table is None:
        return Missing("the firmware or the kernel shows no ACPI table FACP")
    try:
        return parse_fadt(table)
    except FadtError as error:
        return Missing(str(error))


def _command_port(tree: Tree) -> Candidate:
    name = "command-port"
    fadt = read_fadt(tree)
    description = "write to the FADT's SMI command port"
    if isinstance(fadt, Missing):
        return Candidate(name, description, fadt)
    obstacle = _no_port(fadt)
    if obstacle is not None:
        return Candidate(name, description, obstacle)
    return Candidate(
        name, f"{description} {fadt.smi_cmd:#x}", _port_refusal(tree), fadt.smi_cmd, fadt.refused
    )


def _no_port(fadt: Fadt) -> Missing | None:
    """Return why ``fadt`` names no SMI command port, or None."""
    if fadt.hardware_reduced:
        return Missing("ACPI is hardware-reduced here: there is no SMI command port")
    if fadt.smi_cmd == 0:
        return Missing("the FADT names no SMI command port (SMI_CMD is 0)")
    if fadt.smi_cmd > 0xFFFF:
        return Missing(f"the FADT's SMI_CMD {fadt.smi_cmd:#x} is no I/O port")
    return None


def _port_refusal(tree: Tree) -> Missing | None:
    """Return why the kernel lets no program write to a port, or None."""
    state = lockdown(tree)
    if not isinstance(state, Missing) and state != LOCKDOWN_OFF:
        return Missing(
            f"kernel lockdown ({state}) refuses port I/O from userspace",
            "turn Secure Boot off and reboot, or use a UEFI variable",
        )
    return None


def _efi_variable(tree: Tree) -> Candidate:
    return Candidate("efi-variable", "read a UEFI variable through efivarfs", _efi_obstacle(tree))


def _efi_obstacle(tree: Tree) -> Missing | None:
    """Return why no UEFI variable can be read, or None."""
    if not tree.exists(_EFI):
        return Missing("this system was not booted by UEFI, so there are no UEFI variables")
    if any(tree.path(_EFIVARS).glob("*")):
        return None
    return Missing(
        "no UEFI variables are to be seen: efivarfs is not mounted or empty",
        f"mount -t efivarfs efivarfs {_EFIVARS}",
    )
