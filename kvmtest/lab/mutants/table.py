"""The table of mutants
====================

What each mutant breaks, and which property must notice. The patches are in the folder patches/
beside this module; the text above each patch says what a user would see.

They follow the fix line by line: commits 2478b1b220c4, 17ec2f965344, 8a4351ac302c, 095686e6fcb4,
7d0cce6cbe71 and 6b1dd26544d0 (in v6.17), and e2ffe85b6d2b (in v7.0). They apply to the KVM of Linux
6.12.117; those with a ``since`` break a line that 6.12 lacks, and apply to Linux 7.3.4.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from kvmtest.errors import UsageError

__all__ = ["MUTANTS", "REPAIRS", "UNCOVERED", "Mutant", "Uncovered", "find"]

_PATCHES = Path(__file__).parent / "patches"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault."""

    name: str
    line: str
    """The wrong line of the fix, with the function that it is in."""

    owner: str
    """The property that must FAIL."""

    cpu_flags: tuple[str, ...] = ()
    """The CPU features without which the fault does not show."""

    leak: str = ""
    """A property that FAILs by the witness leak; "" where the VMCS keeps the host's bit."""

    since: tuple[int, int] = (0, 0)
    """The first kernel that has the line."""

    parameters: tuple[str, ...] = ()
    """The parameters of KVM's modules without which the fault does not show."""

    @property
    def patch(self) -> Path:
        """The patch file."""
        return _PATCHES / f"{self.name}.patch"

    @property
    def fault(self) -> str:
        """The fault and what a user would see, from the patch's header."""
        header = re.split(r"^--- ", self.patch.read_text(), maxsplit=1, flags=re.M)[0]
        return " ".join(header.split())


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A fault in a line of the fix that has no mutant, and the reason."""

    line: str
    fault: str
    reason: str


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "fix-reverted",
        "commit 6b1dd26544d0 as a whole",
        "kernel.fix-present",
        leak="vmx.leak.host-events",
    ),
    # vcpu_enter_guest: the snapshot, the comparison and the flag.
    Mutant(
        "mask-missing",
        "vt_x86_ops: `.HOST_OWNED_DEBUGCTL = DEBUGCTLMSR_FREEZE_IN_SMM`",
        "vmx.entry.toggled",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "turning-on-unnoticed",
        "vcpu_enter_guest: `(debug_ctl ^ vcpu->arch.host_debugctl) & …`",
        "vmx.entry.toggled",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "turning-off-unnoticed",
        "vcpu_enter_guest: `(debug_ctl ^ vcpu->arch.host_debugctl) & …`",
        "vmx.entry.toggled",
        leak="vmx.entry.toggled",
    ),
    Mutant(
        "comparison-inverted",
        "vcpu_enter_guest: `(debug_ctl ^ vcpu->arch.host_debugctl) & …`",
        "vmx.entry.toggled",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "flag-on-every-entry",
        "vcpu_enter_guest: `(debug_ctl ^ vcpu->arch.host_debugctl) & …`",
        "vmx.entry.flag-economy",
    ),
    Mutant(
        "migration-not-compared",
        "vcpu_enter_guest: `run_flags |= KVM_RUN_LOAD_DEBUGCTL`, whatever CPU ran the vCPU last",
        "vmx.entry.migrated",
        leak="vmx.entry.migrated",
    ),
    Mutant(
        "snapshot-once-per-run",
        "vcpu_enter_guest: `debug_ctl = get_debugctlmsr()`, on every turn with interrupts off",
        "vmx.entry.toggled-running",
        leak="vmx.entry.toggled-running",
    ),
    Mutant(
        "snapshot-never-stored",
        "vcpu_enter_guest: `vcpu->arch.host_debugctl = debug_ctl`",
        "vmx.entry.toggled",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "snapshot-stored-late",
        "vcpu_enter_guest: `vcpu->arch.host_debugctl = debug_ctl`, before the loop",
        "vmx.entry.toggled",
        leak="vmx.guest.write-keeps-host-bit",
    ),
    Mutant(
        "signal-loses-toggle",
        "vcpu_enter_guest: `vcpu->arch.host_debugctl = debug_ctl`, only where an entry follows",
        "vmx.entry.schedules",
    ),
    Mutant(
        "snapshot-per-cpu",
        "vcpu_enter_guest: `vcpu->arch.host_debugctl = debug_ctl`, one for each vCPU",
        "vmx.entry.fresh",
        leak="vmx.entry.fresh",
    ),
    Mutant(
        "snapshot-at-creation",
        "kvm_arch_vcpu_create: the snapshot of a new vCPU is 0",
        "vmx.entry.fresh",
        leak="vmx.entry.fresh",
    ),
    Mutant(
        "created-with-bit",
        "init_vmcs: `vmx_guest_debugctl_write(&vmx->vcpu, 0)`",
        "vmx.entry.fresh",
        leak="vmx.entry.fresh",
    ),
    Mutant(
        "flags-not-cleared",
        "vcpu_enter_guest: `run_flags = 0` before the next turn",
        "vmx.entry.flag-economy",
    ),
    # vmx_vcpu_run and vmx_reload_guest_debugctl: the flag's way into the VMCS.
    Mutant(
        "no-reload-at-entry",
        "vmx_vcpu_run: `if (run_flags & KVM_RUN_LOAD_DEBUGCTL)`",
        "vmx.entry.toggled",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "mediated-not-reloaded",
        "vmx_vcpu_run: `if (run_flags & KVM_RUN_LOAD_DEBUGCTL)`, whosever the counters are",
        "vmx.leak.guest-pmu",
        leak="vmx.leak.guest-pmu",
        since=(7, 0),
        parameters=("kvm_intel.enable_mediated_pmu=1",),
    ),
    Mutant(
        "reload-inverted",
        "vmx_reload_guest_debugctl: `if (!((val ^ vcpu->arch.host_debugctl) & …)) return`",
        "vmx.entry.toggled",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "reload-keeps-old-bit",
        "vmx_reload_guest_debugctl: `val & ~DEBUGCTLMSR_FREEZE_IN_SMM`",
        "vmx.entry.toggled",
        leak="vmx.entry.toggled",
    ),
    Mutant(
        "reload-loses-guest-bits",
        "vmx_reload_guest_debugctl: `val = vmcs_read64(GUEST_IA32_DEBUGCTL)`",
        "vmx.guest.write-keeps-host-bit",
    ),
    Mutant(
        "reload-passes-host-bit",
        "vmx_guest_debugctl_write: `WARN_ON_ONCE(val & DEBUGCTLMSR_FREEZE_IN_SMM)`",
        "any.no-warnings",
    ),
    # vmx_guest_debugctl_write, vmx_guest_debugctl_read and the MSR's handlers.
    Mutant(
        "write-without-host-bit",
        "vmx_guest_debugctl_write: `val |= vcpu->arch.host_debugctl & …`",
        "vmx.entry.toggled",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "write-loses-guest-bits",
        "vmx_guest_debugctl_write: `val |= vcpu->arch.host_debugctl & …`",
        "vmx.guest.write-keeps-host-bit",
    ),
    Mutant(
        "guest-write-drops-host-bit",
        "vmx_set_msr: `vmx_guest_debugctl_write(vcpu, data)`",
        "vmx.guest.write-keeps-host-bit",
        leak="vmx.guest.write-keeps-host-bit",
    ),
    Mutant(
        "tolerated-bits-kept",
        "vmx_set_msr: `data &= vmx_get_supported_debugctl(…)`",
        "vmx.guest.write-keeps-host-bit",
    ),
    Mutant(
        "guest-sees-bit",
        "vmx_guest_debugctl_read: `& ~DEBUGCTLMSR_FREEZE_IN_SMM`",
        "guest.rdmsr-hides",
    ),
    Mutant(
        "userspace-sees-bit",
        "vmx_get_msr: `msr_info->data = vmx_guest_debugctl_read()`",
        "guest.rdmsr-hides",
    ),
    Mutant(
        "bit-14-ignored",
        "vmx_is_valid_debugctl: `return !invalid`",
        "vmx.guest.wrmsr-refused",
    ),
    Mutant(
        "bit-14-by-guest",
        "vmx_get_supported_debugctl: bit 14 is not among the guest's",
        "vmx.guest.wrmsr-refused",
        leak="vmx.guest.wrmsr-refused",
    ),
    Mutant(
        "bit-14-by-userspace",
        "vmx_get_supported_debugctl: bit 14 is not among userspace's",
        "vmx.guest.wrmsr-refused",
        leak="vmx.guest.wrmsr-refused",
    ),
    Mutant(
        "rtm-host-not-asked",
        "vmx_get_supported_debugctl: `boot_cpu_has(X86_FEATURE_RTM)`",
        "vmx.guest.rtm-debug",
    ),
    Mutant(
        "rtm-guest-not-asked",
        "vmx_get_supported_debugctl: `guest_cpuid_has(vcpu, X86_FEATURE_RTM)`",
        "vmx.guest.rtm-debug",
        ("rtm",),
    ),
    Mutant(
        "rtm-debug-refused",
        "vmx_get_supported_debugctl: `debugctl |= DEBUGCTLMSR_RTM_DEBUG`",
        "vmx.guest.rtm-debug",
        ("rtm",),
    ),
    Mutant(
        "reload-after-entry",
        "vmx_vcpu_run: the reload, before the VM-entry",
        "vmx.leak.host-events",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "host-debugctl-lost",
        "vmx_vcpu_run: `if (vcpu->arch.host_debugctl) update_debugctlmsr(…)`",
        "host.msr-survives",
        leak="vmx.leak.host-events",
    ),
    Mutant(
        "cpu-online-drops-host-bit",
        "vmx_enable_virtualization_cpu, which runs as a CPU comes online (not part of the fix)",
        "host.hotplug",
    ),
    # nested.c, and what it rests on. L2 is entered by L1, or restored by userspace.
    Mutant(
        "vmfail-without-reload",
        "nested_vmx_restore_host_state: `vmx_reload_guest_debugctl(vcpu)`",
        "nvmx.entry.vmfail-reload",
        leak="nvmx.entry.vmfail-reload",
    ),
    Mutant(
        "l1-without-host-bit",
        "load_vmcs12_host_state: `vmx_guest_debugctl_write(vcpu, 0)`",
        "nvmx.entry.l2",
    ),
    Mutant(
        "l1-debugctl-not-cleared",
        "load_vmcs12_host_state: `vmx_guest_debugctl_write(vcpu, 0)`",
        "nvmx.entry.l2",
    ),
    Mutant(
        "flag-not-in-l2",
        "vcpu_enter_guest: `(debug_ctl ^ vcpu->arch.host_debugctl) & …`, whatever VMCS is in use",
        "nvmx.entry.l2",
        leak="nvmx.leak.l2",
    ),
    Mutant(
        "l2-without-host-bit",
        "prepare_vmcs02: `vmx_guest_debugctl_write(vcpu, vmcs12->guest_ia32_debugctl & …)`",
        "nvmx.leak.l2",
        leak="nvmx.leak.l2",
    ),
    Mutant(
        "reload-not-in-l2",
        "vmx_vcpu_run: `if (run_flags & KVM_RUN_LOAD_DEBUGCTL)`, whatever VMCS is in use",
        "nvmx.leak.l2",
        leak="nvmx.leak.l2",
    ),
    Mutant(
        "vmcs12-bit-14-refused",
        "nested_vmx_check_guest_state: `debugctl &= ~DEBUGCTLMSR_FREEZE_IN_SMM`",
        "nvmx.vmcs12.freeze-bit",
    ),
    Mutant(
        "quirk-not-offered",
        "kvm_x86_vendor_init: `kvm_caps.supported_quirks = KVM_X86_VALID_QUIRKS`",
        "nvmx.vmcs12.freeze-bit",
    ),
    Mutant(
        "vmcs12-bit-14-passed",
        "prepare_vmcs02: `vmcs12->guest_ia32_debugctl & vmx_get_supported_debugctl(vcpu, false)`",
        "nvmx.vmcs12.freeze-bit",
        leak="nvmx.vmcs12.freeze-bit",
    ),
    Mutant(
        "quirk-not-asked",
        "nested_vmx_check_guest_state: `if (kvm_check_has_quirk(…))`",
        "nvmx.vmcs12.quirk-disabled",
    ),
    Mutant(
        "quirk-enabled-again",
        "kvm_vm_ioctl_enable_cap: `kvm->arch.disabled_quirks | …`",
        "nvmx.vmcs12.quirk-disabled",
    ),
    Mutant(
        "vmcs12-debugctl-unchecked",
        "nested_vmx_check_guest_state: `CC(!vmx_is_valid_debugctl(vcpu, debugctl, false))`",
        "nvmx.vmcs12.validity",
    ),
    Mutant(
        "vmcs12-checked-as-userspace",
        "nested_vmx_check_guest_state: `vmx_is_valid_debugctl(vcpu, debugctl, false)`",
        "nvmx.vmcs12.validity",
    ),
    Mutant(
        "vmcs12-checked-unasked",
        "nested_vmx_check_guest_state: `vm_entry_controls & VM_ENTRY_LOAD_DEBUG_CONTROLS`",
        "nvmx.vmcs12.validity",
    ),
    Mutant(
        "vmcs12-tolerance-missing",
        "nested_vmx_check_guest_state: `vmx_is_valid_debugctl(vcpu, debugctl, false)`",
        "nvmx.vmcs12.validity",
    ),
    Mutant(
        "vmcs12-unmasked",
        "prepare_vmcs02: `& vmx_get_supported_debugctl(vcpu, false)`",
        "nvmx.vmcs12.validity",
    ),
    Mutant(
        "vmcs12-loaded-unasked",
        "prepare_vmcs02: `vm_entry_controls & VM_ENTRY_LOAD_DEBUG_CONTROLS`",
        "nvmx.vmcs12.validity",
    ),
    Mutant(
        "l1-debugctl-not-kept",
        "nested_vmx_enter_non_root_mode: `|| !(vm_entry_controls & VM_ENTRY_LOAD_DEBUG_CONTROLS)`",
        "nvmx.vmcs12.validity",
    ),
    Mutant(
        "l1-debugctl-kept-with-host-bit",
        "nested_vmx_enter_non_root_mode: `pre_vmenter_debugctl = vmx_guest_debugctl_read()`",
        "any.no-warnings",
    ),
    Mutant(
        "l2-write-not-saved",
        "vmx_set_msr: `get_vmcs12(vcpu)->guest_ia32_debugctl = data`",
        "nvmx.vmcs12.save",
    ),
    Mutant(
        "l2-write-saved-unasked",
        "vmx_set_msr: `vm_exit_controls & VM_EXIT_SAVE_DEBUG_CONTROLS`",
        "nvmx.vmcs12.save",
    ),
    Mutant(
        "l2-write-saved-unmasked",
        "vmx_set_msr: `data &= vmx_get_supported_debugctl(…)`, before the value is saved",
        "nvmx.vmcs12.save",
    ),
    Mutant(
        "l1-write-saved",
        "vmx_set_msr: `if (is_guest_mode(vcpu) && …)`",
        "nvmx.vmcs12.save",
    ),
    Mutant(
        "saved-from-vmcs02",
        "sync_vmcs02_to_vmcs12: no `guest_ia32_debugctl`",
        "nvmx.vmcs12.save",
    ),
    Mutant(
        "saved-with-host-bit",
        "sync_vmcs02_to_vmcs12: no `guest_ia32_debugctl`",
        "nvmx.vmcs12.save",
    ),
    Mutant(
        "bit-14-ignored-in-l2",
        "vmx_is_valid_debugctl: `return !invalid`, whoever runs",
        "nvmx.vmcs12.save",
    ),
    Mutant(
        "restore-unchecked",
        "vmx_set_nested_state: `nested_vmx_check_guest_state(vcpu, vmcs12, &ignored)`",
        "nvmx.restore",
    ),
    Mutant(
        "restored-without-host-bit",
        "prepare_vmcs02: `vmx_guest_debugctl_write(vcpu, vmx->nested.pre_vmenter_debugctl)`",
        "nvmx.restore",
        leak="nvmx.restore",
    ),
    Mutant(
        "restored-from-vmcs12",
        "prepare_vmcs02: `if (vmx->nested.nested_run_pending && …)`",
        "nvmx.restore",
    ),
    Mutant(
        "restored-debugctl-lost",
        "nested_vmx_enter_non_root_mode: `if (!vmx->nested.nested_run_pending || …)`",
        "nvmx.restore",
    ),
    # On AMD, where no bit is the host's.
    Mutant(
        "svm-host-owned-bit",
        "svm_x86_ops: no `.HOST_OWNED_DEBUGCTL`",
        "svm.flag-never",
    ),
    Mutant(
        "svm-lbrv-not-asked",
        "svm_set_msr: `if (!lbrv)` (not part of the fix)",
        "svm.guest.debugctl",
    ),
    Mutant(
        "svm-rsm-loses-register",
        "rsm_load_state_64: `for (i = 0; i < 16; i++)` (not part of the fix)",
        "svm.guest.smm",
    ),
)

#: Not faults but cures: ``owner`` FAILs on the stock kernel, and must PASS with the patch.
REPAIRS: tuple[Mutant, ...] = (
    Mutant(
        "emulation-mended",
        "vmx_vcpu_run: `if (unlikely(vmx->emulation_required))`",
        "vmx.entry.after-emulation",
    ),
)

UNCOVERED: tuple[Uncovered, ...] = (
    # No observation tells them from a mutant of the table.
    Uncovered(
        "vcpu_enter_guest: `run_flags |= KVM_RUN_LOAD_DEBUGCTL`",
        "missing, another flag, or after the snapshot was stored",
        "the flag is never raised, as by mask-missing",
    ),
    Uncovered(
        "vt_x86_ops: `.HOST_OWNED_DEBUGCTL`",
        "another bit",
        "the flag is never raised for bit 14, as by mask-missing",
    ),
    Uncovered(
        "vmx_vcpu_run: `run_flags & KVM_RUN_LOAD_DEBUGCTL`",
        "another flag",
        "a toggle is not reloaded, as by no-reload-at-entry",
    ),
    Uncovered(
        "vmx_is_valid_debugctl: `data & ~vmx_get_supported_debugctl(…)`; vmx_set_msr: `return 1`",
        "missing",
        "bit 14 is dropped without an error, as by bit-14-ignored",
    ),
    Uncovered(
        "prepare_vmcs02: `vmx->nested.pre_vmenter_debugctl`",
        "another value",
        "L2 goes on with another DEBUGCTL than L1's, as by l1-debugctl-not-kept",
    ),
    Uncovered(
        "nested_vmx_check_guest_state: `debugctl &= ~DEBUGCTLMSR_FREEZE_IN_SMM`",
        "clears more",
        "bits that L1 may not set are let through, as by vmcs12-debugctl-unchecked",
    ),
    Uncovered(
        "nested_vmx_check_guest_state: `kvm_check_has_quirk(…)`",
        "another quirk, or its opposite",
        "bit 14 is refused under the quirk, as by vmcs12-bit-14-refused",
    ),
    # No observation tells them from the stock kernel.
    Uncovered(
        "init_vmcs: `vmx_guest_debugctl_write(&vmx->vcpu, 0)`",
        "writes the field itself",
        "it runs when a vCPU is created, and not at INIT: there is no host's bit to add yet",
    ),
    Uncovered(
        "vmx_reload_guest_debugctl: the early return",
        "missing",
        "the value is written again; only a VMWRITE more",
    ),
    Uncovered(
        "vmx_vcpu_run: `if (run_flags & KVM_RUN_LOAD_DEBUGCTL)`",
        "reloads always",
        "the reload returns early; only a VMREAD more",
    ),
    Uncovered(
        "vmx_guest_debugctl_write: `WARN_ON_ONCE(…)`",
        "missing",
        "no caller of the stock kernel trips it",
    ),
    Uncovered(
        "pmu_intel.c: `vmx_guest_debugctl_read() & DEBUGCTLMSR_LBR`, twice",
        "reads the field itself",
        "only bit 0 is looked at, which the host does not own",
    ),
    # The suite changes no other bit of the host's DEBUGCTL.
    Uncovered(
        "vcpu_enter_guest: `& kvm_x86_ops.HOST_OWNED_DEBUGCTL`",
        "missing",
        "raises the flag in vain when the host's LBR or BTF changes; the VMCS stays right",
    ),
    Uncovered(
        "vmx_guest_debugctl_write, vmx_reload_guest_debugctl: `& DEBUGCTLMSR_FREEZE_IN_SMM`",
        "missing after host_debugctl",
        "shows only while the host itself has LBR or BTF on, which no property asks for",
    ),
    # Seen only where a PMU interrupts.
    Uncovered(
        "intel_pmu_legacy_freezing_lbrs_on_pmi: its read and write",
        "read or write the field itself",
        "runs at a PMI of a guest PMU of version 2 or 3 with LBRs; needs counters",
    ),
    # Not about the freeze bit.
    Uncovered(
        "vcpu_enter_guest: `run_flags |= …`",
        "`=` for `|=`",
        "loses an immediate exit or the guest's DR6 at a toggle; no property is about these",
    ),
    Uncovered(
        "vmx_vcpu_run: `run_flags & KVM_RUN_FORCE_IMMEDIATE_EXIT`, `& KVM_RUN_LOAD_GUEST_DR6`",
        "without the mask",
        "a toggle costs one more exit or write of DR6; no property is about these",
    ),
    Uncovered(
        "enum kvm_x86_run_flags: `KVM_RUN_LOAD_DEBUGCTL = BIT(2)`",
        "the bit of another flag",
        "loads DR6 as well, or exits at once, at a toggle; the VMCS stays right",
    ),
    Uncovered(
        "vmx_get_supported_debugctl: BUS_LOCK_DETECT and LBR; vmx_is_valid_debugctl: BTF and LBR",
        "condition or tolerance missing",
        "older than the fix; no property is about these bits",
    ),
    Uncovered(
        "vmx_get_supported_debugctl: `host_initiated ||` of RTM_DEBUG",
        "missing",
        "userspace that sets MSRs before CPUID is refused; vmx.guest.rtm-debug is about the guest",
    ),
    Uncovered(
        "copy_enlightened_to_vmcs12: `evmcs->guest_ia32_debugctl`",
        "missing",
        "only an L1 that is told it runs on Hyper-V has such a VMCS; the check is the same",
    ),
    # Other owners.
    Uncovered(
        "vcpu_enter_guest: `!vcpu->arch.guest_state_protected`",
        "missing",
        "only SEV-ES and TDX guests have protected state (tdx.flag-never)",
    ),
    Uncovered(
        "tdx_vcpu_run: `run_flags`, `host_debugctl`",
        "any",
        "not part of kvm-intel in Linux 6.12; they belong to tdx.*",
    ),
    Uncovered(
        "svm_vcpu_run: `host_debugctl`",
        "any",
        "the lab's AMD machine has no DEBUGCTL that holds a value",
    ),
)


def find(name: str) -> Mutant:
    """Return a mutant or repair by its name; UsageError with the nearest name if there is none."""
    known = {each.name: each for each in (*MUTANTS, *REPAIRS)}
    if name in known:
        return known[name]
    import difflib  # rarely needed

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else "see docs/mutants.md"
    raise UsageError(f"no mutant {name}; {advice}")
