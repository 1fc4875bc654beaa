"""The mediated PMU
================

Whether KVM lends guests the CPU's own counters (arch/x86/kvm/pmu.c, in v7.0 and later), instead of
emulating theirs with perf events of the host.

While a VM with a mediated PMU lives, perf_event_open(2) refuses any event of the CPU cores that
counts guests; while such an event is open, the first KVM_CREATE_VCPU of such a VM fails
(kernel/events/core.c, perf_create_mediated_pmu).
"""

from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.missing import Missing

__all__ = ["PARAMETER", "mediated_pmu"]

#: Of kvm_intel and kvm_amd. KVM clears it at load where perf or the CPU does not support it.
PARAMETER = "enable_mediated_pmu"


def mediated_pmu(module: KvmModule | Missing) -> bool | Missing:
    """Tell whether VMs get a mediated PMU: those with an irqchip in the kernel and a PMU at all."""
    if isinstance(module, Missing):
        return module
    on = module.enabled(PARAMETER)
    if isinstance(on, Missing) and PARAMETER not in module.parameters:
        return Missing(on.what, "boot Linux 7.0 or later for a KVM that has mediated PMUs")
    return on
