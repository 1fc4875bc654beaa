import ctypes
import os
import random
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmtest.interleave.tracer import (
    Cloned,
    Executed,
    Exited,
    Exiting,
    Gone,
    GroupStop,
    Interrupted,
    Killed,
    SignalDelivery,
    Stop,
    SyscallEntry,
    SyscallExit,
    Tracer,
    TracerError,
)

SYS_READ, SYS_EXECVE, SYS_GETPPID, SYS_EPOLL_WAIT = 0, 59, 110, 232

# It writes a byte for each turn, as fast as the reader takes them.
COUNTING = "while :; do echo; done"


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen]:
    """A process, killed in the end."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield started
    finally:
        started.kill()
        started.stdout.close()
        started.wait()


@contextmanager
def counting(first: str = "") -> Iterator[subprocess.Popen]:
    with process("sh", "-c", first + COUNTING) as started:
        assert beats(started)
        yield started


@contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """A child that does some work and exits with 0; killed in the end."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@contextmanager
def traced(work: Callable[[], None]) -> Iterator[tuple[Tracer, int]]:
    """A child, seized before it begins its work."""
    shut, gate = os.pipe()

    def gated() -> None:
        os.read(shut, 1)
        work()

    with forked(gated) as pid, Tracer() as tracer:
        tracer.seize(pid, follow_threads=True, follow_processes=True)
        tracer.interrupt(pid)
        stop = tracer.wait(60)
        assert stop == Interrupted(pid)
        os.write(gate, b"x")
        tracer.resume(stop)
        yield tracer, pid
    os.close(shut)
    os.close(gate)


def stops(tracer: Tracer, until: type[Stop] | tuple[type[Stop], ...]) -> Iterator[Stop]:
    """All stops up to one of a kind, each resumed when the next is asked for."""
    while stop := tracer.wait(60):
        yield stop
        tracer.resume(stop)
        if isinstance(stop, until):
            return
    raise AssertionError("no stop came")


def to_the_end(tracer: Tracer) -> Iterator[Stop]:
    """All stops until nothing is traced."""
    while tracer.tracees:
        stop = tracer.wait(60)
        assert stop is not None
        yield stop
        tracer.resume(stop)


def beats(started: subprocess.Popen) -> bool:
    """Whether a counting process goes on: more comes than the pipe can hold."""
    for _ in range(20):
        if not select.select([started.stdout], [], [], 30)[0]:
            return False
        if not os.read(started.stdout.fileno(), 1 << 16):
            return False
    return True


def drain(started: subprocess.Popen) -> None:
    while select.select([started.stdout], [], [], 0)[0]:
        os.read(started.stdout.fileno(), 1 << 16)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def threads_of(pid: int) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()}


def is_traced(tid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{tid}/status").read_text()


def getppid() -> int:
    return ctypes.CDLL(None, use_errno=True).syscall(SYS_GETPPID)


def test_a_system_call_stops_at_its_entry_and_its_exit() -> None:
    with traced(lambda: [os.getppid() for _ in range(3)]) as (tracer, pid):
        seen = list(stops(tracer, Exited))
    entries = [stop for stop in seen if isinstance(stop, SyscallEntry)]
    assert sum(stop.number == SYS_GETPPID for stop in entries) == 3
    exits = [stop for stop in seen if isinstance(stop, SyscallExit)]
    of_getppid = [stop for stop in exits if stop.entry and stop.entry.number == SYS_GETPPID]
    assert [stop.result for stop in of_getppid] == [os.getpid()] * 3
    assert all(stop.tid == pid for stop in seen)
    assert seen[-2:] == [Exiting(pid, 0), Exited(pid, 0)]


def test_an_exit_has_its_entrys_arguments_and_a_negative_errno() -> None:
    def work() -> None:
        ctypes.CDLL(None).read(999, None, 7)

    with traced(work) as (tracer, _):
        (failed,) = (
            stop
            for stop in stops(tracer, Exited)
            if isinstance(stop, SyscallExit) and stop.entry and stop.entry.arguments[0] == 999
        )
    assert failed.result == -9  # EBADF
    assert failed.entry.number == SYS_READ
    assert failed.entry.arguments[2] == 7


def test_a_tracer_answers_a_system_call_itself() -> None:
    def work() -> None:
        assert getppid() == 4242

    with traced(work) as (tracer, pid):
        for stop in stops(tracer, Exited):
            if isinstance(stop, SyscallEntry) and stop.number == SYS_GETPPID:
                assert tracer.registers(pid)["orig_rax"] == SYS_GETPPID
                tracer.set_registers(pid, orig_rax=-1)
                tracer.resume(stop)
                answer = tracer.wait(60)
                assert isinstance(answer, SyscallExit)
                assert answer.entry == stop
                tracer.set_registers(pid, rax=4242)
                tracer.resume(answer)
    assert stop == Exited(pid, 0)


def test_memory_is_read_and_written() -> None:
    buffer = ctypes.create_string_buffer(b"before")
    address = ctypes.addressof(buffer)

    def work() -> None:
        getppid()
        assert buffer.value == b"after!"

    with traced(work) as (tracer, pid):
        for stop in stops(tracer, Exited):
            if isinstance(stop, SyscallEntry) and stop.number == SYS_GETPPID:
                assert tracer.read(pid, address, 6) == b"before"
                tracer.write(pid, address, b"after!")
                with pytest.raises(TracerError, match="no 4 bytes at 0x10 of thread"):
                    tracer.read(pid, 0x10, 4)
                with pytest.raises(TracerError, match="no 2 bytes at 0x10 of thread"):
                    tracer.write(pid, 0x10, b"no")
    assert stop == Exited(pid, 0)
    assert buffer.value == b"before"


def test_signals_are_passed_on() -> None:
    got: list[int] = []

    def work() -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGUSR1)
        assert len(got) == 5

    with traced(work) as (tracer, pid):
        seen = list(stops(tracer, Exited))
    assert [stop for stop in seen if isinstance(stop, SignalDelivery)] == [
        SignalDelivery(pid, signal.SIGUSR1)
    ] * 5
    assert seen[-1] == Exited(pid, 0)


def test_a_signal_can_be_withheld() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with traced(work) as (tracer, pid):
        for stop in stops(tracer, (Exited, Killed)):
            if isinstance(stop, SignalDelivery):
                tracer.resume(stop, signum=0)
    assert stop == Exited(pid, 0)


def test_a_signal_that_kills_ends_the_tracing() -> None:
    with traced(lambda: os.kill(os.getpid(), signal.SIGTERM)) as (tracer, pid):
        seen = list(stops(tracer, Killed))
        assert seen[-1] == Killed(pid, signal.SIGTERM)
        assert not tracer.tracees
        with pytest.raises(Gone, match="nothing is traced"):
            tracer.wait(0)


def test_threads_and_processes_are_followed() -> None:
    def work() -> None:
        thread = threading.Thread(target=os.getppid)
        thread.start()
        thread.join()
        subprocess.run(["/bin/true"], check=True)

    with traced(work) as (tracer, pid):
        seen = list(to_the_end(tracer))
    births = [stop for stop in seen if isinstance(stop, Cloned)]
    assert births[0].how == "clone"
    assert births[-1].how in ("vfork", "fork")
    executed = [stop for stop in seen if isinstance(stop, Executed)]
    assert executed == [Executed(births[-1].child, births[-1].child)]
    of_thread = [stop for stop in seen if stop.tid == births[0].child]
    assert of_thread[0] == Interrupted(births[0].child)
    assert any(isinstance(s, SyscallEntry) and s.number == SYS_GETPPID for s in of_thread)
    assert Exited(pid, 0) in seen


def test_a_thread_that_executes_takes_its_processs_place() -> None:
    def work() -> None:
        threading.Thread(target=lambda: os.execv("/bin/true", ["true"])).start()
        signal.pause()

    with traced(work) as (tracer, pid):
        seen = list(to_the_end(tracer))
    (thread,) = (stop.child for stop in seen if isinstance(stop, Cloned))
    assert Executed(pid, thread) in seen
    assert seen[-1] == Exited(pid, 0)


def test_memory_is_the_new_programs_after_execve() -> None:
    with traced(lambda: os.execv("/bin/true", ["true"])) as (tracer, pid):
        for kind in (Executed, Exiting):
            for _ in stops(tracer, kind):
                top = tracer.registers(pid)["rsp"]
                assert len(tracer.read(pid, top, 8)) == 8


def test_a_thread_that_is_just_born_is_let_go_too() -> None:
    def work() -> None:
        threading.Thread(target=signal.pause).start()
        signal.pause()

    with traced(work) as (tracer, pid):
        # Not resumed: of the thread no stop has been taken.
        while not isinstance(stop := tracer.wait(60), Cloned):
            tracer.resume(stop)
        tracer.detach_all()
        assert len(threads_of(pid)) == 2
        assert not any(is_traced(tid) for tid in threads_of(pid))


def test_a_command_is_traced_from_before_its_execve() -> None:
    with Tracer() as tracer:
        started = tracer.start(["/bin/echo", "hello"], stdout=subprocess.PIPE)
        seen = list(to_the_end(tracer))
        assert started.stdout.read() == b"hello\n"
        started.stdout.close()
        started.wait()
    execve = next(s for s in seen if isinstance(s, SyscallEntry) and s.number == SYS_EXECVE)
    assert seen.index(execve) < seen.index(Executed(started.pid, started.pid))
    assert seen[-1] == Exited(started.pid, 0)


def test_a_command_that_does_not_exist_fails_as_in_the_shell() -> None:
    with Tracer() as tracer:
        started = tracer.start(["/does/not/exist"], stderr=subprocess.DEVNULL)
        *_, last = to_the_end(tracer)
        started.wait()
    assert last == Exited(started.pid, 127)


def test_a_stopped_process_stays_stopped_until_it_is_continued() -> None:
    with counting() as counter, Tracer() as tracer:
        tracer.seize(counter.pid)
        os.kill(counter.pid, signal.SIGSTOP)
        seen = []
        for stop in stops(tracer, GroupStop):
            seen.append(stop)
        assert seen == [
            SignalDelivery(counter.pid, signal.SIGSTOP),
            GroupStop(counter.pid, signal.SIGSTOP),
        ]
        drain(counter)
        assert not beats_at_once(counter)
        os.kill(counter.pid, signal.SIGCONT)
        assert tracer.wait(60) is not None
        tracer.detach_all()
        assert beats(counter)


def beats_at_once(started: subprocess.Popen) -> bool:
    return bool(select.select([started.stdout], [], [], 0.1)[0])


def test_detaching_in_a_group_stop_leaves_the_process_stopped() -> None:
    with counting() as counter, Tracer() as tracer:
        tracer.seize(counter.pid)
        os.kill(counter.pid, signal.SIGSTOP)
        for _ in stops(tracer, GroupStop):
            pass
        tracer.detach_all()
        _, status = os.waitpid(counter.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(counter.pid, signal.SIGCONT)
        assert beats(counter)


@pytest.mark.parametrize("syscalls", [False, True])
def test_a_tracee_that_is_let_go_goes_on(syscalls: bool) -> None:
    with counting() as counter, Tracer() as tracer:
        for turn in range(50):
            tracer.seize(counter.pid)
            if syscalls:
                tracer.interrupt(counter.pid)
                for _ in range(turn % 7):
                    stop = tracer.wait(60)
                    tracer.resume(stop)
                    drain(counter)
            tracer.detach(counter.pid)
            assert not tracer.tracees
        assert beats(counter)
        assert not is_traced(counter.pid)


def test_a_signal_on_its_way_reaches_a_tracee_that_is_let_go() -> None:
    with counting("trap 'exit 7' USR1; ") as counter, Tracer() as tracer:
        tracer.seize(counter.pid)
        os.kill(counter.pid, signal.SIGUSR1)
        assert tracer.wait(60) == SignalDelivery(counter.pid, signal.SIGUSR1)
        tracer.detach(counter.pid)
        while os.read(counter.stdout.fileno(), 1 << 16):
            pass
        assert counter.wait() == 7


@contextmanager
def in_epoll_wait(work: Callable[[], None]) -> Iterator[tuple[Tracer, int, int]]:
    """A tracee in epoll_wait(2), which as KVM_RUN returns EINTR after any stop; and its gate."""
    shut, gate = os.pipe()

    def waiting() -> None:
        work()
        epoll = select.epoll()
        epoll.register(shut, select.EPOLLIN)
        event = ctypes.create_string_buffer(12)
        result = ctypes.CDLL(None, use_errno=True).epoll_wait(epoll.fileno(), event, 1, -1)
        os._exit(100 + result)

    with traced(waiting) as (tracer, pid):
        for stop in to_the_end(tracer):
            if isinstance(stop, SyscallEntry) and stop.number == SYS_EPOLL_WAIT:
                tracer.resume(stop)
                break
        yield tracer, pid, gate
    os.close(shut)
    os.close(gate)


@pytest.mark.parametrize("syscalls", [False, True])
def test_an_interruption_can_be_hidden_from_a_system_call(syscalls: bool) -> None:
    with in_epoll_wait(lambda: None) as (tracer, pid, gate):
        for _ in range(20):
            tracer.interrupt(pid)
            while not isinstance(stop := tracer.wait(60), Interrupted | SyscallExit):
                tracer.resume(stop)
            tracer.restart_interrupted(stop)
            tracer.resume(stop, syscalls=syscalls)
            if syscalls:
                again = tracer.wait(60)
                assert isinstance(again, SyscallEntry)
                assert again.number == SYS_EPOLL_WAIT
                tracer.resume(again)
        os.write(gate, b"x")
        *_, last = to_the_end(tracer)
        assert last == Exited(pid, 101)


@pytest.mark.parametrize("syscalls", [False, True])
def test_a_signals_interruption_is_not_hidden(syscalls: bool) -> None:
    def handle() -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)

    with in_epoll_wait(handle) as (tracer, pid, _):
        tracer.interrupt(pid)
        stop = tracer.wait(60)
        os.kill(pid, signal.SIGUSR1)
        tracer.restart_interrupted(stop)
        tracer.resume(stop, syscalls=syscalls)
        *_, last = to_the_end(tracer)
        assert last == Exited(pid, 99)


def test_letting_go_hides_its_interruption() -> None:
    with in_epoll_wait(lambda: None) as (tracer, pid, gate):
        for syscalls in (True, False) * 10:
            tracer.detach(pid)
            tracer.seize(pid)
            tracer.interrupt(pid)
            stop = tracer.wait(60)
            tracer.restart_interrupted(stop)
            tracer.resume(stop, syscalls=syscalls)
        tracer.detach(pid)
        os.write(gate, b"x")
        _, status = os.waitpid(pid, 0)
        assert os.WEXITSTATUS(status) == 101


def test_wait_gives_up() -> None:
    with forked(signal.pause) as pid, Tracer() as tracer:
        tracer.seize(pid)
        assert tracer.wait(0.05) is None
        assert signal.SIGCHLD not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_threads_that_run_already_are_seized() -> None:
    def work() -> None:
        for _ in range(4):
            threading.Thread(target=signal.pause).start()
        os.write(ready, b"x")
        signal.pause()

    waiting, ready = os.pipe()
    with forked(work) as pid:
        os.read(waiting, 1)
        with Tracer() as tracer:
            for tid in threads_of(pid):
                tracer.seize(tid)
            assert len(tracer.tracees) == 5
        assert not any(is_traced(tid) for tid in threads_of(pid))
    os.close(waiting)
    os.close(ready)


def test_what_can_not_be_traced_is_told() -> None:
    with Tracer() as tracer:
        with process("sleep", "1000") as sleeping:
            tracer.seize(sleeping.pid)
            with pytest.raises(TracerError) as error:
                _in_another_thread(lambda: Tracer().seize(sleeping.pid))
            assert f"task {threading.get_native_id()} traces it already" in str(error.value)
            with pytest.raises(RuntimeError, match="belongs to the thread"):
                _in_another_thread(lambda: tracer.wait(0))
            tracer.detach_all()
        with pytest.raises(Gone):
            tracer.seize(sleeping.pid)
        with pytest.raises(TracerError, match="can't be traced"):
            tracer.seize(os.getpid())


def _in_another_thread(call: Callable[[], object]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except (TracerError, RuntimeError) as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in raised:
        raise error


TRACER = """
import sys
from kvmtest.interleave.tracer import Tracer
print(flush=True)
with Tracer() as tracer:
    tracer.seize(int(sys.argv[1]))
    for tid in tracer.tracees:
        tracer.interrupt(tid)
    while True:
        stop = tracer.wait()
        print(flush=True)
        tracer.resume(stop)
"""


def test_a_tracer_that_is_killed_at_any_point_leaves_the_tracee_running() -> None:
    chance = random.Random(16)
    with counting() as counter:
        for _ in range(25):
            with process(sys.executable, "-c", TRACER, str(counter.pid)) as tracer:
                for _ in range(chance.choice((1, 1, 2, 3, 10, 100))):
                    # It is told of from here on: before it seizes, as it does, at its stops.
                    drain(counter)
                    os.read(tracer.stdout.fileno(), 1)
                    for _ in range(chance.randrange(2000)):
                        pass
                tracer.kill()
                tracer.wait()
                assert beats(counter)
