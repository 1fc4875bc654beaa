"""Bit 14 in vmcs12
================

nvmx.vmcs12.freeze-bit: whether KVM takes the bit from L1 is as its capability says, and where it
does, the bit has no effect: neither L2 nor L1 sees it, and both run with the host's.
"""

from kvmtest._native import lib
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.kvm_device import offers_quirk
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import REFUSED, TAKEN
from kvmtest.checks.stimuli.vmcs12_debugctl import (
    BTF,
    ENTERED,
    WAYS,
    controls,
    is_taken,
    takes_freeze_bit,
)
from kvmtest.checks.witnesses.guest import l2_controls, msr_controls
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.guests import commands
from kvmtest.guests.l1 import L1
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.judge import Reading, claim, measure
from kvmtest.kvm import System

__all__ = ["freeze_bit"]

FREEZE = IA32_DEBUGCTL_FREEZE_WHILE_SMM


def freeze_bit(context: Context) -> Observations:
    """Have L1 set the bit, alone and beside one that KVM drops, by both ways into L2."""
    with Scene(context, "guest", "vmcs") as scene, scene.guest() as guest:
        yield from scene.begin()
        scene.run(guest)
        yield from msr_controls(guest)
        yield _capability(scene.system)
        l1 = L1(guest)
        yield from l2_controls(l1, "without bit 14")
        l1.write(**controls(l1, load=True))
        for knob in (1, 0):
            yield from scene.set_knob(knob)
            for value in (FREEZE, FREEZE | BTF):
                yield from _tried(scene, l1, value, knob)
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.FREEZE12)


def _capability(system: System) -> Reading:
    """Ask a VM to disable the quirk, which only a KVM that has the quirk can do."""
    with system.create_vm() as vm:
        quirk = lib.KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM
        observed = TAKEN if is_taken(vm.enable_cap, "KVM_CAP_DISABLE_QUIRKS2", quirk) else REFUSED
    what = "KVM_ENABLE_CAP that disables the quirk about bit 14 in vmcs12"
    return claim("guest", what, observed, TAKEN if offers_quirk(system) else REFUSED)


def _tried(scene: Scene, l1: L1, value: int, knob: int) -> Observations:
    """Enter both ways; claim how that ends, what L2 and then L1 read in DEBUGCTL, and L1's VMCS."""
    takes = takes_freeze_bit(scene.machine, scene.system)
    l1.write(guest_ia32_debugctl=value)
    for way, enter in WAYS.items():
        attempt = enter(l1)
        what = f"{way} with {value:#x} in vmcs12's DEBUGCTL with freeze_on_smi={knob}"
        if takes is None:
            yield measure("guest", what, attempt.outcome)
        else:
            yield claim("guest", what, attempt.outcome, ENTERED if takes else REFUSED)
        if attempt.debugctl is not None:
            yield claim("guest", f"L2's DEBUGCTL after {what}", hex(attempt.debugctl), hex(0))
        (after,) = l1.guest.execute(commands.rdmsr(IA32_DEBUGCTL))
        yield claim("guest", f"L1's DEBUGCTL after {what}", hex(after.value), hex(0))
        yield from scene.look(l1.guest, f"in L1 after {what}", knob)
