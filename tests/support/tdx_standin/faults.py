"""What can be wrong with the stand-in, each as KVM or the TDX module might have it wrong.

A property of kvmtest must notice each one: ``noticed_by`` FAILs on it.
"""

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    what: str
    noticed_by: str


_ROWS = (
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
