"""Runs inside the lab's Intel machine: L1 and L2 take commands over each transport."""

import sys

sys.path.insert(0, "/package")

from kvmtest.guests import Guest, commands, long_guest, private_guest
from kvmtest.guests.nested import NestedGuest
from kvmtest.kvm import System

SYSENTER_EIP, BOGUS = 0x176, 0x4B564D99
VALUE = 0x123456789A


def answers(guest: Guest) -> tuple[object, ...]:
    """Return what L1's commands give, but for the place of their code."""
    written, read, missing, name = guest.execute(
        commands.wrmsr(SYSENTER_EIP, VALUE),
        commands.rdmsr(SYSENTER_EIP),
        commands.rdmsr(BOGUS),
        commands.cpuid(0),
    )
    return written.fault, read.value, missing.fault and missing.fault.name, name.values


def works_in_l2(guest: Guest) -> bool:
    """Have L2 do what does not exit to L1, and return whether the results are right."""
    _, watched = guest.execute(commands.loop(9), commands.watch(100_000, 0), timeout=10)
    found, polls, *_ = watched.values
    gaps = guest.gaps(min(found, 2))
    return found == polls > 1 and gaps[0].end == gaps[1].begin and guest.ring(7).doorbells == 7


with System() as system:
    seen = []
    for make in (long_guest, private_guest):
        with system.create_vm() as vm:
            vcpu = vm.create_vcpu()
            vcpu.set_cpuid(system.get_supported_cpuid())
            guest = make(vm, vcpu)
            guest.boot()
            seen.append(answers(guest))
            nested = NestedGuest(guest)
            nested.enter_l2()
            works, is_in_l2 = works_in_l2(nested.guest), nested.is_in_l2
            nested.leave_l2()
            if not works or not is_in_l2 or nested.is_in_l2:
                sys.exit(f"{make.__name__}: L2 worked {works}, was L2 {is_in_l2}")
            seen.append(answers(guest))
    if seen[0][:3] != (None, VALUE, "#GP") or len(set(seen)) != 1:
        sys.exit(f"answers differ: {seen}")
