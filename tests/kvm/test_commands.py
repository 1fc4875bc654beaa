"""Commands go to a guest, and their results come back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.guests import Command, Guest, commands

word = st.integers(0, 2**64 - 1)


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
    assert [result.fault for result in guest.execute(commands.nop(), commands.nop())] == [
        None,
        None,
    ]


def test_exits_in_a_list_are_answered(guest: Guest) -> None:
    entries = guest.vcpu.entries
    results = guest.execute(commands.nop(), commands.ring(10), commands.nop())
    assert len(results) == 3
    assert guest.vcpu.entries - entries == 11
