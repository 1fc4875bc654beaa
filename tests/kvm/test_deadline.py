"""Deadlines, stops and signals: whatever the guest does, its thread comes back."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from kvmtest._native import lib
from kvmtest.guests import Guest, commands
from kvmtest.kvm import Deadline, Exit, HltExit, IoExit, Signal, Stopped, System, Vcpu, Vm

MakeVcpu = Callable[[bytes], Vcpu]
NewGuest = Callable[[Vm], Guest]

SPIN = b"\xeb\xfe"
RING_FOR_EVER = b"\xe6\x10\xeb\xfc"
#: How late a vCPU may come back, in seconds, without the time that its thread waits for a CPU.
LATE = 0.010
TRIES = 100


def timed(run: Callable[[], Exit]) -> tuple[Exit, float]:
    start = time.monotonic()
    result = run()
    return result, time.monotonic() - start


def waited() -> float:
    """Return for how many seconds this thread has been ready to run and had no CPU (proc(5))."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def lateness(vcpu: Vcpu, timeout: float) -> float:
    """Run a vCPU to its deadline; return how late it is back, were no other thread on its CPU."""
    before = waited()
    exit_, took = timed(lambda: vcpu.run(timeout))
    assert exit_ == Deadline(timeout)
    assert took >= timeout
    return took - timeout - (waited() - before)


def is_prompt(late: Callable[[], float]) -> bool:
    """Tell whether one of many tries is less late than LATE: others on the machine only add."""
    return any(late() < LATE for _ in range(TRIES))


@pytest.fixture
def spinner(real_code: MakeVcpu) -> Vcpu:
    """A vCPU that spins for ever with interrupts on."""
    return real_code(SPIN)


@pytest.mark.parametrize("timeout", [0.0005, 0.005, 0.05])
def test_a_spin_is_back_within_10_ms_of_its_deadline(spinner: Vcpu, timeout: float) -> None:
    assert is_prompt(lambda: lateness(spinner, timeout))


def test_the_64_bit_guest_is_brought_back_too(guest: Guest) -> None:
    guest.transport.send([commands.spin()])
    assert is_prompt(lambda: lateness(guest.vcpu, 0.01))
    assert guest.vcpu.get_regs().rip == guest.image.symbols["spin"]


def test_after_a_deadline_the_guest_goes_on_where_it_was(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\x66\x40\xeb\xfc")  # inc %eax, for ever
    turns = [0]
    for _ in range(10):
        assert vcpu.run(0.002) == Deadline(0.002)
        regs = vcpu.get_regs()
        assert regs.rip in (0x1000, 0x1002)
        turns.append(regs.rax)
    assert turns == sorted(set(turns))


def test_a_deadline_of_0_brings_even_a_ready_guest_back(spinner: Vcpu) -> None:
    for _ in range(100):
        assert spinner.run(0) == Deadline(0)


def test_a_deadline_of_0_completes_what_is_pending(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10\xf4")
    vcpu.run()
    assert vcpu.run(0) == Deadline(0)
    assert vcpu.get_regs().rip == 0x1002


@pytest.mark.parametrize("timeout", [-1e-9, float("nan"), float("inf"), 3601, -5])
def test_a_timeout_that_is_none_is_refused(spinner: Vcpu, timeout: float) -> None:
    with pytest.raises(ValueError, match="a run's timeout is 0 to 3600 seconds"):
        spinner.run(timeout)
    with pytest.raises(ValueError, match="a run's timeout is"):
        spinner.run_loop(0x10, timeout=timeout)
    assert spinner.entries == 0


@pytest.mark.parametrize(
    "timeouts",
    [
        [0.02, 0.002, 0.02, 0.001],  # short after long: the timer is set earlier
        [0.001, 0.02, 0.002, 0.03],  # long after short
        [0.003] * 5,
        [0, 0.005, 0, 0.001, 0],
    ],
)
def test_one_thread_with_different_deadlines_in_turn(spinner: Vcpu, timeouts: list[float]) -> None:
    assert is_prompt(lambda: max(lateness(spinner, timeout) for timeout in timeouts))


def test_a_timer_left_armed_by_a_short_run_does_not_end_a_longer_one(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10" + SPIN)
    assert isinstance(vcpu.run(0.004), IoExit)  # its timer stays armed for 4 ms
    exit_, took = timed(lambda: vcpu.run(0.02))
    assert exit_ == Deadline(0.02)
    assert took >= 0.02


def test_a_timer_that_fires_between_runs_does_no_harm(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10" * 3 + SPIN)
    for _ in range(3):
        assert isinstance(vcpu.run(0.001), IoExit)
        due = time.monotonic() + 0.003
        while time.monotonic() < due:
            pass
    exit_, took = timed(lambda: vcpu.run(0.005))
    assert exit_ == Deadline(0.005)
    assert took >= 0.005


def test_a_timer_left_armed_does_not_disturb_other_system_calls(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10" * 2)
    vcpu.run(0.002)
    reader, writer = os.pipe()
    # PEP 475 repeats calls that a signal interrupts; a read here that is restarted is not seen.
    timer = threading.Timer(0.01, lambda: os.write(writer, b"x"))
    timer.start()
    assert os.read(reader, 1) == b"x"
    timer.join()
    os.close(reader)
    os.close(writer)


def test_thousands_of_short_runs_never_come_back_as_anything_else(real_code: MakeVcpu) -> None:
    vcpu = real_code(RING_FOR_EVER)
    expected = IoExit(0x10, True, 1, 1, b"\0")
    timeouts = itertools.cycle([1.0, 0.5, 2.0, 3600])
    for _ in range(5000):
        assert vcpu.run(next(timeouts)) == expected


def test_short_runs_whose_timer_fires_now_and_then_are_not_cut(real_code: MakeVcpu) -> None:
    vcpu = real_code(RING_FOR_EVER)
    seen = {type(vcpu.run(0.05)) for _ in range(5000)}  # the timer fires every 50 ms or so
    assert seen == {IoExit}


def test_a_guest_that_exits_with_its_deadline_close_is_one_or_the_other(
    real_code: MakeVcpu,
) -> None:
    vcpu = real_code(RING_FOR_EVER)
    for at in range(500):
        assert isinstance(vcpu.run(at * 1e-7), IoExit | Deadline)
    assert vcpu.run() == IoExit(0x10, True, 1, 1, b"\0")


def test_threads_with_their_own_vcpus_have_their_own_deadlines(
    system: System, new_guest: NewGuest
) -> None:
    timeouts = [0.004, 0.011, 0.023, 0.037]
    in_time: set[float] = set()

    def work(timeout: float) -> None:
        with system.create_vm() as vm:
            guest = new_guest(vm)
            guest.boot()
            guest.transport.send([commands.spin()])
            for _ in range(TRIES):
                exit_, took = timed(lambda: guest.vcpu.run(timeout))
                assert exit_ == Deadline(timeout)
                # More vCPUs than CPUs: each waits for the others' time slices.
                if 0 <= took - timeout < 0.05:
                    in_time.add(timeout)
                    break

    threads = [threading.Thread(target=work, args=(timeout,)) for timeout in timeouts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert in_time == set(timeouts)


def test_a_vcpu_can_be_run_by_one_thread_after_another(spinner: Vcpu) -> None:
    seen: list[Exit] = [spinner.run(0.002)]
    for _ in range(3):
        thread = threading.Thread(target=lambda: seen.append(spinner.run(0.002)))
        thread.start()
        thread.join()
    seen.append(spinner.run(0.002))
    assert seen == [Deadline(0.002)] * 5


def test_many_threads_come_and_go_without_leaving_timers(spinner: Vcpu) -> None:
    def timers() -> int:
        with open("/proc/self/timers") as file:  # noqa: PTH123
            return sum(line.startswith("ID:") for line in file)

    if not os.path.exists("/proc/self/timers"):  # noqa: PTH110
        pytest.skip("needs /proc/PID/timers (CONFIG_CHECKPOINT_RESTORE)")
    spinner.run(0)
    before = timers()
    for _ in range(20):
        thread = threading.Thread(target=lambda: spinner.run(0.0001))
        thread.start()
        thread.join()
    # A thread's last steps come after its join.
    due = time.monotonic() + 5
    while timers() != before and time.monotonic() < due:
        pass
    assert timers() == before


def test_a_forked_child_has_deadlines_of_its_own(system: System) -> None:
    program = """
import os
from kvmtest.kvm import System
def spin():
    with System() as system, system.create_vm() as vm:
        vm.add_memory(0x1000).write(0, bytes([0xEB, 0xFE]))
        vcpu = vm.create_vcpu()
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        regs = vcpu.get_regs()
        regs.rip, regs.rflags = 0, 0x202
        vcpu.set_regs(regs)
        print(vcpu.run(0.005), flush=True)
spin()
if os.fork() == 0:
    spin()
    os._exit(0)
os.wait()
spin()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout == "Deadline(timeout=0.005)\n" * 3


# Stops


@contextmanager
def in_thread(vcpu: Vcpu, timeout: float = 30.0) -> Iterator[list[tuple[Exit, float]]]:
    """Run a vCPU in a thread, and give a list that takes its exit and when it came."""
    came: list[tuple[Exit, float]] = []
    entries = vcpu.entries
    thread = threading.Thread(
        target=lambda: came.append((vcpu.run(timeout), time.monotonic())), daemon=True
    )
    thread.start()
    while vcpu.entries == entries and thread.is_alive():
        pass
    yield came
    thread.join(timeout)
    assert not thread.is_alive()


def test_stop_ends_a_spin_at_once(spinner: Vcpu) -> None:
    def late() -> float:
        with in_thread(spinner) as came:
            stopped = time.monotonic()
            spinner.stop()
        spinner.clear_stop()
        [(exit_, when)] = came
        assert exit_ == Stopped()
        return when - stopped

    assert is_prompt(late)


def test_a_stop_stays_until_it_is_cleared(spinner: Vcpu) -> None:
    with in_thread(spinner):
        spinner.stop()
    entries = spinner.entries
    for _ in range(3):
        assert spinner.run() == Stopped()
    assert spinner.entries == entries
    spinner.clear_stop()
    assert spinner.run(0.002) == Deadline(0.002)


def test_a_stop_before_the_run_is_not_lost(spinner: Vcpu) -> None:
    spinner.stop()
    assert spinner.run() == Stopped()


def test_a_stop_that_is_cleared_before_the_run_is_forgotten(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10\xf4")
    vcpu.stop()
    vcpu.clear_stop()
    assert vcpu.run() == IoExit(0x10, True, 1, 1, b"\0")
    vcpu.stop()
    vcpu.clear_stop()
    assert vcpu.run() == HltExit()


def test_no_stop_is_ever_lost(real_code: MakeVcpu) -> None:
    """Stops at any moment of a run of many short entries."""
    vcpu = real_code(RING_FOR_EVER)
    for round_ in range(300):
        go = threading.Event()

        def stop(delay: int = round_ % 50, go: threading.Event = go) -> None:
            go.wait()
            for _ in range(delay):
                pass
            vcpu.stop()

        thread = threading.Thread(target=stop)
        thread.start()
        go.set()
        assert vcpu.run_loop(0x10, timeout=10).exit == Stopped()
        thread.join()
        vcpu.clear_stop()


def test_a_stop_cleared_at_once_is_never_taken_for_a_foreign_signal(real_code: MakeVcpu) -> None:
    vcpu = real_code(SPIN)
    done = threading.Event()

    def flicker() -> None:
        while not done.is_set():
            vcpu.stop()
            vcpu.clear_stop()

    thread = threading.Thread(target=flicker)
    thread.start()
    seen = {type(vcpu.run(0.002)) for _ in range(100)}
    done.set()
    thread.join()
    assert seen <= {Stopped, Deadline}
    assert vcpu.run(0.002) == Deadline(0.002)


def test_clearing_a_stop_never_costs_a_deadline(spinner: Vcpu) -> None:
    done = threading.Event()

    def clear() -> None:
        while not done.is_set():
            spinner.clear_stop()

    thread = threading.Thread(target=clear)
    thread.start()
    try:
        for at in range(200):
            timeout = at * 1e-7
            exit_, took = timed(lambda timeout=timeout: spinner.run(timeout))  # type: ignore[misc]
            assert exit_ == Deadline(timeout)
            assert took < 1
    finally:
        done.set()
        thread.join()


def test_a_stop_of_one_vcpu_leaves_the_others_running(real_code: MakeVcpu) -> None:
    one, two = real_code(SPIN), real_code(SPIN)
    two.stop()
    assert one.run(0.003) == Deadline(0.003)
    assert two.run(0.003) == Stopped()


# Signals


@pytest.fixture
def on_alarm() -> Iterator[list[int]]:
    """SIGALRM has a Python handler, which notes each."""
    seen: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGALRM, handler)
    yield seen
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_foreign_signal_ends_a_spin_and_its_handler_has_run(
    spinner: Vcpu, on_alarm: list[int]
) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    exit_, took = timed(lambda: spinner.run(10))
    assert (exit_, on_alarm) == (Signal(), [signal.SIGALRM])
    assert took < 5
    assert spinner.run(0.002) == Deadline(0.002)


def test_a_foreign_signal_ends_a_run_loop(real_code: MakeVcpu, on_alarm: list[int]) -> None:
    vcpu = real_code(RING_FOR_EVER + SPIN)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    loop = vcpu.run_loop(0x11, timeout=10)  # the first OUT ends it
    assert isinstance(loop.exit, IoExit)
    signal.setitimer(signal.ITIMER_REAL, 0)
    spinner = vcpu
    regs = spinner.get_regs()
    regs.rip = 0x1000 + len(RING_FOR_EVER)
    spinner.complete()
    spinner.set_regs(regs)
    on_alarm.clear()
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    assert spinner.run_loop(0x10, timeout=10).exit == Signal()
    assert on_alarm == [signal.SIGALRM]


def test_a_signal_does_not_move_the_deadline(spinner: Vcpu, on_alarm: list[int]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    seen = [spinner.run(0.05) for _ in range(5)]
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert Signal() in seen
    assert on_alarm
    assert spinner.run(0.002) == Deadline(0.002)


def test_an_interrupt_from_the_keyboard_gets_out_of_a_spin(spinner: Vcpu) -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.setitimer(signal.ITIMER_REAL, 0)

    def press() -> None:
        entries = spinner.entries
        while spinner.entries == entries:
            pass
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=press)
    try:
        thread.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            spinner.run(10)
        assert time.monotonic() - start < 5
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert spinner.run(0.002) == Deadline(0.002)


def test_an_exception_from_a_handler_leaves_the_vcpu_usable(spinner: Vcpu) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("from the handler")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        with pytest.raises(TimeoutError, match="from the handler"):
            spinner.run(10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert spinner.run(0.002) == Deadline(0.002)
    assert lib.RUN_EXIT == 0
