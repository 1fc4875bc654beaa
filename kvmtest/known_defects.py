"""Known defects
=============

Claims that kernels are known to break, as a table: a FAIL of one of them is shown with the finding
about it, and counts in the exit status only of a strict run.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kvmtest.host.machine import Machine
from kvmtest.missing import Missing

__all__ = ["KNOWN_DEFECTS", "KnownDefect", "known_defect"]


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """One property that some kernels are known to break.

    ``kernels`` says in words which, ``applies`` asks the machine, ``finding`` is the report.
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
    """Return the finding about a property that this machine's kernel is known to break, or ""."""
    rows = [d for d in KNOWN_DEFECTS if d.property_id == property_id and d.applies(machine)]
    return rows[0].finding if rows else ""
