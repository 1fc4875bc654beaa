"""Which DEBUGCTL L1 may set
=========================

nvmx.vmcs12.validity: KVM takes from vmcs12 what it takes from L1's WRMSR, and nothing else.
"""

from collections.abc import Iterable, Sequence

from kvmtest._native import lib
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.debugctl_writes import (
    OWN_BITS,
    REFUSED,
    TAKEN,
    allow_lbr_bits,
    guest_write,
)
from kvmtest.checks.stimuli.vmcs12_debugctl import (
    BTF,
    ENTERED,
    WAYS,
    controls,
    taken_from_userspace,
)
from kvmtest.checks.witnesses.guest import l2_controls, msr_controls
from kvmtest.guests import Guest, commands
from kvmtest.guests.l1 import L1
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM
from kvmtest.judge import Reading, claim

__all__ = ["validity"]

LBR = 1 << 0
#: No CPU has them in DEBUGCTL (Intel SDM volume 4, table 2-2).
RESERVED = (1 << 5, 1 << 16, 1 << 63)
ALL = (1 << 64) - 1


def validity(context: Context) -> Observations:
    """Have L1 try bits of DEBUGCTL in vmcs12, with and without the control that loads it.

    One vCPU has LBRs, if KVM has any to give, and one has none.
    """
    with Scene(context, "guest") as scene:
        yield from scene.set_knob(1)
        for has_lbrs in (False, True):
            with scene.guest(pmu=has_lbrs) as guest:
                if has_lbrs:
                    allow_lbr_bits(scene.system, guest.vcpu)
                scene.run(guest)
                yield from msr_controls(guest)
                # LBR would make KVM take a host counter for a vCPU that has LBRs.
                bits = [1 << at for at in range(has_lbrs, 64)]
                bits.remove(IA32_DEBUGCTL_FREEZE_WHILE_SMM)
                taken = _writable(guest, bits)
                own = [bit for bit in OWN_BITS if bit in taken]
                l1 = L1(guest)
                which = f"on a vCPU with{'' if has_lbrs else 'out'} a PMU"
                yield from l2_controls(l1, which)
                yield from _loaded(l1, taken, own, which)
                yield _swept(l1, [bit for bit in bits if bit not in taken], which)
                yield from _not_loaded(l1, own, which)


def _loaded(l1: L1, taken: list[int], own: list[int], which: str) -> Observations:
    """Have entries load DEBUGCTL, and L2 read it."""
    l1.write(**controls(l1, load=True))
    for value in (0, *taken):
        # KVM takes BTF and LBR from any guest, and drops them where they are not offered.
        reads = value if value in own else 0
        yield from _tried(l1, value, f"vmcs12's DEBUGCTL {value:#x} {which}", ENTERED, reads)
    for value in RESERVED:
        yield from _tried(l1, value, f"vmcs12's DEBUGCTL {value:#x} {which}", REFUSED, None)


def _swept(l1: L1, bits: Iterable[int], which: str) -> Reading:
    """Try every bit that L1's WRMSR refuses."""
    wrong = taken_from_userspace(l1, bits)
    what = f"bits that L1 may have in vmcs12's DEBUGCTL and not write by WRMSR {which}"
    return claim("guest", what, ", ".join(map(hex, wrong)) or "none", "none")


def _writable(guest: Guest, bits: Sequence[int]) -> list[int]:
    """Return which bits L1's WRMSR takes, each alone; L1's DEBUGCTL is 0 afterwards.

    Bits that no guest is offered are tried many at a time.
    """
    known = [bit for bit in bits if bit in (*OWN_BITS, LBR, BTF)]
    others = [bit for bit in bits if bit not in known]
    taken = [bit for bit in known if guest_write(guest, bit) == TAKEN]
    for at in range(0, len(others), lib.MAILBOX_CAPACITY):
        batch = others[at : at + lib.MAILBOX_CAPACITY]
        results = guest.execute(*(commands.wrmsr(IA32_DEBUGCTL, bit) for bit in batch))
        taken += [bit for bit, result in zip(batch, results, strict=True) if not result.fault]
    guest_write(guest, 0)
    return taken


def _not_loaded(l1: L1, own: list[int], which: str) -> Observations:
    """Have entries load nothing: what is in vmcs12 does not count, and L2 has L1's DEBUGCTL."""
    l1.write(**controls(l1, load=False))
    for value in (0, *own[:1]):
        what = f"vmcs12's DEBUGCTL {ALL:#x}, not loaded, over L1's {value:#x} {which}"
        yield from _tried(l1, ALL, what, ENTERED, value, l1_debugctl=value)


def _tried(
    l1: L1, value: int, what: str, outcome: str, reads: int | None, l1_debugctl: int = 0
) -> Observations:
    """Enter both ways; claim how that ends, and what L2's DEBUGCTL is."""
    l1.write(guest_ia32_debugctl=value)
    for way, enter in WAYS.items():
        guest_write(l1.guest, l1_debugctl)
        attempt = enter(l1)
        yield claim("guest", f"{way} with {what}", attempt.outcome, outcome)
        if reads is not None and attempt.debugctl is not None:
            yield claim("guest", f"L2's DEBUGCTL after {way} with {what}",
                        hex(attempt.debugctl), hex(reads))  # fmt: skip
