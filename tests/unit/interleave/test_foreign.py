"""A VMM's vCPU threads are found, counted and paused, without KVM: its calls are refused here."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from kvmtest.host.facts.vmm import Vmm
from kvmtest.interleave.foreign import TracedVcpus, VmmEnded
from kvmtest.interleave.tracer import Tracer

# Two threads that make KVM_RUN on what is no vCPU, and one that does not. Each call writes a byte.
VMM = """
import fcntl, os, sys, threading, time
def run(fd):
    while True:
        try:
            fcntl.ioctl(fd, 0xAE80)
        except OSError:
            pass
        try:
            os.write(1, b".")
        except BlockingIOError:
            pass
os.set_blocking(1, False)
for fd in (10, 11):
    os.dup2(os.open("/dev/null", os.O_RDONLY), fd)
    threading.Thread(target=run, args=(fd,), daemon=True).start()
sys.stdin.read()
os._exit(7)
"""


class Process:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", VMM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout
        self.pipe = self.process.stdout.fileno()
        assert os.read(self.pipe, 1) == b"."
        os.set_blocking(self.pipe, False)

    def goes_on(self) -> bool:
        """Tell whether a thread makes calls, after those made so far."""
        self.drain()
        return bool(select.select([self.pipe], [], [], 10)[0])

    def drain(self) -> None:
        try:
            while os.read(self.pipe, 1 << 16):
                pass
        except BlockingIOError:
            pass


@pytest.fixture
def vmm() -> Iterator[Process]:
    found = Process()
    yield found
    with found.process:
        found.process.kill()


def traced(tracer: Tracer, vmm: Process, known: dict[int, int] | None = None) -> TracedVcpus:
    vcpus = TracedVcpus(tracer, Vmm(vmm.process.pid, "vmm", {10: 0, 11: 1}))
    vcpus.seize(known or {}, 10)
    return vcpus


def test_the_threads_that_make_kvm_run_are_found_and_no_other_is_traced(vmm: Process) -> None:
    with Tracer() as tracer:
        vcpus = traced(tracer, vmm)
        assert vcpus.threads.keys() == {10, 11}
        assert len(set(vcpus.threads.values())) == 2
        assert tracer.tracees == set(vcpus.threads.values())
        assert vmm.process.pid not in tracer.tracees
        found = vcpus.threads
    with Tracer() as tracer:
        assert traced(tracer, vmm, found).threads == found
    assert vmm.goes_on()


def test_kvm_runs_are_counted(vmm: Process) -> None:
    with Tracer() as tracer:
        vcpus = traced(tracer, vmm)
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                select.select([vmm.pipe], [], [], 0.01)
                vmm.drain()

        reader = threading.Thread(target=read)
        reader.start()
        with vcpus.counting() as runs:
            vcpus.serve(0.3)
        stop.set()
        reader.join()
        # Nothing more is counted, and no system call stopped.
        before = dict(runs)
        vcpus.serve(0.05)
    assert runs == before
    assert runs.keys() == {10, 11}
    assert all(count > 1 for count in runs.values())


def test_a_paused_vmm_makes_no_call(vmm: Process) -> None:
    with Tracer() as tracer:
        vcpus = traced(tracer, vmm)
        with vcpus.paused():
            vmm.drain()
            assert not select.select([vmm.pipe], [], [], 0.1)[0]
        vcpus.serve(0.01)
        assert vmm.goes_on()
    assert vmm.goes_on()


def test_a_vmm_that_ends_is_told(vmm: Process) -> None:
    with Tracer() as tracer:
        vcpus = traced(tracer, vmm)
        assert vmm.process.stdin
        vmm.process.stdin.close()
        with pytest.raises(VmmEnded, match=r"\(vmm\) ended while it was watched"):
            vcpus.serve(10)
    assert vmm.process.wait(10) == 7
    with Tracer() as tracer, pytest.raises(VmmEnded, match="has ended"):
        traced(tracer, vmm)
