"""Kernel inspection
=================

Whether the fix is in a kernel, and what says so, in words.
"""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from kvmtest.host.facts.kernel import Kernel
from kvmtest.kernels.fix import FixPresence
from kvmtest.missing import Missing

from .terminal import facts_table

__all__ = ["page"]

LOAD = "load it (modprobe kvm_intel or kvm_amd)"


def page(kernel: Kernel | Missing, fix: FixPresence | Missing) -> Iterator[RenderableType]:
    """Give the kernel, what its BTF says, and what follows from that."""
    if isinstance(kernel, Kernel):
        yield facts_table([("kernel", kernel.version_string)])
    if isinstance(fix, FixPresence):
        yield facts_table(_observations(fix))
    yield Text(_conclusion(fix))


def _conclusion(fix: FixPresence | Missing) -> str:
    if isinstance(fix, Missing):
        return f"unknown: {fix}"
    if not fix.is_of_kvm:
        return f"unknown: this BTF does not describe KVM, which decides; {LOAD}"
    if fix.is_present:
        return "present: this kernel has the host-owned DEBUGCTL code (its types, not its effect)"
    mixed = " in all its modules: they are of different builds" if fix.is_mixed else ""
    return f"absent: this kernel's KVM has no host-owned DEBUGCTL code{mixed}"


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
