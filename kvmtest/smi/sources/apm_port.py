"""SMIs by the SMI command port
============================

Writes a byte to the port that the FADT names (0xB2 on most machines), which raises an SMI where the
chipset has APMC_EN and GBL_SMI_EN set. Some values are commands to the firmware: those in the FADT
are never written, but others are known to the vendor alone, so this source is opt-in. A BIOS bears
only a limited rate: start slowly.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kvmtest.errors import KvmtestError, UsageError
from kvmtest.host.facts.fadt import Fadt
from kvmtest.host.facts.security import LOCKDOWN_OFF, without_lockdown
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.smi.source import Fire, Triggered, opened_file

__all__ = ["find"]

# What stress-ng's smi stressor writes.
_DEFAULT = 0x90

_DEVICE = "/dev/port"


def find(machine: Machine, value: str) -> Triggered | Missing:
    """Return the source that writes ``value`` ("" for 0x90), or what is missing.

    Raises UsageError for a value that is no byte.
    """
    byte = _byte(value)
    fadt = machine.fadt
    if isinstance(fadt, Missing):
        return fadt
    missing = _no_port(fadt) or _refused(fadt, byte) or _no_access(machine)
    if missing is not None:
        return missing
    device, port = machine.tree.path(_DEVICE), fadt.smi_cmd

    @contextmanager
    def opened() -> Iterator[Fire]:
        def fire() -> None:
            try:
                os.pwrite(fd, bytes([byte]), port)
            except OSError as error:
                raise KvmtestError(
                    f"can't write to I/O port {port:#x}: {error.strerror}; use another SMI source"
                ) from error

        with opened_file(device, os.O_WRONLY, "run as root, with lockdown off") as fd:
            yield fire

    return Triggered(
        "apm-port",
        f"writes {byte:#x} to the FADT's SMI command port {port:#x}",
        "whatever the firmware does on that value, usually nothing",
        fastest_hz=20,
        longest_s=0.05,
        opened=opened,
    )


def _byte(text: str) -> int:
    try:
        byte = int(text, 0) if text else _DEFAULT
    except ValueError:
        byte = -1
    if not 0 <= byte <= 0xFF:
        raise UsageError(f"SMI source apm-port:{text}: it takes a byte, such as {_DEFAULT:#x}")
    return byte


def _refused(fadt: Fadt, byte: int) -> Missing | None:
    """Return why ``byte`` is never written, or None."""
    if byte not in fadt.refused:
        return None
    values = ", ".join(f"{value:#x}" for value in sorted(fadt.refused))
    return Missing(
        f"{byte:#x} is never written to the SMI command port: it is the FADT's "
        f"{fadt.refused[byte]}",
        f"use another value than {values}",
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


def _no_access(machine: Machine) -> Missing | None:
    """Return why a program can't write to a port, or None."""
    state = machine.lockdown
    if not isinstance(state, Missing) and state != LOCKDOWN_OFF:
        return Missing(
            f"kernel lockdown ({state}) refuses port I/O from userspace",
            f"{without_lockdown(machine.tree)}, or use a UEFI variable",
        )
    if not machine.tree.exists(_DEVICE):
        return Missing(
            f"there is no {_DEVICE}", "run outside a container, on a kernel with CONFIG_DEVPORT"
        )
    if not os.access(machine.tree.path(_DEVICE), os.W_OK, effective_ids=True):
        return Missing(f"no permission to write {_DEVICE}", "run as root")
    return None
