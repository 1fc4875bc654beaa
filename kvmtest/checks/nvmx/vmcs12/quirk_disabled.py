"""Bit 14 in vmcs12 without the quirk
==================================

nvmx.vmcs12.quirk-disabled: where userspace has disabled the quirk, KVM refuses the bit as it does
others that L1 may not set, for the rest of the VM's life.
"""

from kvmtest._native import lib
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import REFUSED
from kvmtest.checks.stimuli.vmcs12_debugctl import BTF, ENTERED, WAYS, controls
from kvmtest.checks.witnesses.guest import l2_controls, msr_controls
from kvmtest.guests import guest_memory, long_guest
from kvmtest.guests.l1 import L1
from kvmtest.host.facts.msr import IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.judge import claim, control

__all__ = ["quirk_disabled"]

FREEZE = IA32_DEBUGCTL_FREEZE_WHILE_SMM
VALUES = (FREEZE, FREEZE | BTF)
QUIRK = lib.KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM
#: Arguments of further calls that disable quirks, none of which enables one again.
AGAIN = {"a second time": QUIRK, "and then none": 0}


def quirk_disabled(context: Context) -> Observations:
    """Disable the quirk of a VM whose L1 has set the bit before, and set it again."""
    with Scene(context, "guest") as scene, scene.system.create_vm() as vm:
        memory = guest_memory(vm)
        guest = long_guest(vm, scene.vcpu(vm), memory)
        scene.run(guest)
        yield from msr_controls(guest)
        l1 = L1(guest)
        yield from l2_controls(l1, "with the quirk")
        l1.write(**controls(l1, load=True))
        # The bit is seen to be taken by the very L1 that may not set it later.
        for value in VALUES:
            for way, outcome in _outcomes(l1, value).items():
                what = f"{way} with {value:#x} in vmcs12's DEBUGCTL, by default"
                remedy = "look at nvmx.vmcs12.freeze-bit"
                yield control("guest", what, outcome, ENTERED, remedy)
        vm.enable_cap("KVM_CAP_DISABLE_QUIRKS2", QUIRK)
        yield from _claimed(l1, "after userspace disabled the quirk")
        for how, quirks in AGAIN.items():
            vm.enable_cap("KVM_CAP_DISABLE_QUIRKS2", quirks)
            yield from _claimed(l1, f"after userspace disabled the quirk {how}")
        l1.write(**controls(l1, load=False))
        for way, outcome in _outcomes(l1, FREEZE).items():
            what = f"{way} with {FREEZE:#x} in vmcs12's DEBUGCTL, not loaded"
            yield claim("guest", what, outcome, ENTERED)


def _claimed(l1: L1, state: str) -> Observations:
    """Claim that the bit is refused both ways, and its absence is not."""
    for value in (*VALUES, 0):
        for way, outcome in _outcomes(l1, value).items():
            what = f"{way} with {value:#x} in vmcs12's DEBUGCTL, {state}"
            yield claim("guest", what, outcome, REFUSED if value else ENTERED)


def _outcomes(l1: L1, value: int) -> dict[str, str]:
    """Return how entries with a value in vmcs12 end, by the way into L2."""
    l1.write(guest_ia32_debugctl=value)
    return {way: enter(l1).outcome for way, enter in WAYS.items()}
