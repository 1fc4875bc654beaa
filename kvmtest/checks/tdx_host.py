"""The links of a TDX host
=======================

Whether KVM runs TDs here, and if not, which link of the chain is missing: the kernel's
configuration, CPU, firmware, what kernel and KVM need (tdx_enable in arch/x86/virt/vmx/tdx/tdx.c,
tdx_hardware_setup in arch/x86/kvm/vmx/tdx.c), the TDX module, or just the parameter kvm_intel.tdx.
"""

import re
from typing import NamedTuple

from kvmtest.host.facts.cpu import Cpu
from kvmtest.host.facts.kernel import Kernel
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.facts.msr import MsrAccess, MsrError
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog, LogError
from kvmtest.missing import Missing

__all__ = ["tdx"]

PARAMETER = "tdx"
OPTIONS = ("INTEL_TDX_HOST", "KVM_INTEL_TDX")
#: The flag of a CPU whose firmware enabled TDX, in a kernel that can use it (tdx_init).
PLATFORM = "tdx_host_platform"
#: SDM volume 4, table 2-2: IA32_MTRRCAP bit 15 is SEAMRR; IA32_MKTME_KEYID_PARTITIONING[63:32]
#: is the number of private KeyIDs.
IA32_MTRRCAP, MTRRCAP_SEAMRR = 0xFE, 1 << 15
IA32_MKTME_KEYID_PARTITIONING = 0x87
#: The TDX module keeps one KeyID for itself.
FEWEST_KEYIDS = 2


class Needed(NamedTuple):
    """A parameter of kvm_intel or kvm that must be on for TDX."""

    parameter: str
    what: str


KVM_NEEDS = (
    Needed("ept", "EPT"),
    Needed("tdp_mmu", "the TDP MMU"),
    Needed("mmio_caching", "MMIO caching"),
    Needed("eptad", "EPT's accessed and dirty bits"),
    Needed("enable_apicv", "APICv"),
)
#: Features of the CPU by their flags in /proc/cpuinfo.
CPU_NEEDS = {"xsave": "XSAVE", "movdir64b": "MOVDIR64B", "ss": "self-snoop"}
#: What the kernel's TDX code says at boot, or as KVM is loaded, where the module does not serve.
MODULE_TROUBLE = re.compile(
    r"virt/tdx: (.*(?:not loaded|initialization failed|upgrade TDX module|SEAMCALL .* failed).*)"
)
LINES_TOLD = 3
MODULE_UP = re.compile(r"virt/tdx: .*module initialized", re.IGNORECASE)


def tdx(machine: Machine) -> Missing | None:
    """KVM runs trust domains."""
    module = machine.kvm_module
    if isinstance(module, Missing):
        return module
    if module.name != "kvm_intel":
        return Missing(f"KVM here is {module.name}, not kvm_intel", "run on an Intel host")
    if PARAMETER not in module.parameters:
        return _not_built(machine.kernel)
    on = module.enabled(PARAMETER)
    if isinstance(on, Missing):
        return on
    if on:
        return None
    return (
        _no_platform(machine)
        or _kvm_lacks(module)
        or _no_module(machine)
        or Missing("TDX is off (kvm_intel.tdx=N)", module.how_to_set("tdx=1"))
    )


def _not_built(kernel: Kernel | Missing) -> Missing:
    """Return why kvm_intel has no parameter tdx."""
    remedy = "boot Linux 6.16 or later with CONFIG_INTEL_TDX_HOST and CONFIG_KVM_INTEL_TDX"
    if isinstance(kernel, Kernel) and not isinstance(kernel.configuration, Missing):
        for option in OPTIONS:
            if kernel.config(option) is None:
                return Missing(f"this kernel is built without CONFIG_{option}", remedy)
    return Missing("this KVM has no TDX (no parameter kvm_intel.tdx)", remedy)


def _no_platform(machine: Machine) -> Missing | None:
    """Return which of CPU, firmware and boot options keeps the kernel from using TDX."""
    cpu = machine.cpu
    if isinstance(cpu, Missing):
        return cpu
    if PLATFORM in cpu.features:
        return _cpu_lacks(cpu)
    if cpu.under_hypervisor:
        return Missing("the hypervisor above shows no TDX", "run on bare metal")
    msr = machine.msr
    if isinstance(msr, Missing):
        return Missing(
            f"the kernel found no TDX (no CPU flag {PLATFORM}), and {msr.what}, which would tell "
            "whether CPU or firmware lacks it",
            msr.remedy or "run as root",
        )
    if not _read(msr, IA32_MTRRCAP) & MTRRCAP_SEAMRR:
        what = "the CPU has no SEAM, which TDX needs (IA32_MTRRCAP bit 15 is 0)"
        return Missing(what, "run on a Xeon with TDX")
    keyids = _read(msr, IA32_MKTME_KEYID_PARTITIONING) >> 32
    if keyids < FEWEST_KEYIDS:
        return Missing(
            f"the firmware gives TDX too few private KeyIDs ({keyids} of {FEWEST_KEYIDS})",
            "enable TME-MT, TDX and its SEAM loader in the firmware setup, with KeyIDs for TDX",
        )
    modes = machine.tree.read("/sys/power/disk")
    if modes and "[disabled]" not in modes:
        what = "hibernation is possible, and Linux uses TDX only without it"
        return Missing(what, "boot with nohibernate")
    what = "the kernel did not take TDX into use at boot, though CPU and firmware have it"
    return Missing(what, "read what the kernel log of the boot says of virt/tdx")


def _cpu_lacks(cpu: Cpu) -> Missing | None:
    for flag, name in CPU_NEEDS.items():
        if flag not in cpu.features:
            what = f"the kernel shows no {name} (CPU flag {flag}), which TDX needs"
            return Missing(what, "boot without an option that turns it off")
    return None


def _kvm_lacks(module: KvmModule) -> Missing | None:
    for needed in KVM_NEEDS:
        # A parameter that is missing or can't be read is no proof.
        if module.enabled(needed.parameter) is False:
            what = f"{needed.what}: off ({needed.parameter}=N), and TDX needs it"
            return Missing(what, module.how_to_set(f"{needed.parameter}=1"))
    return None


def _no_module(machine: Machine) -> Missing | None:
    """Return what the kernel log says of a TDX module that does not serve."""
    log = KernelLog.open(machine.tree)
    if isinstance(log, Missing):
        return None
    with log:
        try:
            log.rewind()
            records = log.since_marker().records
        except LogError:
            return None
    told: list[str] = []
    for record in records:
        if trouble := MODULE_TROUBLE.match(record.message):
            told.append(trouble[1])
        elif MODULE_UP.match(record.message):
            told.clear()
    if not told:
        return None
    return Missing(
        f"the TDX module does not serve: {'; '.join(told[-LINES_TOLD:])}",
        "install the vendor's TDX module (or firmware that brings it), and boot again",
    )


def _read(msr: MsrAccess, index: int) -> int:
    """Return an MSR of the first CPU; 0 where the CPU has none."""
    try:
        return msr.read(index, msr.cpus[0])
    except MsrError:
        return 0
