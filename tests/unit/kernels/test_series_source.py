"""kvmtest/kernels/series_source.py: each line of the series is looked for where it belongs."""

import pytest

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
    State,
    finding_of,
)
from kvmtest.kernels.series_source import SOURCES, from_source

#: The lines of the series as Linux 7.3 has them, with as little around them as may be.
TREE = {
    "arch/x86/include/asm/kvm_host.h": """
enum kvm_x86_run_flags {
	KVM_RUN_FORCE_IMMEDIATE_EXIT	= BIT(0),
	KVM_RUN_LOAD_GUEST_DR6		= BIT(1),
	KVM_RUN_LOAD_DEBUGCTL		= BIT(2),
};
struct kvm_x86_ops {
	const u64 HOST_OWNED_DEBUGCTL;
};
""",
    "arch/x86/include/uapi/asm/kvm.h": """
#define KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM	(1 << 10)
""",
    "arch/x86/kvm/x86.c": """
#define KVM_X86_VALID_QUIRKS \\
	(KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM)
static int vcpu_enter_guest(struct kvm_vcpu *vcpu)
{
	debug_ctl = get_debugctlmsr();
	if ((debug_ctl ^ vcpu->arch.host_debugctl) & kvm_x86_ops.HOST_OWNED_DEBUGCTL &&
			!vcpu->arch.guest_state_protected)
		run_flags |= KVM_RUN_LOAD_DEBUGCTL;
	vcpu->arch.host_debugctl = debug_ctl;
}
""",
    "arch/x86/kvm/vmx/main.c": """
struct kvm_x86_ops vt_x86_ops __initdata = {
	.HOST_OWNED_DEBUGCTL = VMX_HOST_OWNED_DEBUGCTL_BITS,
};
""",
    "arch/x86/kvm/vmx/vmx.c": """
u64 vmx_get_supported_debugctl(struct kvm_vcpu *vcpu, bool host_initiated)
{
	debugctl |= DEBUGCTLMSR_RTM_DEBUG;
}

bool vmx_is_valid_debugctl(struct kvm_vcpu *vcpu, u64 data, bool host_initiated)
{
	return !invalid;
}

int vmx_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info)
{
	msr_info->data = vmx_guest_debugctl_read();
}

int vmx_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info)
{
	vmx_guest_debugctl_write(vcpu, data);
}

static void init_vmcs(struct vcpu_vmx *vmx)
{
	vmx_guest_debugctl_write(&vmx->vcpu, 0);
}

fastpath_t vmx_vcpu_run(struct kvm_vcpu *vcpu, u64 run_flags)
{
	bool force_immediate_exit = run_flags & KVM_RUN_FORCE_IMMEDIATE_EXIT;
	if (run_flags & KVM_RUN_LOAD_GUEST_DR6)
		set_debugreg(vcpu->arch.dr6, 6);
	/* Refresh the field. */
	if (run_flags & KVM_RUN_LOAD_DEBUGCTL)
		vmx_reload_guest_debugctl(vcpu);
}
""",
    "arch/x86/kvm/vmx/vmx.h": """
static inline void vmx_guest_debugctl_write(struct kvm_vcpu *vcpu, u64 val)
{
	val |= vcpu->arch.host_debugctl & VMX_HOST_OWNED_DEBUGCTL_BITS;
	vmcs_write64(GUEST_IA32_DEBUGCTL, val);
}

static inline u64 vmx_guest_debugctl_read(void)
{
	return vmcs_read64(GUEST_IA32_DEBUGCTL) & ~VMX_HOST_OWNED_DEBUGCTL_BITS;
}

static inline void vmx_reload_guest_debugctl(struct kvm_vcpu *vcpu)
{
	if (!((val ^ vcpu->arch.host_debugctl) & VMX_HOST_OWNED_DEBUGCTL_BITS))
		return;
	vmx_guest_debugctl_write(vcpu, val & ~VMX_HOST_OWNED_DEBUGCTL_BITS);
}
""",
    "arch/x86/kvm/vmx/nested.c": """
static void prepare_vmcs02(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12)
{
		vmx_guest_debugctl_write(vcpu, vmcs12->guest_ia32_debugctl &
						vmx_get_supported_debugctl(vcpu, false));
		vmx_guest_debugctl_write(vcpu, vmx->nested.pre_vmenter_debugctl);
}

static int nested_vmx_check_guest_state(struct kvm_vcpu *vcpu,
					struct vmcs12 *vmcs12)
{
	if (kvm_check_has_quirk(vcpu->kvm, KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM))
		debugctl &= ~DEBUGCTLMSR_FREEZE_IN_SMM;
	if (CC(!vmx_is_valid_debugctl(vcpu, debugctl, false)))
		return -EINVAL;
}

enum nvmx_vmentry_status nested_vmx_enter_non_root_mode(struct kvm_vcpu *vcpu)
{
	vmx->nested.pre_vmenter_debugctl = vmx_guest_debugctl_read();
}

static void load_vmcs12_host_state(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12)
{
	vmx_guest_debugctl_write(vcpu, 0);
}

static void nested_vmx_restore_host_state(struct kvm_vcpu *vcpu)
{
	vmx_reload_guest_debugctl(vcpu);
}
""",
    "arch/x86/kvm/vmx/tdx.c": """
fastpath_t tdx_vcpu_run(struct kvm_vcpu *vcpu, u64 run_flags)
{
	if (vcpu->arch.host_debugctl & ~TDX_DEBUGCTL_PRESERVED)
		update_debugctlmsr(vcpu->arch.host_debugctl);
}
""",
    "arch/x86/kvm/svm/svm.c": """
static fastpath_t svm_vcpu_run(struct kvm_vcpu *vcpu, u64 run_flags)
{
	if (unlikely(run_flags & KVM_RUN_LOAD_GUEST_DR6))
		svm_set_dr6(svm, vcpu->arch.dr6);
}
""",
}


def absent(tree: dict[str, str]) -> set[Commit]:
    return {each.commit for each in from_source(tree.get) if each.state is State.ABSENT}


def without(line: str, instead: str = "") -> dict[str, str]:
    """Return the tree with one line, which is there, replaced."""
    assert sum(text.count(line) for text in TREE.values()) == 1, line
    return {path: text.replace(line, instead) for path, text in TREE.items()}


def test_a_tree_with_the_series_has_all_of_it() -> None:
    found = from_source(TREE.get)
    assert {each.state for each in found} == {State.PRESENT}
    assert {each.evidence for each in found} == {(Evidence.SOURCE,)}
    assert set(TREE) <= set(SOURCES)


@pytest.mark.parametrize(
    ("line", "commit"),
    [
        ("if (vcpu->arch.host_debugctl & ~TDX_DEBUGCTL_PRESERVED)", TDX),
        ("enum kvm_x86_run_flags {", RUN_FLAGS),
        ("bool force_immediate_exit = run_flags & KVM_RUN_FORCE_IMMEDIATE_EXIT;", RUN_FLAGS),
        ("KVM_RUN_LOAD_GUEST_DR6		= BIT(1),", DR6_FLAG),
        ("if (run_flags & KVM_RUN_LOAD_GUEST_DR6)", DR6_FLAG),
        ("unlikely(run_flags & KVM_RUN_LOAD_GUEST_DR6)", DR6_FLAG),
        ("debugctl |= DEBUGCTLMSR_RTM_DEBUG;", RTM_DEBUG),
        ("return !invalid;", HELPER),
        ("CC(!vmx_is_valid_debugctl(vcpu, debugctl, false))", VMCS12_CHECK),
        ("vmx_guest_debugctl_write(vcpu, data);", WRAPPERS),
        ("vmx_guest_debugctl_write(&vmx->vcpu, 0);", WRAPPERS),
        ("	vmx_guest_debugctl_write(vcpu, 0);", WRAPPERS),
        ("vmx_guest_debugctl_write(vcpu, vmx->nested.pre_vmenter_debugctl);", WRAPPERS),
        ("msr_info->data = vmx_guest_debugctl_read();", WRAPPERS),
        ("vmx->nested.pre_vmenter_debugctl = vmx_guest_debugctl_read();", WRAPPERS),
        ("const u64 HOST_OWNED_DEBUGCTL;", FIX),
        ("KVM_RUN_LOAD_DEBUGCTL		= BIT(2),", FIX),
        (".HOST_OWNED_DEBUGCTL = VMX_HOST_OWNED_DEBUGCTL_BITS,", FIX),
        ("(debug_ctl ^ vcpu->arch.host_debugctl)", FIX),
        ("run_flags |= KVM_RUN_LOAD_DEBUGCTL;", FIX),
        ("vcpu->arch.host_debugctl = debug_ctl;", FIX),
        ("	if (run_flags & KVM_RUN_LOAD_DEBUGCTL)\n", FIX),
        ("val |= vcpu->arch.host_debugctl & VMX_HOST_OWNED_DEBUGCTL_BITS;", FIX),
        (" & ~VMX_HOST_OWNED_DEBUGCTL_BITS;", FIX),
        ("val & ~VMX_HOST_OWNED_DEBUGCTL_BITS", FIX),
        ("(1 << 10)", QUIRK),
        ("if (kvm_check_has_quirk(vcpu->kvm, KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM))", QUIRK),
        ("(KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM)\n", QUIRK),
    ],
)
def test_a_commit_without_one_of_its_lines_is_absent(line: str, commit: Commit) -> None:
    found = from_source(without(line).get)
    assert {each.commit for each in found if each.state is State.ABSENT} == {commit}
    assert finding_of(commit, found).observation


def test_a_line_in_a_comment_is_not_there() -> None:
    line = "vcpu->arch.host_debugctl = debug_ctl;"
    assert absent(without(line, f"/* {line} */")) == {FIX}
    assert absent(without(line, f"// {line}")) == {FIX}


def test_a_line_in_another_function_does_not_count() -> None:
    moved = "vmx_reload_guest_debugctl(vcpu);\n}\nint f(void)\n{\n	if (run_flags & 4)"
    tree = without("	if (run_flags & KVM_RUN_LOAD_DEBUGCTL)\n", moved)
    assert absent(tree) == {FIX}


def test_before_the_mask_had_a_name() -> None:
    older = {
        path: text.replace("VMX_HOST_OWNED_DEBUGCTL_BITS", "DEBUGCTLMSR_FREEZE_IN_SMM")
        for path, text in TREE.items()
    }
    assert absent(older) == set()


def test_a_tree_without_tdx_needs_no_commit_on_tdx() -> None:
    tree = {path: text for path, text in TREE.items() if "tdx.c" not in path}
    assert finding_of(TDX, from_source(tree.get)).unneeded == "it has no TDX"


def test_a_part_of_a_tree_is_judged_by_what_is_there() -> None:
    tree = {path: text for path, text in TREE.items() if "uapi" not in path}
    assert absent(tree) == set()


def test_what_is_no_kernel_says_nothing() -> None:
    found = from_source({}.get)
    assert {each.state for each in found} == {State.UNKNOWN}
    assert len(found) == len(SERIES)
