"""The machine under test
======================

Every fact about the host, each looked up once, when it is first asked for.
"""

import os
from dataclasses import dataclass
from functools import cached_property

from kvmtest.host.facts.cpu import Cpu
from kvmtest.host.facts.fadt import Fadt, read_fadt
from kvmtest.host.facts.kernel import Kernel
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.facts.lab import LabFacts
from kvmtest.kernels.btf import Btf
from kvmtest.kernels.fix import FixPresence
from kvmtest.missing import Missing

from .facts import census, freeze_knob, kernel, mediated_pmu, msr, perf_pmus, run_flags, security
from .tree import Tree

__all__ = ["Machine"]

_OF_KVM = ("kvm_module", "mediated_pmu", "fix", "run_flags", "td_run_flags")


@dataclass(frozen=True)
class Machine:
    """The host whose files are below ``tree``.

    ``smi_source`` is the SMI source that the user wants; None leaves the choice to
    :func:`kvmtest.smi.choose`. With ``allow_other_vms`` a run may disturb others' VMs, and with
    ``allow_hotplug`` it may take a CPU offline.
    """

    tree: Tree
    smi_source: str | None = None
    allow_other_vms: bool = False
    allow_hotplug: bool = False

    def forget_kvm(self) -> None:
        """Drop the facts that a reload of the KVM module changes: they are looked up anew."""
        for name in (*_OF_KVM, "census", "answers"):
            vars(self).pop(name, None)

    @cached_property
    def answers(self) -> dict[str, Missing | None]:
        """The preconditions that were asked for, by name, with what is missing."""
        return {}

    @cached_property
    def lab(self) -> LabFacts | None:
        """The lab whose emulated machine this is, or None. Raises EnvironmentUnfit."""
        return LabFacts.of(os.environ) if self.tree.is_live else None

    @cached_property
    def hostname(self) -> str:
        """The host's name; for an emulated machine, which has none, its host's name."""
        emulated_on = self.lab.details.get("emulated_on") if self.lab else None
        return str(emulated_on or os.uname().nodename)

    @cached_property
    def cpu(self) -> Cpu | Missing:
        """The CPU."""
        return Cpu.of(self.tree)

    @cached_property
    def kernel(self) -> Kernel | Missing:
        """The running kernel."""
        return Kernel.of(self.tree)

    @cached_property
    def fix(self) -> FixPresence | Missing:
        """What the running kernel's BTF shows of the fix."""
        return kernel.fix_presence(self.tree, self.vmlinux_btf)

    @cached_property
    def vmlinux_btf(self) -> Btf | Missing:
        """The BTF of the kernel image, whose reading takes time."""
        return kernel.vmlinux_btf(self.tree)

    @cached_property
    def td_run_flags(self) -> run_flags.RunFlags | Missing:
        """Where tdx_vcpu_run takes its run flags."""
        function = run_flags.TD_FUNCTION
        return run_flags.find(
            self.tree, self.fix, self.vmlinux_btf, self.kvm_module, function=function
        )

    @cached_property
    def run_flags(self) -> run_flags.RunFlags | Missing:
        """Where vmx_vcpu_run or svm_vcpu_run takes its run flags."""
        return run_flags.find(self.tree, self.fix, self.vmlinux_btf, self.kvm_module)

    @cached_property
    def kvm_module(self) -> KvmModule | Missing:
        """The KVM vendor module in use."""
        return KvmModule.of(self.tree, self.cpu)

    @cached_property
    def mediated_pmu(self) -> bool | Missing:
        """Whether KVM lends guests the CPU's own counters."""
        return mediated_pmu.mediated_pmu(self.kvm_module)

    @cached_property
    def knob(self) -> freeze_knob.Knob | Missing:
        """The freeze_on_smi knob."""
        return freeze_knob.find(self.tree, self.cpu)

    @cached_property
    def msr(self) -> msr.MsrAccess | Missing:
        """Access to the host's MSRs."""
        return msr.access(self.tree, cpu=self.cpu)

    @cached_property
    def lockdown(self) -> str | Missing:
        """The lockdown state."""
        return security.lockdown(self.tree)

    @cached_property
    def secure_boot(self) -> bool | Missing:
        """Whether Secure Boot is on."""
        return security.secure_boot(self.tree)

    @cached_property
    def virtualisation(self) -> security.Virtualisation:
        """Whether the host is itself a virtual machine."""
        return security.virtualisation(self.tree, self.cpu)

    @cached_property
    def pmus(self) -> tuple[perf_pmus.Pmu, ...] | Missing:
        """The hardware PMUs of the CPU cores."""
        return perf_pmus.hardware_pmu(self.tree, self.cpu)

    @cached_property
    def pmu_names(self) -> tuple[str, ...]:
        """The names of all perf PMUs."""
        return perf_pmus.pmu_names(self.tree)

    @cached_property
    def fadt(self) -> Fadt | Missing:
        """The ACPI Fixed Description Table."""
        return read_fadt(self.tree)

    @cached_property
    def census(self) -> census.Census:
        """The other processes that run VMs."""
        return census.Census.of(self.tree)
