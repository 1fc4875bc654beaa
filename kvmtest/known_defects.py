"""Known defects
=============

A table of the claims that kernels are known to break. A FAIL of such a claim is shown with its
finding, and counts in the exit status of a strict run alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kvmtest.host.machine import Machine
from kvmtest.missing import Missing

__all__ = ["KNOWN_DEFECTS", "KnownDefect", "known_defect"]


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """One property that some kernels are known to break.

    ``kernels`` names the kernels in words, ``applies`` tells whether the machine runs one of them,
    and ``finding`` is the path of the report.
    """

    property_id: str
    kernels: str
    applies: Callable[[Machine], bool]
    finding: str


def _has_fix(machine: Machine) -> bool:
    fix = machine.fix
    return not isinstance(fix, Missing) and fix.is_of_kvm and fix.is_present


KNOWN_DEFECTS = (
    KnownDefect(
        "vmx.entry.after-emulation",
        "every kernel with commit 6b1dd26544d0 (in v6.17), backports too",
        _has_fix,
        "docs/findings/lost-update-while-emulating.md",
    ),
)


def known_defect(property_id: str, machine: Machine) -> str:
    """Return the finding if this machine's kernel is known to break the property, else ""."""
    rows = [d for d in KNOWN_DEFECTS if d.property_id == property_id and d.applies(machine)]
    return rows[0].finding if rows else ""
