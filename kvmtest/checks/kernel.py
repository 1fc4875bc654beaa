"""The kernel
==========

kernel.fix-present.
"""

from collections.abc import Iterator

from kvmtest.judge import Absence, Reading, claim, control
from kvmtest.kernels.fix import FixPresence
from kvmtest.missing import Missing

from .context import Context

__all__ = ["fix_present"]


def fix_present(context: Context) -> Iterator[Reading | Absence]:
    """Look in the BTF of the running KVM for types that only the fix has.

    If modules are of another build than the kernel, their types decide. If kvm and the vendor
    module differ, the fix is not whole: kvm reads the mask that the vendor module gives.
    """
    fix = context.machine.fix
    if isinstance(fix, Missing):
        yield Absence("btf", fix)
        return
    yield _kvm_described(fix)
    copies = "; ".join(map(str, fix.modules))
    yield claim(
        "btf",
        "struct kvm_x86_ops with HOST_OWNED_DEBUGCTL"
        + (f" in modules of different builds ({copies})" if fix.is_mixed else ""),
        fix.ops_copies_with_host_owned_debugctl == fix.ops_copies,
        True,
        copies=fix.ops_copies,
        copies_with_it=fix.ops_copies_with_host_owned_debugctl,
        by_module=copies,
    )
    yield claim(
        "btf",
        "enum kvm_x86_run_flags with KVM_RUN_LOAD_DEBUGCTL",
        fix.load_debugctl is not None,
        True,
        mask=fix.load_debugctl,
    )


def _kvm_described(fix: FixPresence) -> Reading:
    """Show that the BTF is of the KVM that runs, and its struct kvm_x86_ops whole.

    The struct by itself shows nothing: a kernel without KVM has it too, from headers.
    """
    if not fix.kvm_shown_by:
        what = "something of KVM's own in this BTF, such as the function kvm_vcpu_ioctl"
        remedy = "load KVM (modprobe kvm_intel or kvm_amd), or boot a kernel whose BTF describes it"
        return control("btf", what, False, True, remedy, where=fix.where)
    member = " ".join(fix.control_members) or "vcpu_run"
    return control(
        "btf",
        f"struct kvm_x86_ops of this KVM ({fix.kvm_shown_by}) with its old member {member}",
        fix.has_control,
        True,
        "use a kernel whose BTF describes KVM (CONFIG_DEBUG_INFO_BTF)",
        where=fix.where,
        copies=fix.ops_copies,
    )
