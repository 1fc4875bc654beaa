"""KVM's tracepoints, counted by a perf group, show each exit of a guest, and no other."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stand_in import need_root

from kvmtest.errors import KvmtestError
from kvmtest.guests import Guest
from kvmtest.host.tree import Tree
from kvmtest.pmu import CounterGroup, find_event

EVENTS = ("kvm:kvm_userspace_exit", "kvm:kvm_pio", "kvm:kvm_exit")


@pytest.fixture
def tracing(tmp_path: Path) -> Iterator[Tree]:
    """This machine with tracefs, mounted for the test where it is not."""
    if Tree().exists("/sys/kernel/tracing/events"):
        yield Tree()
        return
    need_root()
    at = tmp_path / "sys/kernel/tracing"
    at.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tracefs", "tracefs", at], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount tracefs: {done.stderr.strip()}")
    try:
        yield Tree(tmp_path)
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.fixture
def exits(tracing: Tree) -> Iterator[CounterGroup]:
    try:
        CounterGroup(tracing, [find_event(tracing, "context-switches")]).close()
        events = [find_event(tracing, name) for name in EVENTS]
    except KvmtestError as error:
        pytest.skip(f"needs perf and KVM's tracepoints: {error}")
    with CounterGroup(tracing, events) as group:
        yield group


def exits_of(guest: Guest) -> int:
    count = guest.vcpu.stats()["exits"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_each_exit_is_counted(real: Guest, exits: CounterGroup, count: int) -> None:
    real.ring(5)  # before: not counted
    exits.enable()
    entries, stats, before = real.vcpu.entries, exits_of(real), exits.read()
    real.ring(count)
    counted = exits.read() - before
    assert counted.of("kvm:kvm_pio") == count + 1  # the doorbells and the done port
    assert counted.of("kvm:kvm_userspace_exit") == real.vcpu.entries - entries
    # A KVM that emulates the guest's kernel (kvm_pvm) has no such trace.
    assert counted.of("kvm:kvm_exit") in {0, exits_of(real) - stats}
    exits.disable()
    real.ring(5)
    assert (exits.read() - before).values == counted.values


def test_another_threads_guest_is_not_counted(real: Guest, exits: CounterGroup) -> None:
    exits.enable()
    thread = threading.Thread(target=real.ring, args=(100,))
    thread.start()
    thread.join()
    assert exits.read().values == (0, 0, 0)
