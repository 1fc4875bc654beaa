"""What an exit from L2 leaves in vmcs12
=====================================

nvmx.vmcs12.save: L1 finds there what L2 wrote to DEBUGCTL if it asked for that, else its own value,
and never the host's bit.
"""

from collections.abc import Sequence

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.kvm_device import offers_quirk
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import (
    GENERAL_PROTECTION,
    allow_lbr_bits,
    guest_bits,
    guest_write,
)
from kvmtest.checks.stimuli.vmcs12_debugctl import BTF, controls, state_debugctl
from kvmtest.checks.witnesses.guest import msr_controls
from kvmtest.guests import commands
from kvmtest.guests.commands import Command
from kvmtest.guests.l1 import L1
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.judge import claim, control

__all__ = ["save"]

FREEZE = IA32_DEBUGCTL_FREEZE_WHILE_SMM
#: L1's value: KVM takes BTF and drops it, so that vmcs12 differs from what L2 has.
BEFORE = BTF


def save(context: Context) -> Observations:
    """Have L2 write DEBUGCTL, or not, and exit to an L1 that asked to have it saved, or not."""
    with Scene(context, "guest") as scene, scene.guest(pmu=True) as guest:
        allow_lbr_bits(scene.system, guest.vcpu)
        scene.run(guest)
        yield from msr_controls(guest)
        own = guest_bits(guest)[:1]
        has_quirk = offers_quirk(scene.system)
        l1 = L1(guest)
        # With the knob on, the host's bit is there to get into vmcs12 by mistake.
        yield from scene.set_knob(1)
        for saves in (True, False):
            state = "saved" if saves else "not saved"
            l1.write(**controls(l1, load=True, save=saves))
            for value in (sum(own) | BTF, 0):
                kept = value & ~BTF if saves else BEFORE
                yield from _written(l1, [value], BEFORE, kept, state)
            # KVM takes bit 14 from L1 alone, and only under the quirk.
            before = BEFORE | FREEZE if has_quirk else BEFORE
            yield from _written(l1, [], before, before, state)
            yield from _refused(l1, before, state)
        yield from _by_l1(l1, own)


def _written(l1: L1, values: Sequence[int], before: int, kept: int, state: str) -> Observations:
    """Have L2 write ``values`` and exit; claim what vmcs12 holds in L2 and afterwards."""
    l1.write(guest_ia32_debugctl=before)
    written = " and ".join(map(hex, values)) or "nothing"
    what = f"L2 wrote {written}, vmcs12 had {before:#x}, {state}"
    seen = _l2(l1, [commands.wrmsr(IA32_DEBUGCTL, value) for value in values])
    yield control("guest", f"L2 ran: {what}", seen, "ran", "report this KVM: its L2 does not run")
    if seen != "ran":
        return
    inside = state_debugctl(l1.guest.vcpu)
    yield claim("guest", f"DEBUGCTL of KVM_GET_NESTED_STATE in L2: {what}", hex(inside), hex(kept))
    l1.leave()
    after = l1.read("guest_ia32_debugctl")
    yield claim("guest", f"DEBUGCTL that L1 reads in vmcs12: {what}", hex(after), hex(kept))


def _refused(l1: L1, before: int, state: str) -> Observations:
    """Have L2 write bit 14, which KVM refuses in L2 as in L1."""
    l1.write(guest_ia32_debugctl=before)
    seen = _l2(l1, [commands.wrmsr(IA32_DEBUGCTL, FREEZE)])
    what = f"L2's WRMSR 0x1d9={FREEZE:#x}, {state}"
    yield claim("guest", what, seen, f"vector {GENERAL_PROTECTION}")
    if l1.is_in_l2:
        l1.leave()
        after = l1.read("guest_ia32_debugctl")
        yield claim("guest", f"DEBUGCTL in vmcs12 after {what}", hex(after), hex(before))


def _by_l1(l1: L1, own: Sequence[int]) -> Observations:
    """Have L1 write its own DEBUGCTL, which vmcs12 has nothing to do with."""
    l1.write(**controls(l1, save=True), guest_ia32_debugctl=BEFORE)
    for value in (*own, 0):
        what = f"L1's own WRMSR 0x1d9={value:#x}"
        guest_write(l1.guest, value)
        after = l1.read("guest_ia32_debugctl")
        yield claim("guest", f"DEBUGCTL in vmcs12 after {what}", hex(after), hex(BEFORE))


def _l2(l1: L1, sent: Sequence[Command]) -> str:
    """Enter L2 and have it execute commands; return "ran", its fault, or why L1 runs."""
    if (end := l1.enter()) is not None:
        return str(end)
    done = l1.execute(*sent)
    if not isinstance(done, list):
        return str(done)
    faults = [result.fault for result in done if result.fault]
    return f"vector {faults[0].vector}" if faults else "ran"
