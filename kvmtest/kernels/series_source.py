"""The series in KVM's source
==========================

What the source of a kernel shows of each commit, line by line of what the commit brings. Comments
are left out, so that a line that was commented out is not there.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvmtest.kernels.series import (
    DR6_FLAG,
    FIX,
    HELPER,
    QUIRK,
    RTM_DEBUG,
    RUN_FLAGS,
    SERIES,
    TDX,
    VMCS12_CHECK,
    WRAPPERS,
    Commit,
    Evidence,
    Finding,
    State,
    unknown,
    without_tdx,
)

__all__ = ["SOURCES", "from_source"]

_KVM = "arch/x86/kvm"
_HOST_H = "arch/x86/include/asm/kvm_host.h"
_UAPI_H = "arch/x86/include/uapi/asm/kvm.h"
_X86, _SVM = f"{_KVM}/x86.c", f"{_KVM}/svm/svm.c"
_VMX, _VMX_H, _MAIN = f"{_KVM}/vmx/vmx.c", f"{_KVM}/vmx/vmx.h", f"{_KVM}/vmx/main.c"
_NESTED, _TDX = f"{_KVM}/vmx/nested.c", f"{_KVM}/vmx/tdx.c"

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
# Before Linux kernel commit e1ef1c57ff70 ("KVM: VMX: Add a macro to track which DEBUGCTL bits are
# host-owned") (in v6.17), the mask has no name.
_BIT = r"(?:DEBUGCTLMSR_FREEZE_IN_SMM|VMX_HOST_OWNED_DEBUGCTL_BITS)"


@dataclass(frozen=True, slots=True)
class _Line:
    """One line that a commit brings."""

    commit: Commit
    files: tuple[str, ...]
    """Where it may be: later versions moved some."""

    function: str
    """The function that has it; "" where it is in none."""

    pattern: str
    """A regular expression, in which one blank stands for any or no white space."""

    words: str


_LINES = (
    _Line(TDX, (_TDX,), "tdx_vcpu_run", r"vcpu->arch\.host_debugctl & ~TDX_DEBUGCTL_PRESERVED",
          "the vCPU's copy in tdx_vcpu_run"),
    _Line(RUN_FLAGS, (_HOST_H,), "", r"enum kvm_x86_run_flags \{", "enum kvm_x86_run_flags"),
    _Line(RUN_FLAGS, (_VMX,), "vmx_vcpu_run", r"run_flags & KVM_RUN_FORCE_IMMEDIATE_EXIT",
          "run_flags in vmx_vcpu_run"),
    _Line(DR6_FLAG, (_HOST_H,), "", r"\bKVM_RUN_LOAD_GUEST_DR6 =", "KVM_RUN_LOAD_GUEST_DR6"),
    _Line(DR6_FLAG, (_VMX,), "vmx_vcpu_run", r"run_flags & KVM_RUN_LOAD_GUEST_DR6",
          "KVM_RUN_LOAD_GUEST_DR6 in vmx_vcpu_run"),
    _Line(DR6_FLAG, (_SVM,), "svm_vcpu_run", r"run_flags & KVM_RUN_LOAD_GUEST_DR6",
          "KVM_RUN_LOAD_GUEST_DR6 in svm_vcpu_run"),
    _Line(RTM_DEBUG, (_VMX,), "vmx_get_supported_debugctl|vcpu_supported_debugctl",
          r"debugctl \|= DEBUGCTLMSR_RTM_DEBUG ;", "DEBUGCTLMSR_RTM_DEBUG"),
    _Line(HELPER, (_VMX,), "vmx_is_valid_debugctl", r"return ! ?invalid ;",
          "vmx_is_valid_debugctl"),
    _Line(VMCS12_CHECK, (_NESTED,), "nested_vmx_check_guest_state",
          r"CC\( ! ?vmx_is_valid_debugctl\(", "the check in nested_vmx_check_guest_state"),
    _Line(VMCS12_CHECK, (_NESTED,), "prepare_vmcs02",
          r"guest_ia32_debugctl & vmx_get_supported_debugctl\(", "the mask in prepare_vmcs02"),
    _Line(WRAPPERS, (_VMX_H,), "vmx_guest_debugctl_write",
          r"vmcs_write64\(GUEST_IA32_DEBUGCTL, val\)", "vmx_guest_debugctl_write"),
    _Line(WRAPPERS, (_VMX_H,), "vmx_guest_debugctl_read",
          r"vmcs_read64\(GUEST_IA32_DEBUGCTL\)", "vmx_guest_debugctl_read"),
    _Line(WRAPPERS, (_VMX,), "vmx_set_msr", r"vmx_guest_debugctl_write\(vcpu, data\)",
          "the setter in vmx_set_msr"),
    _Line(WRAPPERS, (_VMX,), "vmx_get_msr", r"vmx_guest_debugctl_read\(",
          "the getter in vmx_get_msr"),
    _Line(WRAPPERS, (_VMX,), "init_vmcs", r"vmx_guest_debugctl_write\(",
          "the setter in init_vmcs"),
    _Line(WRAPPERS, (_NESTED,), "load_vmcs12_host_state", r"vmx_guest_debugctl_write\(vcpu, 0\)",
          "the setter in load_vmcs12_host_state"),
    _Line(WRAPPERS, (_NESTED,), "prepare_vmcs02",
          r"vmx_guest_debugctl_write\(vcpu, vmcs12->.*"
          r"vmx_guest_debugctl_write\(vcpu, vmx->nested\.pre_vmenter_debugctl\)",
          "the setter in prepare_vmcs02, twice"),
    _Line(WRAPPERS, (_NESTED,), "nested_vmx_enter_non_root_mode",
          r"pre_vmenter_debugctl = vmx_guest_debugctl_read\(",
          "the getter in nested_vmx_enter_non_root_mode"),
    _Line(FIX, (_HOST_H,), "", r"const u64 HOST_OWNED_DEBUGCTL ;", "HOST_OWNED_DEBUGCTL"),
    _Line(FIX, (_HOST_H,), "", r"\bKVM_RUN_LOAD_DEBUGCTL =", "KVM_RUN_LOAD_DEBUGCTL"),
    _Line(FIX, (_MAIN, _VMX), "", rf"\.HOST_OWNED_DEBUGCTL = {_BIT}",
          "the mask of VMX's operations"),
    _Line(FIX, (_X86,), "vcpu_enter_guest",
          r"\( debug_ctl \^ vcpu->arch\.host_debugctl \) & kvm_x86_ops\.HOST_OWNED_DEBUGCTL",
          "the comparison in vcpu_enter_guest"),
    _Line(FIX, (_X86,), "vcpu_enter_guest", r"run_flags \|= KVM_RUN_LOAD_DEBUGCTL ;",
          "the run flag in vcpu_enter_guest"),
    _Line(FIX, (_X86,), "vcpu_enter_guest", r"vcpu->arch\.host_debugctl = debug_ctl ;",
          "the copy in vcpu_enter_guest"),
    _Line(FIX, (_VMX,), "vmx_vcpu_run",
          r"if \(run_flags & KVM_RUN_LOAD_DEBUGCTL\) vmx_reload_guest_debugctl\(vcpu\) ;",
          "the reload in vmx_vcpu_run"),
    _Line(FIX, (_NESTED,), "nested_vmx_restore_host_state",
          r"vmx_reload_guest_debugctl\(vcpu\) ;", "the reload in nested_vmx_restore_host_state"),
    _Line(FIX, (_VMX_H,), "vmx_guest_debugctl_write",
          rf"val \|= vcpu->arch\.host_debugctl & {_BIT} ;", "the host's bit in the setter"),
    _Line(FIX, (_VMX_H,), "vmx_guest_debugctl_read", rf"& ~ ?{_BIT} ;", "the mask in the getter"),
    _Line(FIX, (_VMX_H,), "vmx_reload_guest_debugctl",
          rf"if \( ! ?\( \(val \^ vcpu->arch\.host_debugctl\) & {_BIT} \) \) return ;.*"
          rf"vmx_guest_debugctl_write\(vcpu, val & ~ ?{_BIT}\) ;", "vmx_reload_guest_debugctl"),
    _Line(QUIRK, (_UAPI_H,), "", r"KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM\b.*?1 << 10",
          "the quirk's number"),
    _Line(QUIRK, (_NESTED,), "nested_vmx_check_guest_state",
          r"KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM", "the quirk in nested_vmx_check_guest_state"),
    _Line(QUIRK, (_HOST_H, _X86), "", r"\bKVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM\b",
          "the quirk among the valid ones"),
)  # fmt: skip

SOURCES = tuple(dict.fromkeys(path for line in _LINES for path in line.files))
"""The files that are looked at, below a kernel's tree; some versions lack some of them."""

Read = Callable[[str], str | None]


def from_source(read: Read) -> tuple[Finding, ...]:
    """Return what a kernel's source says of each commit.

    ``read`` returns the text of a file below the tree, or None where there is none.
    """
    texts = {path: _COMMENT.sub(" ", text) for path in SOURCES if (text := read(path)) is not None}
    if _VMX not in texts or _X86 not in texts:
        return unknown(f"there is no {_VMX if _VMX not in texts else _X86}")
    return tuple(_finding(commit, texts) for commit in SERIES)


def _finding(commit: Commit, texts: dict[str, str]) -> Finding:
    if commit == TDX and _TDX not in texts:
        return without_tdx(Evidence.SOURCE, f"there is no {_TDX}")
    # Of files that are not there, as in a part of a tree, nothing can be said.
    lines = [
        line for line in _LINES if line.commit == commit and any(f in texts for f in line.files)
    ]
    if not lines:
        return Finding(commit, State.UNKNOWN, (), "its files are not there")
    missing = [line.words for line in lines if not _has(line, texts)]
    if len(missing) == len(lines):
        words = f"none of its lines is there, such as {missing[0]}"
    elif missing:
        words = f"not there: {', '.join(missing)}; other lines of it are"
    else:
        words = f"all its lines are there, such as {lines[0].words}"
    return Finding(commit, State.ABSENT if missing else State.PRESENT, (Evidence.SOURCE,), words)


def _has(line: _Line, texts: dict[str, str]) -> bool:
    pattern = re.compile(line.pattern.replace(" ", r"\s*"), re.S)
    return any(
        pattern.search(text)
        for path in line.files
        if path in texts
        for text in _within(line.function, texts[path])
    )


def _within(function: str, text: str) -> Iterator[str]:
    """Give the bodies of the definitions of a function, or the whole text for ""."""
    if not function:
        yield text
        return
    # The kernel's style: a definition begins and its braces stand at the beginning of lines.
    start = re.compile(rf"^[^\n;{{}}#]*\b(?:{function})\([^;{{}}]*\)\s*\n\{{", re.M)
    for match in start.finditer(text):
        end = text.find("\n}", match.end())
        yield text[match.start() : end if end >= 0 else len(text)]
