"""The model
=========

What a schedule leaves in the VMCS of a vCPU, as KVM keeps it (arch/x86/kvm/x86.c,
``vcpu_enter_guest``; vmx/vmx.c, ``vmx_vcpu_run``).
"""

from .schedule import RUNS, Does, Schedule, Step

__all__ = ["final_bit"]


def final_bit(schedule: Schedule, vcpu: int, *, host: int = 1, loses: bool = False) -> int:
    """Return bit 14 of a new vCPU's VMCS at its next entry after a schedule, begun at ``host``.

    ``loses`` is a KVM that takes a change for loaded although it emulates, and makes no entry.
    """
    seen = vmcs = inside = 0
    for does, of in (*schedule, Step(Does.RUN, vcpu)):
        host ^= does is Does.TOGGLE
        runs = of == vcpu and does in RUNS and does is not Does.KICK
        if (runs or inside) and host != seen:
            seen = host
            vmcs = vmcs if loses and does is Does.EMULATE else host
        if of == vcpu and does is not Does.MOVE:
            inside = does is Does.STAY
    return vmcs
