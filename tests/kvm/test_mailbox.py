"""kvmtest/guests/mailbox.py: commands in, results out."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmtest._native import ffi, lib
from kvmtest.errors import KvmtestError
from kvmtest.guests import Command, Fault, Guest, GuestFault, Result
from kvmtest.guests import mailbox as box

word = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), word, word, word), max_size=32))
def test_commands_lie_in_the_mailbox_as_the_header_has_them(
    commands: list[tuple[int, int, int, int]],
) -> None:
    mailbox = ffi.new("struct mailbox *")
    box.write_commands(mailbox, [Command(op, (a, b, c)) for op, a, b, c in commands])
    assert (mailbox.count, mailbox.done) == (len(commands), 0)
    memory = bytes(ffi.buffer(mailbox))
    for at, (op, *arguments) in enumerate(commands):
        start = lib.MAILBOX_OFF_COMMAND + at * 32
        assert int.from_bytes(memory[start : start + 4], "little") == op
        for number, argument in enumerate(arguments):
            place = start + 8 + 8 * number
            assert int.from_bytes(memory[place : place + 8], "little") == argument


def test_a_list_that_is_too_long_is_refused_before_anything_is_written() -> None:
    mailbox = ffi.new("struct mailbox *")
    box.write_commands(mailbox, [box.nop()] * lib.MAILBOX_CAPACITY)
    with pytest.raises(ValueError, match="the mailbox holds 32 commands, not 33"):
        box.write_commands(mailbox, [box.nop()] * (lib.MAILBOX_CAPACITY + 1))
    assert mailbox.count == lib.MAILBOX_CAPACITY


def test_arguments_beyond_64_bits_or_below_0_are_refused() -> None:
    mailbox = ffi.new("struct mailbox *")
    for value in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            box.write_commands(mailbox, [box.wrmsr(0x1D9, value)])


def test_a_results_status_decides_what_it_is() -> None:
    mailbox = ffi.new("struct mailbox *")
    mailbox.done = 2
    mailbox.result[0].status = lib.MAILBOX_OK
    mailbox.result[0].value[0:4] = [1, 2, 3, 4]
    mailbox.result[1].status = lib.MAILBOX_FAULT
    mailbox.result[1].vector, mailbox.result[1].error, mailbox.result[1].rip = 14, 2, 0x1000
    good, bad = box.read_results(mailbox)
    assert good == Result((1, 2, 3, 4))
    assert good.value == 1
    assert bad == Result((0, 0, 0, 0), Fault(14, 2, 0x1000))
    with pytest.raises(GuestFault, match=r"the guest took #PF\(0x2\) at RIP 0x1000"):
        _ = bad.value


@pytest.mark.parametrize("status", [lib.MAILBOX_PENDING, lib.MAILBOX_UNKNOWN, 77])
def test_a_result_without_meaning_is_an_error(status: int) -> None:
    mailbox = ffi.new("struct mailbox *")
    mailbox.done = 1
    mailbox.result[0].status = status
    with pytest.raises(KvmtestError, match=rf"does not know a command \(status {status}\)"):
        box.read_results(mailbox)


def test_a_count_of_results_beyond_the_mailbox_is_an_error() -> None:
    mailbox = ffi.new("struct mailbox *")
    mailbox.done = lib.MAILBOX_CAPACITY + 1
    for slot in range(lib.MAILBOX_CAPACITY):
        mailbox.result[slot].status = lib.MAILBOX_OK
    with pytest.raises(KvmtestError, match="33 results"):
        box.read_results(mailbox)


@pytest.mark.parametrize(("vector", "name"), [(13, "#GP"), (14, "#PF"), (9, "vector 9")])
def test_faults_have_the_manuals_names(vector: int, name: str) -> None:
    assert Fault(vector, 0, 0).name == name


# With the guest


def test_a_full_list_has_a_result_for_each(guest: Guest) -> None:
    results = guest.execute(*[box.nop()] * lib.MAILBOX_CAPACITY)
    assert len(results) == lib.MAILBOX_CAPACITY
    assert all(result.fault is None for result in results)


def test_no_commands_have_no_results(guest: Guest) -> None:
    assert guest.execute() == []


def test_a_command_that_the_guest_does_not_know_is_an_error(guest: Guest) -> None:
    with pytest.raises(KvmtestError, match="does not know a command"):
        guest.execute(Command(lib.MAILBOX_COMMANDS))
    with pytest.raises(KvmtestError, match="does not know a command"):
        guest.execute(Command(2**32 - 1))
    assert guest.execute(box.nop())[0].fault is None


@given(value=word)
@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_the_guest_carries_64_bits_both_ways(guest: Guest, value: int) -> None:
    # SYSENTER_EIP holds a canonical address.
    value &= 0x7FFF_FFFF_FFFF
    written, read = guest.execute(box.wrmsr(0x176, value), box.rdmsr(0x176))
    assert written.fault is None
    assert read.value == value


def test_results_of_an_earlier_list_do_not_show_in_the_next(guest: Guest) -> None:
    guest.execute(box.rdmsr(0x4B564D99), box.rdmsr(0x4B564D99))
    assert [result.fault for result in guest.execute(box.nop(), box.nop())] == [None, None]


def test_exits_in_a_list_are_answered(guest: Guest) -> None:
    entries = guest.vcpu.entries
    results = guest.execute(box.nop(), box.exit_often(10), box.nop())
    assert len(results) == 3
    assert guest.vcpu.entries - entries == 11
