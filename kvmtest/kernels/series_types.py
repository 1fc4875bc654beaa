"""The series in KVM's types
=========================

What BTF shows of each commit. A type proves that the source is there, not that it works; a commit
that changes no type shows at most by a function's name.
"""

from kvmtest.kernels.btf import Btf
from kvmtest.kernels.fix import FixPresence, observe_fix, with_vendor_module
from kvmtest.kernels.series import (
    DR6_FLAG,
    FIX,
    HELPER,
    RUN_FLAGS,
    SERIES,
    TDX,
    Commit,
    Evidence,
    Finding,
    State,
    unknown,
    without_tdx,
)

__all__ = ["from_types"]

_NO_TYPE = "it changes no type"


def from_types(kvm: Btf, intel: Btf | None = None) -> tuple[Finding, ...]:
    """Return what the types of kvm and of kvm_intel, where given, say of each commit.

    Where KVM is built in, ``kvm`` and ``intel`` are both the kernel's own. Raises
    :class:`kvmtest.kernels.btf.BtfError` on corrupt data.
    """
    fix = observe_fix(kvm, "")
    if intel is not None:
        fix = with_vendor_module(fix, "kvm_intel", intel, "")
    if not fix.is_of_kvm:
        return unknown("these types do not describe KVM")
    found = {
        TDX: _tdx(intel),
        RUN_FLAGS: _run_flags(fix),
        DR6_FLAG: _dr6_flag(fix),
        HELPER: _helper(intel),
        FIX: _fix(fix),
    }
    return tuple(
        found.get(commit) or Finding(commit, State.UNKNOWN, (), _NO_TYPE) for commit in SERIES
    )


def _seen(commit: Commit, is_there: bool, words: str) -> Finding:
    state = State.PRESENT if is_there else State.ABSENT
    return Finding(commit, state, (Evidence.TYPES,), words)


def _run_flags(fix: FixPresence) -> Finding:
    # Before Linux kernel commit 2478b1b220c4 ("KVM: x86: Convert vcpu_run()'s immediate exit param
    # into a generic bitmap") (in v6.17), there is no such enum.
    words = "there is" if fix.has_run_flags_enum else "there is no"
    return _seen(RUN_FLAGS, fix.has_run_flags_enum, f"{words} enum kvm_x86_run_flags")


def _dr6_flag(fix: FixPresence) -> Finding:
    # Before Linux kernel commit 80c64c7afea1 ("KVM: x86: Drop kvm_x86_ops.set_dr6() in favor of a
    # new KVM_RUN flag") (in v6.17), the enum has no such flag.
    has = "KVM_RUN_LOAD_GUEST_DR6" in fix.run_flags
    return _seen(DR6_FLAG, has, f"there is {'' if has else 'no '}KVM_RUN_LOAD_GUEST_DR6")


def _fix(fix: FixPresence) -> Finding:
    if fix.is_mixed:
        words = "kvm and kvm_intel were built from different sources"
    elif fix.is_present:
        words = "struct kvm_x86_ops has HOST_OWNED_DEBUGCTL, and there is KVM_RUN_LOAD_DEBUGCTL"
    elif fix.ops_copies_with_host_owned_debugctl:
        words = (
            "a struct kvm_x86_ops has no HOST_OWNED_DEBUGCTL, or there is no KVM_RUN_LOAD_DEBUGCTL"
        )
    else:
        words = "struct kvm_x86_ops has no HOST_OWNED_DEBUGCTL"
    return _seen(FIX, fix.is_present, words)


def _helper(intel: Btf | None) -> Finding | None:
    # A static function that was inlined has no type: its absence says nothing.
    if intel is None or not intel.functions("vmx_is_valid_debugctl"):
        return None
    return _seen(HELPER, True, "there is the function vmx_is_valid_debugctl")


def _tdx(intel: Btf | None) -> Finding | None:
    if intel is None or not (intel.structs("vcpu_vmx") or intel.structs("kvm_vmx")):
        return None
    shared = intel.structs("vcpu_vt")
    if not shared or not intel.structs("vcpu_tdx"):
        return without_tdx(Evidence.TYPES, "there is no struct vcpu_tdx")
    # Before Linux kernel commit 7d390a9da823 ("KVM: TDX: Use kvm_arch_vcpu.host_debugctl to restore
    # the host's DEBUGCTL") (in v6.17), struct vcpu_vt has a copy of its own.
    own = any(each.has("host_debugctlmsr") for each in shared)
    return _seen(TDX, not own, f"struct vcpu_vt has {'a' if own else 'no'} host_debugctlmsr")
