"""The fix in KVM's types
=====================

Whether types that KVM was built with have the host-owned DEBUGCTL code. Pure observations over BTF,
of a running kernel's modules or of files; what they mean is decided in ``kvmtest.judge``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kvmtest.kernels.btf import Btf, Struct

__all__ = ["FixPresence", "OpsCopies", "observe_fix", "with_vendor_module"]

# One of these is in struct kvm_x86_ops of every kernel, by age: BTF of KVM must show it.
_CONTROL_MEMBERS = ("vcpu_run", "run")

# KVM's own functions (virt/kvm/kvm_main.c, arch/x86/kvm/x86.c), in kvm.ko or a kernel with KVM
# built in. A kernel without KVM has struct kvm_x86_ops all the same: headers bring it in.
_KVM_FUNCTIONS = ("kvm_vcpu_ioctl", "kvm_arch_vcpu_ioctl_run")


@dataclass(frozen=True, slots=True)
class OpsCopies:
    """The definitions of struct kvm_x86_ops that one ``module`` was built with, in numbers.

    ``fixed`` of ``copies`` have the member HOST_OWNED_DEBUGCTL. ``is_own`` tells that they are in
    the module's own BTF; otherwise the module has the kernel image's.
    """

    module: str
    copies: int
    fixed: int
    is_own: bool

    def __str__(self) -> str:
        whose = "" if self.is_own else " (the kernel image's)"
        return f"{self.fixed} of {self.copies} in {self.module}{whose}"


@dataclass(frozen=True, slots=True)
class FixPresence:
    """What one kernel's BTF shows of the host-owned DEBUGCTL code, each observation by itself.

    Definitions count that KVM's modules were built with, kvm and the vendor's alike.
    """

    where: str
    """The files that were looked at."""

    ops_copies: int
    """Definitions of struct kvm_x86_ops."""

    ops_copies_with_host_owned_debugctl: int
    """Those that have the member HOST_OWNED_DEBUGCTL."""

    ops_copies_with_control: int
    """Those that have a member every kernel has: ``vcpu_run``, or ``run`` in old ones."""

    control_members: tuple[str, ...]
    """The control members found."""

    has_run_flags_enum: bool
    """enum kvm_x86_run_flags is defined."""

    run_flags: Mapping[str, int]
    """Its enumerators."""

    host_debugctl_offsets: tuple[int, ...]
    """Distinct byte offsets of ``arch.host_debugctl`` in struct kvm_vcpu; empty where absent."""

    kvm_shown_by: str = ""
    """What of KVM's own is in this BTF, in words; empty where it has struct kvm_x86_ops at most,
    which a kernel without KVM has too."""

    modules: tuple[OpsCopies, ...] = ()
    """The definitions of struct kvm_x86_ops by module."""

    @property
    def is_present(self) -> bool:
        """Tell whether every struct kvm_x86_ops has it, and there is a flag to reload DEBUGCTL."""
        copies = self.ops_copies_with_host_owned_debugctl
        return 0 < copies == self.ops_copies and self.load_debugctl is not None

    @property
    def has_control(self) -> bool:
        """Tell whether struct kvm_x86_ops is whole, so that what it does not show is not there."""
        return 0 < self.ops_copies == self.ops_copies_with_control

    @property
    def is_of_kvm(self) -> bool:
        """Tell whether this BTF describes the KVM that runs: only then do its types decide."""
        return self.has_control and bool(self.kvm_shown_by)

    @property
    def is_mixed(self) -> bool:
        """Tell whether kvm and the vendor module were built from different sources."""
        return len({each.fixed == each.copies for each in self.modules}) > 1

    @property
    def load_debugctl(self) -> int | None:
        """Return the mask KVM_RUN_LOAD_DEBUGCTL, or None where there is no such flag."""
        return self.run_flags.get("KVM_RUN_LOAD_DEBUGCTL")

    @property
    def host_debugctl_offset(self) -> int | None:
        """Return the byte offset of ``arch.host_debugctl``, or None where absent or ambiguous."""
        return self.host_debugctl_offsets[0] if len(self.host_debugctl_offsets) == 1 else None


def observe_fix(btf: Btf, where: str) -> FixPresence:
    """Observe in ``btf``, read from ``where``, what the fix added to KVM's types.

    Raises :class:`BtfError` on corrupt data.
    """
    ops = btf.structs("kvm_x86_ops")
    # Before Linux kernel commit 6b1dd26544d0 ("KVM: VMX: Preserve host's DEBUGCTLMSR_FREEZE_IN_SMM
    # while running the guest") (in v6.17), struct kvm_x86_ops has no member HOST_OWNED_DEBUGCTL.
    fixed = [copy for copy in ops if copy.has("HOST_OWNED_DEBUGCTL")]
    # Before Linux kernel commit 2478b1b220c4 ("KVM: x86: Convert vcpu_run()'s immediate exit param
    # into a generic bitmap") (in v6.17), there is no enum kvm_x86_run_flags.
    flags = btf.enums("kvm_x86_run_flags")
    offsets = btf.offsets("kvm_vcpu", "arch.host_debugctl")
    return FixPresence(
        where,
        ops_copies=len(ops),
        ops_copies_with_host_owned_debugctl=len(fixed),
        ops_copies_with_control=_with_control(ops),
        control_members=tuple(
            name for name in _CONTROL_MEMBERS if any(copy.has(name) for copy in ops)
        ),
        has_run_flags_enum=bool(flags),
        run_flags={name: value for copy in flags for name, value in copy.values.items()},
        host_debugctl_offsets=tuple(offset.in_bytes for offset in offsets),
        kvm_shown_by=_kvm_in(btf, ops),
        modules=(OpsCopies("kvm", len(ops), len(fixed), _are_own(btf, ops)),),
    )


def with_vendor_module(fix: FixPresence, vendor: str, btf: Btf, where: str) -> FixPresence:
    """Add the types of the module ``vendor``, from ``where``, if it has a struct kvm_x86_ops.

    BTF that inherits the struct from the kernel image says nothing about this module. Raises
    :class:`BtfError` on corrupt data.
    """
    ops = btf.structs("kvm_x86_ops")
    if not _are_own(btf, ops):
        return fix
    fixed = sum(copy.has("HOST_OWNED_DEBUGCTL") for copy in ops)
    return replace(
        fix,
        where=f"{fix.where}, {where}",
        ops_copies=fix.ops_copies + len(ops),
        ops_copies_with_host_owned_debugctl=fix.ops_copies_with_host_owned_debugctl + fixed,
        ops_copies_with_control=fix.ops_copies_with_control + _with_control(ops),
        modules=(*fix.modules, OpsCopies(vendor, len(ops), fixed, is_own=True)),
    )


def _with_control(ops: tuple[Struct, ...]) -> int:
    return sum(any(map(copy.has, _CONTROL_MEMBERS)) for copy in ops)


def _are_own(btf: Btf, ops: tuple[Struct, ...]) -> bool:
    """Tell whether definitions are those of split BTF itself."""
    return btf.is_split and bool(ops) and not any(copy.is_inherited for copy in ops)


def _kvm_in(btf: Btf, ops: tuple[Struct, ...]) -> str:
    """Return in words what of KVM's own is in ``btf``, or ""."""
    for name in _KVM_FUNCTIONS:
        if btf.functions(name):
            return f"function {name}"
    return "the module's own struct kvm_x86_ops" if _are_own(btf, ops) else ""
