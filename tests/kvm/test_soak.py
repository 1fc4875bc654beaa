"""A pool of guests on this machine's KVM: what any.soak does to them, and what it counts."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from kvmtest.checks.any.soak import SVM, VMX, GuestPool, Limits
from kvmtest.checks.scene import Scene
from kvmtest.guests import Guest, commands, guest_memory, long_guest
from kvmtest.kvm import System, Vcpu


class Host:
    """What a pool asks of a scene; it keeps the vCPUs, and how often each was entered."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.vcpus: list[Vcpu] = []

    @contextmanager
    def guest(self) -> Iterator[Guest]:
        with self.system.create_vm() as vm:
            memory = guest_memory(vm)
            vcpu = vm.create_vcpu()
            vcpu.set_cpuid(self.system.get_supported_cpuid())
            self.vcpus.append(vcpu)
            yield long_guest(vm, vcpu, memory)

    def run(self, guest: Guest) -> None:
        if guest.vcpu.entries:
            guest.execute(commands.nop())
        else:
            guest.boot()


@pytest.fixture
def host(system: System) -> Host:
    return Host(system)


def pool_of(host: Host, seed: int, limits: Limits = SVM) -> GuestPool:
    return GuestPool(
        cast(Scene, host), random.Random(seed), sorted(os.sched_getaffinity(0)), limits
    )


@pytest.mark.parametrize("limits", [VMX, SVM], ids=["vmx", "svm"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_crowd_counts_its_own_thread_s_entries_and_lives(
    host: Host, seed: int, limits: Limits
) -> None:
    pool = pool_of(host, seed, limits)
    try:
        for _ in range(25):
            pool.step()
            assert 1 <= len(pool.guests) <= limits.guests
        assert pool.answering() == len(pool.guests)
        entered = sum(vcpu.entries for vcpu in host.vcpus)
        assert 0 < pool.entries <= entered
        if "spin" not in pool.done:
            assert pool.entries == entered
    finally:
        pool.close()
    assert sum(pool.done.values()) == 25
    assert {"make", "run"} <= set(pool.done)
    assert pool.done.get("spin", 0) <= limits.spins


def test_what_a_guest_has_seen_is_the_host_s_bit_when_it_last_entered(host: Host) -> None:
    pool, flips = pool_of(host, 1), random.Random(2)
    last: dict[Guest, tuple[int, int]] = {}
    try:
        for _ in range(25):
            pool.bit = flips.randrange(2)
            pool.step()
            for guest, _ in pool.guests:
                entries, seen = last.get(guest, (0, 0))
                entered = guest.vcpu.entries > entries
                last[guest] = (guest.vcpu.entries, pool.bit if entered else seen)
            there = [guest for guest, _ in pool.guests]
            assert pool.seen == {guest: last[guest][1] for guest in there}
    finally:
        pool.close()


def test_each_entry_of_a_guest_that_does_not_spin_is_counted(host: Host) -> None:
    pool = pool_of(host, 1)
    for _ in range(3):
        pool.make()
    assert pool.answering() == 3
    assert pool.entries == sum(vcpu.entries for vcpu in host.vcpus)
    pool.close()


@pytest.mark.usefixtures("msrs_fault")
def test_a_guest_that_faults_is_not_counted_as_one_that_answers(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(host, 1)
    pool.make()
    monkeypatch.setattr(commands, "nop", lambda: commands.rdmsr(0x4B564D99))
    assert pool.answering() == 0
    pool.close()
