"""What VMX guests may write
=========================

vmx.guest.wrmsr-refused, vmx.guest.write-keeps-host-bit and vmx.guest.rtm-debug.
"""

from collections.abc import Callable

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import (
    REFUSED,
    TAKEN,
    allow_lbr_bits,
    allowed_bits,
    both_write,
    guest_bits,
    guest_write,
    user_write,
)
from kvmtest.checks.witnesses.guest import msr_controls, write_control
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.checks.witnesses.vmcs import VmcsWitness
from kvmtest.guests import Guest
from kvmtest.host.facts.cpu import Cpu
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.judge import claim, control
from kvmtest.kvm import Cpuid

__all__ = ["rtm_debug", "write_keeps_host_bit", "wrmsr_refused"]

RTM_DEBUG = 1 << 15
#: Single-step on branches: KVM takes the write, and drops the bit.
BTF = 1 << 1
#: CPUID.7.0:EBX bit 11 (Intel SDM volume 2).
CPUID_RTM = 1 << 11


def wrmsr_refused(context: Context) -> Observations:
    """Have the guest and userspace write bit 14, alone and with bits that are allowed.

    The knob is on, then off. DebugCtl in the VMCS must be the same before and after the writes.
    """
    # Only a guest with a PMU has the LBR bits that are written together with bit 14.
    with Scene(context, "guest", "vmcs") as scene, scene.guest(pmu=True) as guest:
        yield from scene.begin()
        scene.run(guest)
        yield from msr_controls(guest)
        yield write_control(guest)
        own = sum(allowed_bits(guest.vcpu))
        vmcs = scene.witness(VmcsWitness)
        for knob in (1, 0):
            yield from scene.set_knob(knob)
            with_knob = f"with freeze_on_smi={knob}"
            before = after = None
            if vmcs:
                before = yield from vmcs.dump(guest.vcpu, f"before refused writes {with_knob}")
            for value in {IA32_DEBUGCTL_FREEZE_WHILE_SMM, IA32_DEBUGCTL_FREEZE_WHILE_SMM | own}:
                by_guest, by_userspace = both_write(guest, value)
                what = f"WRMSR 0x1d9={value:#x} in the guest {with_knob}"
                yield claim("guest", what, by_guest, REFUSED)
                what = f"KVM_SET_MSRS 0x1d9={value:#x} {with_knob}"
                yield claim("guest", what, by_userspace, REFUSED)
            if vmcs:
                after = yield from vmcs.dump(guest.vcpu, f"after refused writes {with_knob}")
            if before and after:
                what = f"DebugCtl in the VMCS after refused writes {with_knob}"
                yield claim("vmcs", what, hex(after.debugctl), hex(before.debugctl))
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.REFUSED)


def write_keeps_host_bit(context: Context) -> Observations:
    """Have the guest and userspace write bits that they may set, BTF and 0; look after each write.

    Then toggle the knob: the guest's own bits must stay.
    """
    with Scene(context, "guest", "vmcs") as scene, scene.guest(pmu=True) as guest:
        yield from scene.begin()
        allow_lbr_bits(scene.system, guest.vcpu)
        scene.run(guest)
        yield from msr_controls(guest)
        writers: list[tuple[str, Callable[[Guest, int], str], list[int]]] = [
            ("the guest's WRMSR", guest_write, guest_bits(guest)),
            ("KVM_SET_MSRS", user_write, allowed_bits(guest.vcpu)),
        ]
        for knob in (1, 0):
            yield from scene.set_knob(knob)
            scene.run(guest)
            for writer, write, bits in writers:
                for value in (*bits, BTF, 0):
                    state = f"after {writer} 0x1d9={value:#x} with freeze_on_smi={knob}"
                    yield from _written(scene, guest, write, value, state, knob)
        for bit in writers[1][2][:1]:
            yield from _bits_under_toggles(scene, guest, bit)
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.WRITTEN)


def rtm_debug(context: Context) -> Observations:
    """Write bit 15 by guests with and without RTM in their CPUID, and by userspace for them."""
    cpu = context.machine.cpu
    has_rtm = isinstance(cpu, Cpu) and "rtm" in cpu.features
    with Scene(context, "guest") as scene:
        supported = scene.system.get_supported_cpuid()
        for guest_has in (True, False):
            with scene.guest(_with_rtm(supported, guest_has)) as guest:
                scene.run(guest)
                yield from msr_controls(guest)
                yield write_control(guest)
                who = f"a guest {'with' if guest_has else 'without'} RTM"
                on = f"on a host {'with' if has_rtm else 'without'} RTM"
                expected = TAKEN if has_rtm else REFUSED
                what = f"KVM_SET_MSRS 0x1d9={RTM_DEBUG:#x} for {who} {on}"
                yield claim("guest", what, user_write(guest, RTM_DEBUG), expected)
                guest.vcpu.set_msr(IA32_DEBUGCTL, 0)
                expected = TAKEN if has_rtm and guest_has else REFUSED
                what = f"WRMSR 0x1d9={RTM_DEBUG:#x} in {who} {on}"
                yield claim("guest", what, guest_write(guest, RTM_DEBUG), expected)


def _written(
    scene: Scene,
    guest: Guest,
    write: Callable[[Guest, int], str],
    value: int,
    state: str,
    knob: int,
) -> Observations:
    """Write, and look at the host's bit and at the written bits."""
    yield control("guest", f"the write {state}", write(guest, value), TAKEN, "try again")
    seen = guest.vcpu.get_msr(IA32_DEBUGCTL)
    value &= ~BTF
    yield claim("guest", f"MSR 0x1d9 as userspace reads it {state}", hex(seen), hex(value))
    yield from scene.look(guest, state, knob, own_bits=value)


def _bits_under_toggles(scene: Scene, guest: Guest, bit: int) -> Observations:
    """Toggle the knob while the guest has a bit of its own."""
    guest.vcpu.set_msr(IA32_DEBUGCTL, bit)
    for knob in (1, 0):
        yield from scene.set_knob(knob)
        state = f"after freeze_on_smi went to {knob} under the guest's {bit:#x}"
        scene.run(guest)
        seen = guest.vcpu.get_msr(IA32_DEBUGCTL)
        yield claim("guest", f"MSR 0x1d9 as userspace reads it {state}", hex(seen), hex(bit))
    guest.vcpu.set_msr(IA32_DEBUGCTL, 0)


def _with_rtm(cpuid: Cpuid, has: bool) -> Cpuid:
    leaf = cpuid.find(7)
    if leaf is None:
        return cpuid
    return cpuid.replace(7, ebx=leaf.ebx | CPUID_RTM if has else leaf.ebx & ~CPUID_RTM)
