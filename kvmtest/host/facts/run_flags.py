"""Run flags
=========

Where vmx_vcpu_run (arch/x86/kvm/vmx/vmx.c), svm_vcpu_run (arch/x86/kvm/svm/svm.c) or tdx_vcpu_run
(arch/x86/kvm/vmx/tdx.c) takes its run flags, by the kernel's BTF, and what they mean (enum
kvm_x86_run_flags, arch/x86/include/asm/kvm_host.h).
"""

from dataclasses import dataclass

from kvmtest.host.facts.kernel import module_btf
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.tree import Tree
from kvmtest.kernels.btf import Btf, BtfError
from kvmtest.kernels.fix import FixPresence
from kvmtest.missing import Missing

__all__ = ["FUNCTIONS", "TD_FUNCTION", "RunFlags", "find"]

#: The symbol, by vendor module. The kernel resolves it when a probe is placed, and prints it with
#: each hit: reading /proc/kallsyms would take longer than many a check.
FUNCTIONS = {"kvm_intel": "vmx_vcpu_run", "kvm_amd": "svm_vcpu_run"}
#: That of kvm_intel for TDs (in v6.16).
TD_FUNCTION = "tdx_vcpu_run"
PARAMETER = "run_flags"

#: Integer arguments in order (System V ABI, x86-64), as kprobe events name the registers.
REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")


@dataclass(frozen=True, slots=True)
class RunFlags:
    """Where a kernel's run flags are, and what they mean.

    ``place`` is the function as tracefs names it, ``function`` its symbol, ``register`` the one
    that holds the flags. ``load_debugctl`` is the mask KVM_RUN_LOAD_DEBUGCTL, ``known`` that of all
    flags in the enum.
    """

    place: str
    register: str
    load_debugctl: int
    known: int
    function: str = FUNCTIONS["kvm_intel"]


def find(
    tree: Tree,
    fix: FixPresence | Missing,
    vmlinux: Btf | Missing,
    kvm: KvmModule | Missing | None = None,
    *,
    function: str = "",
) -> RunFlags | Missing:
    """Find the flags of the running kernel, or say why it has none.

    ``fix`` is what KVM's BTF shows, ``vmlinux`` the kernel image's BTF; ``kvm`` is the vendor
    module in use. Any module that is not in FUNCTIONS counts as kvm_intel. ``function`` is another
    of the vendor module's functions that takes run flags.
    """
    in_use = kvm.name if isinstance(kvm, KvmModule) else ""
    module = in_use if in_use in FUNCTIONS else "kvm_intel"
    function = function or FUNCTIONS[module]
    if isinstance(fix, Missing):
        return fix
    # Before Linux kernel commit 2478b1b220c4 ("KVM: x86: Convert vcpu_run()'s immediate exit param
    # into a generic bitmap") (in v6.17), the function takes a bool or nothing in their place.
    if not fix.has_run_flags_enum:
        return Missing(
            f"this kernel's {function} takes no run flags (no enum kvm_x86_run_flags)",
            "use a kernel with commit 2478b1b220c4 (in v6.17)",
        )
    # Before Linux kernel commit 6b1dd26544d0 ("KVM: VMX: Preserve host's DEBUGCTLMSR_FREEZE_IN_SMM
    # while running the guest") (in v6.17), there is no such flag.
    if fix.load_debugctl is None:
        return Missing(
            "this kernel has no run flag KVM_RUN_LOAD_DEBUGCTL",
            "use a kernel with commit 6b1dd26544d0 (in v6.17)",
        )
    register = _register(tree, vmlinux, module, function)
    if isinstance(register, Missing):
        return register
    is_module = tree.exists(f"/sys/module/{module}/initstate")
    place = f"{module}:{function}" if is_module else function
    known = 0
    for flag in fix.run_flags.values():
        known |= flag
    return RunFlags(place, register, fix.load_debugctl, known, function)


def _register(tree: Tree, vmlinux: Btf | Missing, module: str, function: str) -> str | Missing:
    found = module_btf(tree, module, vmlinux)
    if isinstance(found, Missing):
        return found
    try:
        positions = {each.index(PARAMETER) for each in found.btf.functions(function)}
    except BtfError as error:
        return Missing(f"the BTF in {found.where} can't be understood ({error})")
    if len(positions) != 1:
        how = "does not describe" if not positions else "has several prototypes of"
        remedy = f"use a kernel whose BTF describes {module} (CONFIG_DEBUG_INFO_BTF_MODULES)"
        return Missing(f"the BTF in {found.where} {how} {function}", remedy)
    (position,) = positions
    if position is None or position >= len(REGISTERS):
        return Missing(f"{function} has no parameter {PARAMETER} in a register")
    return REGISTERS[position]
