"""Real guests on two threads are watched at once, in windows of the host's TSC."""

import os
from collections.abc import Callable
from contextlib import ExitStack

from support.silent_smis import silent_smis

from kvmtest.checks.leaks import watchers as watching
from kvmtest.checks.leaks.watchers import Watcher, Watchers
from kvmtest.guests import Guest, commands
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.judge.samples import Arm
from kvmtest.kvm import System, Vm
from kvmtest.workers import Supervisor

NewGuest = Callable[[Vm], Guest]


class NoCounters:
    """Counts nothing."""

    def read(self) -> dict[str, int]:
        return {}

    def known(self, polls: int, gaps: int) -> dict[str, int]:
        return {}


def test_windows_and_gaps_of_guests_that_run_at_once_are_in_one_clock(
    system: System, new_guest: NewGuest
) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    cpus = (allowed[0], allowed[-1])
    with ExitStack() as stack:
        guests = [new_guest(stack.enter_context(system.create_vm())) for _ in cpus]
        kept = stack.enter_context(ExitStack())
        smis = silent_smis(cpus, 200)
        watchers = Watchers(smis, stack.enter_context(Supervisor()), kept)
        for guest, cpu in zip(guests, cpus, strict=True):
            guest.boot()
            watchers.add(guest, cpu, lambda vcpu, guest=guest: Watcher(guest, NoCounters(), vcpu))
        watchers.calibrate()
        taken = [watchers.take_windows(Arm.QUIET) for _ in range(5)]
    for (one, _), (other, _) in taken:
        assert (one.vcpu, other.vcpu) == (0, 1)
    # On a busy host one of them may wait for its CPU until the other has ended, now and then.
    if cpus[0] != cpus[1]:
        assert any(
            one.began < other.ended and other.began < one.ended for (one, _), (other, _) in taken
        )
    for window, gaps in (each for both in taken for each in both):
        assert window.gaps == len(gaps)
        assert all(window.began < gap.began < gap.ended < window.ended for gap in gaps)
        assert {gap.vcpu for gap in gaps} <= {window.vcpu}
    # The clock's tick alone takes each guest out of its 25 ms now and then.
    assert any(gaps for both in taken for _, gaps in both)


def test_the_tsc_that_a_guest_reads_itself_is_the_one_that_kvm_knows(each_guest: Guest) -> None:
    """Each bounds it from both sides."""
    lows, highs = zip(*(watching._read_by_guest(each_guest) for _ in range(5)), strict=True)
    low, high = watching._read_by_host(each_guest)
    assert max(lows) <= high
    assert min(highs) >= low
    assert min(highs) - max(lows) < 0.05 * tsc_hz()


def test_a_commands_time_is_that_of_its_own_kvm_run(each_guest: Guest) -> None:
    ticks = int(0.005 * tsc_hz())
    result, (began, ended) = each_guest.execute_timed(commands.watch(ticks, 1 << 62))
    assert result.fault is None
    assert ended - began > ticks
