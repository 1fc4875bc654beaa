"""A real QEMU under KVM goes on as if nobody had watched it, however the watch ends."""

import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.counting_qemu import PATIENCE_S, CountingQemu, counting_qemu
from support.stand_in import command, environment, need_free_machine, run_kvmtest

from kvmtest.host.changes.lock import LockHeld
from kvmtest.host.facts.vmm import Vmm
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.interleave.foreign import TracedVcpus
from kvmtest.interleave.tracer import Tracer
from kvmtest.watch import WatchOptions, watch

SEED = 20261129
KILLS = 100


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[CountingQemu]:
    with counting_qemu(tmp_path) as found:
        yield found


def check_unwatched(qemu: CountingQemu) -> None:
    """Check that nobody traces or stops QEMU, and that its guest counts on."""
    for tid, status in qemu.threads().items():
        assert status["TracerPid"] == "0", f"thread {tid}"
        assert status["State"][0] not in "tT", f"thread {tid}: {status['State']}"
    qemu.await_counting()


def is_traced(qemu: CountingQemu) -> bool:
    return any(status["TracerPid"] != "0" for status in qemu.threads().values())


def traced(tracer: Tracer, qemu: CountingQemu) -> TracedVcpus:
    vmm = Vmm.of(Tree(), qemu.pid)
    vcpus = TracedVcpus(tracer, vmm)
    vcpus.seize(vmm.threads(Tree()), 5)
    return vcpus


def test_a_vcpu_s_thread_is_found_and_its_kvm_runs_are_counted(qemu: CountingQemu) -> None:
    with Tracer() as tracer:
        vcpus = traced(tracer, qemu)
        assert set(vcpus.vmm.vcpus.values()) == {0}
        assert tracer.tracees == set(vcpus.threads.values())
        outs = qemu.outs
        with vcpus.counting() as runs:
            vcpus.serve(0.5)
            outs = qemu.outs - outs
        (count,) = runs.values()
        # QEMU has the vCPU leave KVM_RUN for other reasons too.
        assert count >= outs - 1 > 0
    check_unwatched(qemu)


def test_a_paused_guest_stands_still_and_then_goes_on(qemu: CountingQemu) -> None:
    with Tracer() as tracer:
        vcpus = traced(tracer, qemu)
        for _ in range(20):
            with vcpus.paused():
                before = qemu.count
                select.select([], [], [], 0.01)
                assert qemu.count == before
            while qemu.count == before:
                vcpus.serve(0.001)
    check_unwatched(qemu)
    qemu.end()
    qemu.check_outs()


def test_qemu_handles_signals_while_it_is_watched(qemu: CountingQemu) -> None:
    with Tracer() as tracer:
        vcpus = traced(tracer, qemu)
        qemu.process.terminate()
        with pytest.raises(Exception, match="ended while it was watched"):
            vcpus.serve(30)
    assert qemu.process.wait(30) == 0


def watched(pid: int, seconds: float = 0.05) -> None:
    """Be a watch that never ends by itself."""
    while True:
        # The guardian of the watch that was killed before may still undo.
        with suppress(LockHeld):
            watch(Machine(Tree()), WatchOptions(pid, seconds=seconds, allow_other_vms=True))


def forked(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(70)
    return pid


def test_a_watch_that_is_killed_at_any_moment_leaves_qemu_as_it_was(qemu: CountingQemu) -> None:
    need_free_machine()
    rng = random.Random(SEED)
    met = 0
    for attempt in range(KILLS):
        pid = forked(lambda: watched(qemu.pid))
        pidfd = os.pidfd_open(pid)
        wait = rng.uniform(0, 0.3)
        if attempt % 2:
            # However slow this machine is, every other kill comes while the watch traces.
            end = time.monotonic() + PATIENCE_S
            while not is_traced(qemu):
                assert time.monotonic() < end, "the watch traces nobody"
            wait = rng.uniform(0, 0.03)
        assert not select.select([pidfd], [], [], wait)[0], "the watch has ended"
        met += is_traced(qemu)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, f"seed {SEED}, attempt {attempt}"
        os.close(pidfd)
        check_unwatched(qemu)
    assert met > KILLS / 3, "hardly a kill met a tracer"
    qemu.end()
    qemu.check_outs()


@pytest.mark.parametrize("words", [[], ["--no-stop"]])
def test_the_command_says_what_it_sees_and_lacks(qemu: CountingQemu, words: list[str]) -> None:
    need_free_machine()
    done = run_kvmtest("watch", qemu.pid, "--seconds", "0.2", "--allow-other-vms", *words)
    assert done.status in (0, 4), done.out + done.err
    assert f"qemu-system-x86 (pid {qemu.pid}), vCPUs: 1" in done.out
    if done.status == 4:
        assert "missing here" in done.out
    check_unwatched(qemu)
    qemu.end()
    qemu.check_outs()


def test_an_interrupted_watch_lets_qemu_go(qemu: CountingQemu) -> None:
    need_free_machine()
    words = command("watch", qemu.pid, "--seconds", "100", "--allow-other-vms")
    watch = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + PATIENCE_S
    while not any(status["TracerPid"] != "0" for status in qemu.threads().values()):
        assert watch.poll() is None, watch.communicate()
        assert time.monotonic() < until
        qemu.await_counting()
    watch.send_signal(signal.SIGINT)
    assert "interrupted; the host is as it was" in watch.communicate(timeout=PATIENCE_S)[1]
    assert watch.returncode == 130
    check_unwatched(qemu)


def test_another_process_traces_nobody_twice(qemu: CountingQemu) -> None:
    with Tracer() as tracer:
        traced(tracer, qemu)
        done = run_kvmtest("watch", qemu.pid, "--toggles", "0", "--seconds", "0.1")
    assert done.status == 3
    assert "traces it already" in done.complaint
    check_unwatched(qemu)
