"""Real guests on two threads are watched at once, in windows of the host's TSC."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from kvmtest.checks.leaks import watchers as watching
from kvmtest.checks.leaks.smis import Smis
from kvmtest.checks.leaks.watchers import Watcher, Watchers
from kvmtest.guests import Guest, commands, long_guest, private_guest
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.judge.samples import Arm
from kvmtest.kvm import Cpuid, System, Vcpu, Vm
from kvmtest.smi import Periodic
from kvmtest.workers import Supervisor

#: Make a 64-bit guest on a VM's vCPU.
MakeGuest = Callable[[Vm, Vcpu], Guest]


class NoCount:
    """A count of SMIs that never come."""

    name = "nothing"

    def __init__(self, cpus: tuple[int, ...]) -> None:
        self.cpus = cpus

    def read(self, cpu: int) -> int:
        return 0

    def read_all(self) -> dict[int, int]:
        return dict.fromkeys(self.cpus, 0)

    def increase(self, before: int, after: int) -> int:
        return after - before

    def close(self) -> None:
        pass


class NoCounters:
    """Counts nothing."""

    def read(self) -> dict[str, int]:
        return {}

    def known(self, polls: int, gaps: int) -> dict[str, int]:
        return {}


@contextmanager
def silent(_: float, __: bool) -> Iterator[None]:
    yield None


def test_windows_and_gaps_of_guests_that_run_at_once_are_in_one_clock(system: System) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    cpus = (allowed[0], allowed[-1])
    source = Periodic("none", "raises none", "nothing", 10_000, silent)
    with ExitStack() as stack:
        guests = [long_guest(stack.enter_context(system.create_vm())) for _ in cpus]
        kept = stack.enter_context(ExitStack())
        smis = Smis(source, NoCount(cpus), 200, cpus)
        watchers = Watchers(smis, stack.enter_context(Supervisor()), kept)
        for guest, cpu in zip(guests, cpus, strict=True):
            guest.boot()
            watchers.add(guest, cpu, lambda vcpu, guest=guest: Watcher(guest, NoCounters(), vcpu))
        watchers.calibrate()
        taken = [watchers.take_windows(Arm.QUIET) for _ in range(5)]
    for (one, _), (other, _) in taken:
        assert (one.vcpu, other.vcpu) == (0, 1)
        if cpus[0] != cpus[1]:
            assert one.began < other.ended
            assert other.began < one.ended
    for window, gaps in (each for both in taken for each in both):
        assert window.gaps == len(gaps)
        assert all(window.began < gap.began < gap.ended < window.ended for gap in gaps)
        assert {gap.vcpu for gap in gaps} <= {window.vcpu}
    # The clock's tick alone takes each guest out of its 25 ms now and then.
    assert any(gaps for both in taken for _, gaps in both)


@pytest.mark.parametrize("make", [long_guest, private_guest], ids=["mailbox", "registers"])
def test_the_tsc_that_a_guest_reads_itself_is_the_one_that_kvm_knows(
    vm: Vm, supported: Cpuid, make: MakeGuest
) -> None:
    """Each bounds it from both sides."""
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(supported)
    guest = make(vm, vcpu)
    guest.boot()
    lows, highs = zip(*(watching._read_by_guest(guest) for _ in range(5)), strict=True)
    low, high = watching._read_by_host(guest)
    assert max(lows) <= high
    assert min(highs) >= low
    assert min(highs) - max(lows) < 0.05 * tsc_hz()


@pytest.mark.parametrize("make", [long_guest, private_guest], ids=["mailbox", "registers"])
def test_a_commands_time_is_that_of_its_own_kvm_run(
    vm: Vm, supported: Cpuid, make: MakeGuest
) -> None:
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(supported)
    guest = make(vm, vcpu)
    guest.boot()
    ticks = int(0.005 * tsc_hz())
    result, (began, ended) = guest.execute_timed(commands.watch(ticks, 1 << 62))
    assert result.fault is None
    assert ended - began > ticks
