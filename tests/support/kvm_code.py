"""A small KVM in C, with the places that the series changes, compiled as the kernel is.

What a compiler makes of the real one is in tests/recorded/kvm-code; here single lines can be taken
away.
"""

import subprocess
from pathlib import Path

from kvmtest.kernels.series_code import Offsets

OFFSETS = Offsets(host_debugctl=528, host_owned=128, disabled_quirks=256, supported_quirks=16)

_COMMON = """
typedef unsigned long u64;
#define BIT14 (1ul << 14)
struct kvm { char before[256]; u64 disabled_quirks; };
struct kvm_vcpu { struct kvm *kvm; char before[520]; u64 host_debugctl; u64 kept; };
struct kvm_x86_ops { char before[128]; u64 HOST_OWNED_DEBUGCTL; };
struct kvm_caps { char before[16]; u64 supported_quirks; };
"""

KVM = (
    _COMMON
    + """
struct kvm_x86_ops kvm_x86_ops;
struct kvm_caps kvm_caps;
int run_vcpu(struct kvm_vcpu *vcpu, u64 run_flags);
static u64 get_debugctlmsr(void)
{
	unsigned int low, high;
	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0x1d9));
	return (u64)high << 32 | low;
}
void kvm_x86_vendor_init(void)
{
	kvm_caps.supported_quirks = 0x7ff;
}
int vcpu_enter_guest(struct kvm_vcpu *vcpu, int immediate)
{
	u64 run_flags = immediate, debug_ctl = get_debugctlmsr();
	if ((debug_ctl ^ vcpu->host_debugctl) & kvm_x86_ops.HOST_OWNED_DEBUGCTL)
		run_flags |= 4;
	vcpu->host_debugctl = debug_ctl;
	return run_vcpu(vcpu, run_flags);
}
"""
)

INTEL = (
    _COMMON
    + """
struct kvm_x86_ops vmx_x86_ops = { .HOST_OWNED_DEBUGCTL = BIT14 };
extern void load_dr6(struct kvm_vcpu *), enter(struct kvm_vcpu *), force_exit(struct kvm_vcpu *);
extern int is_rtm(void);
static inline u64 vmcs_read64(u64 field)
{
	u64 value;
	asm volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc");
	return value;
}
static inline void vmcs_write64(u64 field, u64 value)
{
	asm volatile("vmwrite %1, %0" : : "r"(field), "rm"(value) : "cc");
}
static inline void vmx_guest_debugctl_write(struct kvm_vcpu *vcpu, u64 val)
{
	val |= vcpu->host_debugctl & BIT14;
	vmcs_write64(0x2802, val);
}
static inline u64 vmx_guest_debugctl_read(void)
{
	return vmcs_read64(0x2802) & ~BIT14;
}
static inline void vmx_reload_guest_debugctl(struct kvm_vcpu *vcpu)
{
	u64 val = vmcs_read64(0x2802);
	if (!((val ^ vcpu->host_debugctl) & BIT14))
		return;
	vmx_guest_debugctl_write(vcpu, val & ~BIT14);
}
u64 __attribute__((noinline)) vmx_get_supported_debugctl(struct kvm_vcpu *vcpu)
{
	u64 debugctl = vcpu->kept & 0x801;
	if (is_rtm())
		debugctl |= 1ul << 15;
	return debugctl;
}
_Bool __attribute__((noinline)) vmx_is_valid_debugctl(struct kvm_vcpu *vcpu, u64 data)
{
	return !(data & ~vmx_get_supported_debugctl(vcpu));
}
int vmx_set_msr(struct kvm_vcpu *vcpu, u64 data)
{
	if (!vmx_is_valid_debugctl(vcpu, data))
		return 1;
	vmx_guest_debugctl_write(vcpu, data);
	return 0;
}
void vmx_get_msr(struct kvm_vcpu *vcpu, u64 *data)
{
	*data = vmx_guest_debugctl_read();
}
int vmx_vcpu_run(struct kvm_vcpu *vcpu, u64 run_flags)
{
	if (run_flags & 2)
		load_dr6(vcpu);
	if (run_flags & 4)
		vmx_reload_guest_debugctl(vcpu);
	if (run_flags & 1)
		force_exit(vcpu);
	enter(vcpu);
	return 0;
}
extern void put_back(u64), tdx_enter(struct kvm_vcpu *);
int tdx_vcpu_run(struct kvm_vcpu *vcpu, u64 run_flags)
{
	tdx_enter(vcpu);
	if (vcpu->host_debugctl & ~0x5002ul)
		put_back(vcpu->host_debugctl);
	return 0;
}
int nested_vmx_check_guest_state(struct kvm_vcpu *vcpu, u64 debugctl)
{
	if (!(vcpu->kvm->disabled_quirks & (1 << 10)))
		debugctl &= ~BIT14;
	return !vmx_is_valid_debugctl(vcpu, debugctl);
}
void prepare_vmcs02(struct kvm_vcpu *vcpu, u64 debugctl)
{
	vmx_guest_debugctl_write(vcpu, debugctl & vmx_get_supported_debugctl(vcpu));
}
void nested_vmx_vmexit(struct kvm_vcpu *vcpu, int failed)
{
	if (failed)
		vmx_reload_guest_debugctl(vcpu);
	else
		vmx_guest_debugctl_write(vcpu, 0);
}
"""
)

_FLAGS = [
    "-O2",
    "-c",
    "-ffreestanding",
    "-fno-pic",
    "-mcmodel=kernel",
    "-mno-red-zone",
    "-fno-jump-tables",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-pg",
    "-mfentry",
]


def compiled(text: str, folder: Path, *options: str) -> bytes:
    """Return the object file of a C text, compiled with the kernel's options and ``options``."""
    source, target = folder / "kvm.c", folder / "kvm.o"
    source.write_text(text)
    subprocess.run(["cc", *_FLAGS, *options, "-o", str(target), str(source)], check=True)
    return target.read_bytes()


def linked(objects: list[bytes], folder: Path) -> bytes:
    """Return objects linked to one file at the kernel's addresses, as vmlinux is."""
    paths = [folder / f"{number}.o" for number in range(len(objects))]
    for path, data in zip(paths, objects, strict=True):
        path.write_bytes(data)
    # Every function begins with a call of it, which keeps all registers.
    stub = "void __fentry__(void) {}"
    paths.append(folder / "fentry.o")
    paths[-1].write_bytes(compiled(stub, folder, "-mno-fentry"))
    target = folder / "vmlinux"
    options = ["-Ttext=0xffffffff81000000", "-e", "0", "--unresolved-symbols=ignore-all", "-static"]
    subprocess.run(["ld", *options, "-o", str(target), *map(str, paths)], check=True)
    return target.read_bytes()


def without(text: str, line: str, instead: str = "") -> str:
    """Return the C text with one line replaced; the line must be there once."""
    assert text.count(line) == 1, line
    return text.replace(line, instead)
