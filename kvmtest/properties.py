"""The properties
==============

The only list of the claims that kvmtest makes about a kernel. Documentation, ``kvmtest list``, test
ids, KTAP names and reports are made from this list.
"""

from dataclasses import dataclass

from kvmtest.errors import UsageError

__all__ = ["MARKERS", "PROPERTIES", "WITNESSES", "Property", "WitnessRow", "find", "select"]


@dataclass(frozen=True, slots=True)
class WitnessRow:
    """An independent way to observe a property; ``needs`` name rows of checks.preconditions."""

    name: str
    observes: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Property:
    """One claim about the kernel under test.

    ``markers`` are the pytest markers that select the property. ``needs`` are preconditions that
    hold for every witness. ``witnesses`` can observe the property. ``source`` is where the claim
    comes from. ``has_check`` tells whether this version has a check, which checks.check_of finds by
    the id. ``vendors`` are further needs by CPU vendor: the row whose first need holds applies in
    full. ``figures`` names the witnesses that record figures alone, and so can't decide the claim.
    """

    id: str
    claim: str
    markers: tuple[str, ...]
    needs: tuple[str, ...]
    witnesses: tuple[str, ...]
    source: str
    has_check: bool = True
    vendors: tuple[tuple[str, ...], ...] = ()
    figures: tuple[str, ...] = ()

    @property
    def asks(self) -> tuple[str, ...]:
        """Every precondition that the property may have, on any vendor's CPU."""
        return (*self.needs, *(need for row in self.vendors for need in row))


#: The pytest markers, and what each selects.
MARKERS = {
    "intel": "Intel VMX hosts",
    "amd": "AMD SVM hosts",
    "nested": "nested virtualisation",
    "tdx": "Intel TDX hosts",
    "smi": "what needs System Management Interrupts",
    "lab": "what an emulated machine can decide",
}

WITNESSES = {
    witness.name: witness
    for witness in [
        WitnessRow(
            "leak",
            "events counted during SMM, by PMU counters",
            ("pmu", "kvm-stats", "smi-source", "debugctl-switch"),
        ),
        WitnessRow(
            "vmcs", "the VMCS that KVM dumps after a refused VM-entry", ("vmcs-dump", "kernel-log")
        ),
        WitnessRow("runflags", "the run flags that KVM hands to the vendor module", ("kprobes",)),
        WitnessRow("btf", "the types that the running kernel was built from", ("btf",)),
        WitnessRow("guest", "what a guest, and userspace for it, reads and writes", ("kvm",)),
        WitnessRow("hostmsr", "the host's MSR on every online CPU", ("msr",)),
        WitnessRow("klog", "the kernel log", ("kernel-log",)),
    ]
}

# Where the claims come from.
FIX = "commit 6b1dd26544d0 (in v6.17)"
RUN_FLAGS = "commit 2478b1b220c4 (in v6.17)"
RTM_DEBUG = "commit 17ec2f965344 (in v6.17)"
VMCS12 = "commit 095686e6fcb4 (in v6.17)"
TDX = "commit 7d390a9da823 (in v6.17)"
SDM_FREEZE = "Intel SDM volume 3, 18.4.1 (IA32_DEBUGCTL, FREEZE_WHILE_SMM)"
QUIRK = "commit e2ffe85b6d2b (KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM)"
RESTORE = f"Documentation/virt/kvm/api.rst, KVM_SET_NESTED_STATE; {QUIRK}"
KNOB = "arch/x86/events/intel/core.c, freeze_on_smi"
APM = "AMD APM volume 2, 13.1.1 (DebugCtl) and 15.13 (intercepts)"

LAB = ("intel", "lab")
VMX = ("kvm", "kvm-intel", "knob", "freeze-bit")
TD = ("kvm", "kvm-intel", "tdx")
NESTED = ("kvm", "kvm-intel", "nested", "knob", "freeze-bit")
ENTRY = ("vmcs", "runflags")

PROPERTIES: tuple[Property, ...] = (
    Property(
        "kernel.fix-present",
        "this kernel has the host-owned DEBUGCTL code",
        (),
        (),
        ("btf",),
        FIX,
    ),
    Property(
        "host.knob-effective",
        "writing the knob changes MSR 0x1d9 bit 14 on every online CPU",
        LAB,
        ("knob", "freeze-bit"),
        ("hostmsr",),
        KNOB,
    ),
    Property(
        "host.msr-survives",
        "after guests ran, every CPU's bit 14 is still what the knob says",
        LAB,
        ("knob", "freeze-bit", "kvm", "debugctl-switch"),
        ("hostmsr",),
        FIX,
    ),
    Property(
        "host.hotplug",
        "a CPU taken offline and online gets the knob's value back, and so does an entry there; on "
        "AMD, which has no knob, no entry there loads a bit",
        ("intel", "amd", "lab"),
        ("kvm", "second-cpu", "cpu-hotplug"),
        ("hostmsr", *ENTRY),
        KNOB,
        vendors=(("kvm-intel", "knob", "freeze-bit"), ("kvm-amd", "run-flags", "kprobes")),
    ),
    Property(
        "vmx.entry.fresh",
        "a new vCPU's first entry carries the host's bit, 0 or 1",
        LAB,
        VMX,
        (*ENTRY, "leak"),
        FIX,
    ),
    Property(
        "vmx.entry.toggled",
        "a toggle between two KVM_RUNs is in the VMCS at the next entry, both ways, repeatedly",
        LAB,
        VMX,
        (*ENTRY, "leak"),
        FIX,
    ),
    Property(
        "vmx.entry.toggled-running",
        "a toggle by another thread while the vCPU runs in guest mode is in force at re-entry",
        LAB,
        (*VMX, "second-cpu"),
        (*ENTRY, "leak"),
        FIX,
    ),
    Property(
        "vmx.entry.toggled-back",
        "on, off, on between two entries leaves the right value",
        LAB,
        VMX,
        ("vmcs",),
        FIX,
    ),
    Property(
        "vmx.entry.migrated",
        "the value is right after the vCPU moved to another CPU, toggled before and after",
        LAB,
        (*VMX, "second-cpu"),
        ("vmcs", "leak"),
        FIX,
    ),
    Property(
        "vmx.entry.after-emulation",
        "a toggle seen while KVM emulates (no unrestricted guest) is not lost",
        LAB,
        (*VMX, "no-unrestricted-guest"),
        (*ENTRY, "leak"),
        FIX,
        figures=("runflags",),
    ),
    Property(
        "vmx.entry.schedules",
        "the next entry carries the host's bit after toggles, entries, moves, signals and SMIs of "
        "two vCPUs in any order",
        LAB,
        (*VMX, "second-cpu"),
        ("vmcs",),
        FIX,
    ),
    Property(
        "vmx.entry.flag-economy",
        "KVM_RUN_LOAD_DEBUGCTL is raised once per change, not on every entry",
        LAB,
        (*VMX, "run-flags"),
        ("runflags",),
        RUN_FLAGS,
    ),
    Property(
        "guest.rdmsr-hides",
        "guest RDMSR 0x1d9 and KVM_GET_MSRS never show a host-owned bit",
        ("intel", "amd", "lab"),
        (),
        ("guest",),
        FIX,
    ),
    Property(
        "vmx.guest.wrmsr-refused",
        "guest WRMSR of bit 14 gives #GP, KVM_SET_MSRS refuses it, the VMCS is untouched",
        LAB,
        VMX,
        ("guest", "vmcs", "leak"),
        FIX,
    ),
    Property(
        "vmx.guest.write-keeps-host-bit",
        "a guest or userspace write of allowed bits leaves the host's bit in the VMCS",
        LAB,
        VMX,
        ("guest", "vmcs", "leak"),
        FIX,
    ),
    Property(
        "vmx.guest.rtm-debug",
        "bit 15 is writable exactly where the host and the guest's CPUID have RTM",
        LAB,
        ("kvm", "kvm-intel"),
        ("guest",),
        RTM_DEBUG,
    ),
    Property(
        "vmx.leak.host-events",
        "host events that count guest mode do not count SMM",
        ("intel", "smi", "lab"),
        (*VMX, "guest-events"),
        ("leak",),
        SDM_FREEZE,
    ),
    Property(
        "vmx.leak.guest-pmu",
        "the guest's own counters do not count SMM",
        ("intel", "smi", "lab"),
        (*VMX, "guest-pmu"),
        ("leak",),
        SDM_FREEZE,
    ),
    Property(
        "nvmx.entry.l2",
        "an entry to L2 carries the host's bit, and so does L1's next one",
        ("intel", "nested", "lab"),
        NESTED,
        (*ENTRY, "leak"),
        FIX,
    ),
    Property(
        "nvmx.entry.vmfail-reload",
        "after a VM-Fail that only hardware catches, L1 runs on with the host's bit",
        ("intel", "nested", "lab"),
        NESTED,
        ("vmcs", "leak"),
        FIX,
    ),
    Property(
        "nvmx.vmcs12.freeze-bit",
        "bit 14 in vmcs12 is accepted exactly where this kernel's quirk allows it, and L2 runs "
        "with the host's bit",
        ("intel", "nested", "lab"),
        NESTED,
        ("guest", "vmcs", "leak"),
        QUIRK,
    ),
    Property(
        "nvmx.vmcs12.quirk-disabled",
        "with the quirk disabled, bit 14 in vmcs12 fails the VM-entry",
        ("intel", "nested", "lab"),
        (*NESTED, "vmcs12-quirk"),
        ("guest",),
        QUIRK,
    ),
    Property(
        "nvmx.vmcs12.validity",
        "a DEBUGCTL in vmcs12 that L1 may not set fails the VM-entry",
        ("intel", "nested", "lab"),
        NESTED,
        ("guest",),
        VMCS12,
    ),
    Property(
        "nvmx.vmcs12.save",
        "after an exit from L2, vmcs12 has what L2 wrote to DEBUGCTL if L1 asked for it, never the "
        "host's bit",
        ("intel", "nested", "lab"),
        NESTED,
        ("guest",),
        VMCS12,
    ),
    Property(
        "nvmx.restore",
        "an L2 that KVM_SET_NESTED_STATE restores, and its L1, run on with the host's bit of now",
        ("intel", "nested", "lab"),
        NESTED,
        ("guest", "vmcs", "runflags", "leak"),
        RESTORE,
    ),
    Property(
        "nvmx.leak.l2",
        "host events that count guest mode do not count SMM while L2 runs",
        ("intel", "nested", "smi", "lab"),
        (*NESTED, "guest-events"),
        ("leak",),
        SDM_FREEZE,
    ),
    Property(
        "svm.flag-never",
        "svm_vcpu_run never sees KVM_RUN_LOAD_DEBUGCTL, and no host bit is there to load",
        ("amd", "lab"),
        ("kvm", "kvm-amd", "run-flags"),
        ("runflags", "hostmsr"),
        RUN_FLAGS,
    ),
    Property(
        "svm.guest.debugctl",
        "what an SVM guest may read and write in DEBUGCTL matches its kernel and CPUID",
        ("amd", "lab"),
        ("kvm", "kvm-amd"),
        ("guest",),
        APM,
    ),
    Property(
        "svm.guest.smm",
        "an injected SMI runs the guest's own handler, and RSM brings back all registers",
        ("amd", "lab"),
        ("kvm", "kvm-amd"),
        ("guest",),
        "Documentation/virt/kvm/api.rst, KVM_SMI; AMD APM volume 2, 10 (SMM)",
    ),
    Property(
        "svm.leak.guest-only",
        "how many SMM events guest-only counters count (a figure, no claim)",
        ("amd", "smi"),
        ("kvm", "kvm-amd", "guest-events"),
        ("leak",),
        APM,
    ),
    Property(
        "tdx.runs-under-toggling",
        "a TD runs while the knob is toggled",
        ("intel", "tdx"),
        (*TD, "knob", "msr"),
        ("guest", "klog"),
        TDX,
    ),
    Property(
        "tdx.host-msr-intact",
        "after a TD ran, every CPU's bit 14 is still what the knob says",
        ("intel", "tdx"),
        (*TD, "knob", "freeze-bit"),
        ("hostmsr",),
        TDX,
    ),
    Property(
        "tdx.flag-never",
        "no run flag reaches tdx_vcpu_run",
        ("intel", "tdx"),
        (*TD, "knob", "msr"),
        ("runflags", "klog"),
        RUN_FLAGS,
    ),
    Property(
        "tdx.attributes-refused",
        "the TD attributes DEBUG and PERFMON are refused",
        ("intel", "tdx"),
        TD,
        ("guest",),
        "Documentation/virt/kvm/x86/intel-tdx.rst, KVM_TDX_INIT_VM",
    ),
    Property(
        "tdx.order-refused",
        "KVM refuses the calls that make a TD out of their order",
        ("intel", "tdx"),
        TD,
        ("guest",),
        "Documentation/virt/kvm/x86/intel-tdx.rst, KVM TDX creation flow",
    ),
    Property(
        "tdx.leak.host-events",
        "how many SMM events host events count while a TD runs (a figure, no claim)",
        ("intel", "tdx", "smi"),
        (*TD, "knob", "freeze-bit", "guest-events"),
        ("leak",),
        "arch/x86/kvm/vmx/tdx.c, EXIT_REASON_OTHER_SMI",
    ),
    Property(
        "any.soak",
        "after random toggles over vCPUs and CPUs, at rest, every vCPU's value equals the host's; "
        "on AMD, which has no knob, no entry loads one",
        ("intel", "amd", "lab"),
        ("kvm",),
        ENTRY,
        FIX,
        vendors=(("kvm-intel", "knob", "freeze-bit"), ("kvm-amd", "run-flags", "kprobes")),
    ),
    # Last, because its log covers the checks of all other properties.
    Property(
        "any.no-warnings",
        "the kernel reported no trouble during the run: no WARN, BUG, oops, refused MSR access, "
        "stall, lost time or hardware error",
        ("intel", "amd", "lab"),
        ("kvm",),
        ("klog",),
        "Documentation/admin-guide/bug-hunting.rst",
    ),
)


def find(property_id: str) -> Property:
    """Return a property by its id; UsageError with the nearest id where there is none."""
    known = {p.id: p for p in PROPERTIES}
    if property_id in known:
        return known[property_id]
    import difflib  # rarely needed

    near = difflib.get_close_matches(property_id, known, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else "see kvmtest list"
    raise UsageError(f"no property {property_id}; {advice}")


def select(only: list[str]) -> tuple[Property, ...]:
    """Return the named properties in the table's order, or all; raises UsageError."""
    wanted = {find(property_id) for property_id in only}
    return tuple(p for p in PROPERTIES if not only or p in wanted)
