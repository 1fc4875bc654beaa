"""A spinning guest runs in one KVM_RUN beside its onlooker, and takes commands again afterwards."""

import os
import threading

import pytest

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.guests import Guest, Mailbox, Spinning, commands
from kvmtest.kvm import DebugExit, Stopped


def cpu() -> int:
    return max(os.sched_getaffinity(0))


@pytest.fixture
def guest(each_guest: Guest) -> Guest:
    return each_guest


def entries_to_spin(guest: Guest) -> int:
    """Return how many KVM_RUNs it takes until the guest spins in the last of them."""
    # Registers: 15 exits of the command before, and 6 that ask for the one that spins.
    return 1 if isinstance(guest.transport, Mailbox) else 1 + 15 + 6


def test_a_guest_spins_in_one_run_and_takes_commands_again(guest: Guest) -> None:
    before = guest.vcpu.entries
    with Spinning(guest, cpu()) as spinning:
        assert spinning.is_running
        assert spinning.task != threading.get_native_id()
        assert os.sched_getaffinity(spinning.task) == {cpu()}
        assert guest.transport.has_begun(1)
        while guest.vcpu.entries < before + entries_to_spin(guest):
            pass
        assert guest.vcpu.entries == before + entries_to_spin(guest)
    assert isinstance(spinning.exit, Stopped)
    assert threading.active_count() == 1
    spinning.release()
    (result,) = guest.execute(commands.rdmsr(0x10))
    assert result.value


def test_a_guest_spins_again_and_again(guest: Guest) -> None:
    cpus = os.sched_getaffinity(0)
    for _ in range(3):
        with Spinning(guest, cpu()) as spinning:
            assert spinning.is_running
        spinning.release()
    assert os.sched_getaffinity(0) == cpus, "the onlooker's own CPUs"


def test_an_error_in_the_block_stops_the_guest_and_comes_out(guest: Guest) -> None:
    with pytest.raises(ZeroDivisionError), Spinning(guest, cpu()):
        raise ZeroDivisionError
    assert threading.active_count() == 1


def test_a_guest_that_does_not_spin_is_told(guest: Guest) -> None:
    guest.vcpu.stop()
    with pytest.raises(KvmtestError, match="does not spin"), Spinning(guest, cpu()):
        pass
    assert threading.active_count() == 1


def test_a_guest_that_comes_back_by_itself_is_told(guest: Guest) -> None:
    spinning = Spinning(guest, cpu())

    def end() -> None:
        with spinning:
            guest.vcpu.stop()
            while spinning.is_running:
                pass
            spinning.exit = None

    with pytest.raises(KvmtestError, match="came back with None"):
        end()


def test_a_cpu_that_is_not_there_is_told(guest: Guest) -> None:
    with pytest.raises(KvmtestError, match="can't run on CPU 8191"), Spinning(guest, 8191):
        pass
    assert threading.active_count() == 1


def step(guest: Guest) -> None:
    """Execute one instruction, or serve an exit of the transport, which is then still pending."""
    exit_ = guest.vcpu.run()
    if not guest.transport.serve(guest.vcpu, exit_):
        assert isinstance(exit_, DebugExit)


@pytest.mark.parametrize("later", range(4))
def test_a_guest_is_released_wherever_it_is_stopped_once_it_has_begun(
    guest: Guest, later: int
) -> None:
    guest.vcpu.complete()
    guest.transport.send([commands.nop(), commands.spin()])
    guest.vcpu.set_guest_debug(lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_SINGLESTEP)
    while not guest.transport.has_begun(1):
        step(guest)
    for _ in range(later):
        step(guest)
    guest.vcpu.set_guest_debug(0)
    Spinning(guest, cpu()).release()
    assert len(guest.transport.receive()) == 2
    (result,) = guest.execute(commands.rdmsr(0x10))
    assert result.value
