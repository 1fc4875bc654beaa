"""A vCPU's process, stopped at the entry and the exit of each KVM_RUN of a real KVM."""

import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmtest.checks.schedules.ordered_vcpu import NEW, RUN, STAY, OrderedVcpu, count_at
from kvmtest.interleave.tracer import Tracer
from kvmtest.interleave.vcpu_process import Serve, VcpuProcess, VcpuProcessError

EINTR = -4


@contextmanager
def process(serve: Serve) -> Iterator[tuple[VcpuProcess, Tracer]]:
    with Tracer() as tracer, VcpuProcess(tracer, "the process", serve) as started:
        yield started, tracer


pytestmark = pytest.mark.usefixtures("system")


@contextmanager
def vcpu() -> Iterator[tuple[VcpuProcess, Tracer, int]]:
    """A process with a new vCPU, and where its count is."""
    with process(OrderedVcpu().serve) as (started, tracer):
        (address,) = struct.unpack("<Q", started.ask(NEW))
        yield started, tracer, address


def count(started: VcpuProcess, tracer: Tracer, address: int) -> int:
    return count_at(tracer.read(started.pid, address, 8))


def test_it_stops_at_the_entry_and_at_the_exit_of_each_run() -> None:
    with vcpu() as (started, tracer, address):
        for _ in range(3):
            before = count(started, tracer, address)
            started.order(RUN)
            started.reach_entry()
            assert count(started, tracer, address) == before
            started.enter()
            assert started.reach_exit() == 0
            assert count(started, tracer, address) == before + 1
            started.finish()
            assert started.answer == b"halted"


def test_a_vcpu_stays_in_the_guest_until_a_signal_takes_it_out() -> None:
    with vcpu() as (started, tracer, address):
        started.order(STAY)
        started.reach_entry()
        started.enter()
        for _ in range(3):
            before = count(started, tracer, address)
            while count(started, tracer, address) == before:
                os.sched_yield()
        started.kick()
        assert started.reach_exit() == EINTR
        before = count(started, tracer, address)
        started.finish()
        assert started.answer == b"signal"
        assert count(started, tracer, address) == before


def test_with_a_signal_pending_kvm_does_not_enter() -> None:
    with vcpu() as (started, tracer, address):
        before = count(started, tracer, address)
        started.order(RUN)
        started.reach_entry()
        started.kick()
        started.enter()
        assert started.reach_exit() == EINTR
        started.finish()
        assert (started.answer, count(started, tracer, address)) == (b"signal", before)


def test_new_vcpus_follow_each_other_into_a_new_vm() -> None:
    with vcpu() as (started, _, _):
        for _ in range(120):
            started.ask(NEW)
            started.order(RUN)
            started.reach_entry()
            started.enter()
            assert started.reach_exit() == 0
        started.finish()
        assert started.answer == b"halted"


def test_a_move_takes_effect_at_once() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with vcpu() as (started, _, _):
        started.move(cpus[-1])
        assert os.sched_getaffinity(started.pid) == {cpus[-1]}


def _fails(orders: socket.socket) -> None:
    orders.recv(1)
    raise RuntimeError("nothing to serve")


def test_a_failure_of_the_child_is_told() -> None:
    told = pytest.raises(VcpuProcessError, match="RuntimeError: nothing to serve")
    with process(_fails) as (started, _), told:
        started.ask(b"x")


def _ends(orders: socket.socket) -> None:
    orders.recv(1)


def test_an_end_of_the_child_is_told() -> None:
    with process(_ends) as (started, _):
        started.order(b"x")
        with pytest.raises(VcpuProcessError, match="the process ended"):
            started.reach_entry()


def test_the_child_has_no_descriptor_but_its_socket() -> None:
    def list_them(orders: socket.socket) -> None:
        orders.recv(1)
        orders.send(",".join(sorted(os.listdir("/proc/self/fd"))).encode())  # noqa: PTH208
        orders.recv(1)

    with process(list_them) as (started, _):
        # The list's own descriptor is the other.
        assert len(started.ask(b"x").split(b",")) == 2


def test_the_child_dies_with_its_parent() -> None:
    told, tells = os.pipe()
    parent = os.fork()
    if not parent:
        with process(OrderedVcpu().serve) as (started, _):
            os.write(tells, b"%d" % started.pid)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    child = int(os.read(told, 20))
    os.close(told)
    os.close(tells)
    while Path(f"/proc/{child}/stat").exists() and "Z" not in _state(child):
        os.sched_yield()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
