"""What can be wrong with the stand-in, each as KVM or the TDX module might have it wrong.

A property of kvmtest must notice each one: ``noticed_by`` FAILs on it.
"""

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    what: str
    noticed_by: str


_ROWS = (
    ("order-init-vm", "KVM_TDX_INIT_VM is taken twice", "tdx.order-refused"),
    ("order-vcpu", "a vCPU is made before KVM_TDX_INIT_VM", "tdx.order-refused"),
    ("order-init-vcpu", "KVM_TDX_INIT_VCPU is taken twice", "tdx.order-refused"),
    ("order-memory", "memory is added without KVM_TDX_INIT_VCPU", "tdx.order-refused"),
    ("order-run", "a vCPU is entered before KVM_TDX_FINALIZE_VM", "tdx.order-refused"),
    ("order-finalize", "KVM_TDX_FINALIZE_VM is taken at any time", "tdx.order-refused"),
    ("debug-offered", "KVM offers the attribute DEBUG, and takes it", "tdx.attributes-refused"),
    ("debug-accepted", "KVM_TDX_INIT_VM takes DEBUG unoffered", "tdx.attributes-refused"),
    ("perfmon-accepted", "KVM_TDX_INIT_VM takes PERFMON unoffered", "tdx.attributes-refused"),
    ("host-bit-lost", "a TD exit leaves the CPU's bit 14 at 0", "tdx.host-msr-intact"),
    ("host-bit-set", "a TD exit leaves the CPU's bit 14 at 1", "tdx.host-msr-intact"),
    ("host-bit-stale", "a TD exit brings back the bit of the last entry", "tdx.host-msr-intact"),
    ("flag-seen", "KVM_RUN_LOAD_DEBUGCTL reaches tdx_vcpu_run", "tdx.flag-never"),
    ("flag-unwarned", "it does, and WARN_ON_ONCE is gone", "tdx.flag-never"),
    ("warns", "tdx_vcpu_run WARNs at an entry after a toggle", "tdx.runs-under-toggling"),
    ("result-wrong", "after a toggle TD exits change RBX", "tdx.runs-under-toggling"),
    ("dies-of-toggle", "an entry after a toggle ends the TD", "tdx.runs-under-toggling"),
)

FAULTS: dict[str, Fault] = {row[0]: Fault(*row) for row in _ROWS}

#: What KVM does to a sound user of its interface: no property may change its verdict for it.
HARDSHIPS = {"interrupts": "a signal ends each TD's first KVM_TDX_INIT_MEM_REGION after a page"}
