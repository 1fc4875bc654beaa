"""Kernel inspection
=================

Whether the fix is in a kernel, and what says so.
"""

from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from kvmtest.host.facts.kernel import Kernel
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.kernels.fix import FixPresence
from kvmtest.missing import Missing

from .terminal import console, facts_table

__all__ = ["show"]

PRESENT, ABSENT, UNKNOWN = 0, 1, 4
LOAD = "load it (modprobe kvm_intel or kvm_amd)"


def show(root: Path) -> int:
    """Print what the running kernel's BTF says; return 0 present, 1 absent, 4 unknown."""
    machine = Machine(Tree(root))
    screen = console()
    kernel, fix = machine.kernel, machine.fix
    if isinstance(kernel, Kernel):
        screen.print(facts_table([("kernel", kernel.version_string)]))
    if isinstance(fix, Missing):
        screen.print(Text(f"unknown: {fix}"))
        return UNKNOWN
    screen.print(facts_table(_observations(fix)))
    if not fix.is_of_kvm:
        screen.print(f"unknown: this BTF does not describe KVM, which decides; {LOAD}")
        return UNKNOWN
    if fix.is_present:
        screen.print(
            "present: this kernel has the host-owned DEBUGCTL code (its types, not its effect)"
        )
        return PRESENT
    mixed = " in all its modules: they are of different builds" if fix.is_mixed else ""
    screen.print(f"absent: this kernel's KVM has no host-owned DEBUGCTL code{mixed}")
    return ABSENT


def _observations(fix: FixPresence) -> Iterator[tuple[str, str]]:
    yield "looked in", fix.where
    yield "KVM", fix.kvm_shown_by or "nothing of its own in this BTF"
    yield (
        "struct kvm_x86_ops",
        f"{fix.ops_copies} in all, known by {', '.join(fix.control_members) or 'nothing'}",
    )
    yield "  HOST_OWNED_DEBUGCTL", "; ".join(map(str, fix.modules))
    flags = ", ".join(f"{name}={value}" for name, value in fix.run_flags.items())
    yield "enum kvm_x86_run_flags", flags or ("empty" if fix.has_run_flags_enum else "not there")
    offset = fix.host_debugctl_offset
    yield (
        "arch.host_debugctl",
        "not there" if offset is None else f"byte {offset} of struct kvm_vcpu",
    )
