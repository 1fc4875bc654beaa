"""Commands go to a guest over each transport, and their results come back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.guests import Command, Guest, Mailbox, commands, long_guest, private_guest
from kvmtest.kvm import Cpuid, Memory, System, Vm

word = st.integers(0, 2**64 - 1)

SYSENTER_EIP, BOGUS = 0x176, 0x4B564D99
#: Exits that registers need for the end of a list, and for a command with its result.
EXITS_AT_END, EXITS_PER_COMMAND = 1, 15


@pytest.fixture
def guest(each_guest: Guest) -> Guest:
    return each_guest


def test_a_full_list_has_a_result_for_each(guest: Guest) -> None:
    results = guest.execute(*[commands.nop()] * lib.MAILBOX_CAPACITY)
    assert len(results) == lib.MAILBOX_CAPACITY
    assert all(result.fault is None for result in results)


def test_no_commands_have_no_results(guest: Guest) -> None:
    assert guest.execute() == []


def test_a_command_that_the_guest_does_not_know_is_an_error(guest: Guest) -> None:
    with pytest.raises(KvmtestError, match="does not know a command"):
        guest.execute(Command(lib.COMMANDS))
    with pytest.raises(KvmtestError, match="does not know a command"):
        guest.execute(Command(2**32 - 1))
    assert guest.execute(commands.nop())[0].fault is None


@given(value=word)
@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_the_guest_carries_64_bits_both_ways(guest: Guest, value: int) -> None:
    # SYSENTER_EIP holds a canonical address.
    value &= 0x7FFF_FFFF_FFFF
    written, read = guest.execute(commands.wrmsr(0x176, value), commands.rdmsr(0x176))
    assert written.fault is None
    assert read.value == value


def test_results_of_an_earlier_list_do_not_show_in_the_next(guest: Guest) -> None:
    guest.execute(commands.rdmsr(0x4B564D99), commands.rdmsr(0x4B564D99))
    results = guest.execute(commands.nop(), commands.nop())
    assert [result.fault for result in results] == [None, None]


def test_exits_in_a_list_are_answered(guest: Guest) -> None:
    entries = guest.vcpu.entries
    results = guest.execute(commands.nop(), commands.ring(10), commands.nop())
    assert len(results) == 3
    is_mailbox = isinstance(guest.transport, Mailbox)
    exits_of_transport = 0 if is_mailbox else 3 * EXITS_PER_COMMAND + EXITS_AT_END
    assert guest.vcpu.entries - entries == 11 + exits_of_transport


def test_stamps_are_those_of_the_last_entries(guest: Guest) -> None:
    stamps = guest.ring(10, stamps=3).stamps
    assert len(stamps) == 3
    assert stamps == sorted(stamps)
    assert stamps[-1] == (guest.vcpu.tsc_entry, guest.vcpu.tsc_exit)


@pytest.mark.usefixtures("msrs_fault")
def test_both_transports_carry_the_same_results(system: System, supported: Cpuid) -> None:
    asked = [
        *(commands.cpuid(entry.function, entry.index) for entry in supported),
        commands.wrmsr(SYSENTER_EIP, 0x123456789A),
        commands.rdmsr(SYSENTER_EIP),
        commands.rdmsr(BOGUS),
        commands.wrmsr(BOGUS, 1),
        commands.rdpmc(0x3FFFFFFF),
    ]
    answers = []
    for make in (long_guest, private_guest):
        with system.create_vm() as vm:
            vcpu = vm.create_vcpu()
            vcpu.set_cpuid(supported)
            guest = make(vm, vcpu)
            guest.boot()
            answers.append([answer(guest, command) for command in asked])
    assert answers[0] == answers[1]


def answer(guest: Guest, command: Command) -> object:
    """Return what a command gives, but for the place of its code."""
    (result,) = guest.execute(command)
    if result.fault:
        return result.fault.vector, result.fault.error
    given = {lib.COMMAND_CPUID: 4, lib.COMMAND_RDMSR: 1}
    return result.values[: given.get(command.op, 0)]


def test_a_private_guest_needs_no_look_at_memory_and_registers(
    vm: Vm, supported: Cpuid, monkeypatch: pytest.MonkeyPatch
) -> None:
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(supported)
    guest = private_guest(vm, vcpu)

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError(arguments)

    for name in ("read", "write", "struct"):
        monkeypatch.setattr(Memory, name, refuse)
    monkeypatch.setattr("kvmtest.kvm.vcpu.ioctl", refuse)
    guest.boot()
    written, read, *_ = guest.execute(
        commands.wrmsr(SYSENTER_EIP, 0x123456789A),
        commands.rdmsr(SYSENTER_EIP),
        commands.cpuid(0),
        commands.rdmsr(BOGUS),
        commands.loop(9),
    )
    assert (written.fault, read.value) == (None, 0x123456789A)
    (watched,) = guest.execute(commands.watch(1_000_000, 1), timeout=10)
    assert guest.gaps(watched.value)
    assert guest.ring(10).doorbells == 10
    with pytest.raises(KvmtestError, match="the memory of the long_registers guest is private"):
        _ = guest.memory
