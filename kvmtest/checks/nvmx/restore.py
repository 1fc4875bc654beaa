"""Restoring a running L2
======================

nvmx.restore: KVM_SET_NESTED_STATE takes an L2 exactly where a VM-entry would, and L2 and its L1 run
on with the host's bit of now, not with that of when they were saved.
"""

import secrets
from contextlib import ExitStack
from typing import NamedTuple

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import REFUSED, allow_lbr_bits, guest_bits
from kvmtest.checks.stimuli.vmcs12_debugctl import (
    BTF,
    controls,
    is_taken,
    state_debugctl,
    takes_freeze_bit,
)
from kvmtest.checks.witnesses.guest import IA32_SYSENTER_EIP, msr_controls
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.checks.witnesses.witness import Entry
from kvmtest.guests import commands
from kvmtest.guests.l1 import IA32_FEATURE_CONTROL, L1
from kvmtest.guests.saved import SavedGuest
from kvmtest.host.facts.msr import (
    IA32_DEBUGCTL,
    IA32_DEBUGCTL_FREEZE_WHILE_SMM,
    IA32_PERF_CAPABILITIES,
)
from kvmtest.judge import Reading, claim, control, measure

__all__ = ["restore"]

FREEZE = IA32_DEBUGCTL_FREEZE_WHILE_SMM
RESERVED = 1 << 16
RESTORED = "restored"
#: What a vCPU must have before it gets a nested state, or bits about LBRs.
EARLY = (IA32_FEATURE_CONTROL, IA32_PERF_CAPABILITIES)


class Way(NamedTuple):
    """Where L2 is restored, and whether its DEBUGCTL is set before or after the nested state."""

    into: str
    is_new: bool
    msrs_first: bool = False


WAYS = (
    Way("into a new vCPU, MSRs first", is_new=True, msrs_first=True),
    Way("into a new vCPU, MSRs last", is_new=True),
    Way("into its own vCPU", is_new=False),
    Way("into its own vCPU", is_new=False),
)


def restore(context: Context) -> Observations:
    """Save a running L2, toggle the knob, and restore L2: into new vCPUs, and into its own."""
    with Scene(context, "guest", "vmcs", "runflags") as scene, scene.guest(pmu=True) as guest:
        yield from scene.begin()
        allow_lbr_bits(scene.system, guest.vcpu)
        scene.run(guest)
        yield from msr_controls(guest)
        own = sum(guest_bits(guest)[:1])
        l1 = L1(guest)
        token = secrets.randbits(32)
        l1.write(**controls(l1, load=True), guest_ia32_debugctl=BTF, guest_sysenter_eip=token)
        for at, way in enumerate(WAYS):
            value = 1 - at % 2
            yield from scene.set_knob(1 - value)
            yield _entered(l1, own)
            saved = SavedGuest.of(guest)
            if at == 0:
                yield from _taken(scene, l1, saved)
            yield from scene.set_knob(value)
            state = f"with L2 restored {way.into} after freeze_on_smi went to {value}"
            yield from _restored(scene, l1, saved, way, own, token, state, value)
            if l1.is_in_l2:
                l1.leave()
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.RESTORED)


def _entered(l1: L1, own: int) -> Reading:
    """Enter L2, and have it write its DEBUGCTL."""
    end = l1.enter()
    if end is None:
        l1.execute(commands.wrmsr(IA32_DEBUGCTL, own))
    observed = "L2 runs" if end is None else str(end)
    remedy = "report this KVM: its L2 does not run"
    return control("guest", "an entry to L2 before it is saved", observed, "L2 runs", remedy)


def _taken(scene: Scene, l1: L1, saved: SavedGuest) -> Observations:
    """Give KVM the saved state with other values of DEBUGCTL in vmcs12; then as it was."""
    takes = takes_freeze_bit(scene.machine, scene.system)
    expected = {BTF: RESTORED, RESERVED: REFUSED, FREEZE: RESTORED if takes else REFUSED}
    for value, outcome in expected.items():
        other = saved.with_vmcs12(guest_ia32_debugctl=value)
        seen = RESTORED if is_taken(other.restore, l1.guest) else REFUSED
        what = f"KVM_SET_NESTED_STATE of a running L2 with DEBUGCTL {value:#x} in vmcs12"
        if value == FREEZE and takes is None:
            yield measure("guest", what, seen)
        else:
            yield claim("guest", what, seen, outcome)
    saved.restore(l1.guest)


def _restored(
    scene: Scene, l1: L1, saved: SavedGuest, way: Way, own: int, token: int, state: str, value: int
) -> Observations:
    """Restore L2, and look at it, at L1 after its exit, and at their entries."""
    msrs = l1.guest.vcpu.get_msrs(EARLY)
    with ExitStack() as stack:
        if way.is_new:
            l1 = l1.moved_to(stack.enter_context(scene.guest(pmu=True)))
            scene.came_up(l1.guest)
        guest = l1.guest
        first, last = ({IA32_DEBUGCTL: own}, {}) if way.msrs_first else ({}, {IA32_DEBUGCTL: own})
        guest.vcpu.set_msrs(msrs)
        saved.restore(guest, first=first, last=last)
        kept = state_debugctl(guest.vcpu)
        yield claim("guest", f"DEBUGCTL in vmcs12 {state}", hex(kept), hex(BTF))
        runflags = scene.witness(RunFlagsWitness)
        if runflags:
            runflags.prepare(guest)
        read = l1.execute(commands.rdmsr(IA32_DEBUGCTL), commands.rdmsr(IA32_SYSENTER_EIP))
        if runflags:
            # A new vCPU has no host bit yet, so that only a 1 needs the flag.
            flagged = None if way.is_new and not value else 1
            entry = Entry(guest, f"at L2's first entry {state}", value, flagged)
            yield from runflags.look(entry)
        remedy = "report this KVM: what it restored does not run"
        ran = isinstance(read, list)
        yield control("guest", f"L2 ran {state}", "yes" if ran else str(read), "yes", remedy)
        if not isinstance(read, list):
            return
        debugctl, sysenter = (result.value for result in read)
        yield control("guest", f"L2's MSR 0x176 {state}", hex(sysenter), hex(token), remedy)
        yield claim("guest", f"L2's DEBUGCTL {state}", hex(debugctl), hex(own))
        l1.leave()
        yield from scene.look(guest, f"in L1 after its exit, {state}", value)
