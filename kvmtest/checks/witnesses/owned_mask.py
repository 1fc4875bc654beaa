"""KVM's mask of host-owned bits
=============================

On AMD, the witness runflags also reads ``kvm_x86_ops.HOST_OWNED_DEBUGCTL``, which must be 0.
Nothing on an AMD host changes a host-owned bit, so that the flag's absence proves little by itself.
The control reads ``kvm_x86_ops.vcpu_run``, which must be the probed function.
"""

from typing import TYPE_CHECKING

from kvmtest.checks.context import Observations
from kvmtest.host.facts.kernel import module_btf
from kvmtest.host.machine import Machine
from kvmtest.judge import claim, control
from kvmtest.missing import Missing

if TYPE_CHECKING:
    from .runflags import RunFlagsWitness

__all__ = ["fetched", "look"]

# Members of struct kvm_x86_ops (arch/x86/include/asm/kvm_host.h).
OWNED, RUN = "HOST_OWNED_DEBUGCTL", "vcpu_run"
#: Where in a function a probe of its first instruction may find the instruction pointer: behind
#: ENDBR64 and the call of ftrace.
ENTRY_BYTES = 16


def fetched(machine: Machine) -> dict[str, str] | Missing:
    """Return the probe's further fetch arguments by name."""
    found = module_btf(machine.tree, "kvm", machine.vmlinux_btf)
    if isinstance(found, Missing):
        return found
    fetch = {"ip": "%ip"}
    for name, member in (("owned", OWNED), ("run", RUN)):
        offsets = {offset.in_bytes for offset in found.btf.offsets("kvm_x86_ops", member)}
        if len(offsets) != 1:
            how = "several places for" if offsets else "no"
            return Missing(f"the BTF in {found.where} has {how} kvm_x86_ops.{member}")
        fetch[name] = f"@kvm_x86_ops+{offsets.pop()}"
    return fetch


def look(witness: "RunFlagsWitness", entries: int, state: str) -> Observations:
    """Claim of the last ``entries`` KVM_RUNs that none had the flag, and that the mask is 0."""
    seen = witness.collect(entries)
    hits, raised = seen.hits, len(witness.flagged(seen))
    what = f"KVM_RUN_LOAD_DEBUGCTL raised in {entries} KVM_RUNs {state}"
    yield claim("runflags", what, raised, 0, hits=len(hits))
    masks = {hit.values["owned"] for hit in hits}
    what = f"kvm_x86_ops.{OWNED} at entries {state}"
    yield claim("runflags", what, ", ".join(map(hex, sorted(masks))), hex(0))
    elsewhere = sum(not 0 <= hit.values["ip"] - hit.values["run"] < ENTRY_BYTES for hit in hits)
    what = f"entries {state} by another function than kvm_x86_ops.{RUN}"
    yield control("runflags", what, elsewhere, 0, "report this kernel's BTF")
