"""kvmtest/guests/mailbox.py: commands and results in memory that host and guest share."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmtest._native import ffi, lib
from kvmtest.errors import KvmtestError
from kvmtest.guests import Command, Fault, GuestFault, Mailbox, Result, commands
from kvmtest.kvm import Memory

word = st.integers(0, 2**64 - 1)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    memory = Memory(0x2000, 0)
    yield Mailbox(memory, 0x1000)
    memory.close()


@given(sent=st.lists(st.tuples(st.integers(0, 2**32 - 1), word, word, word), max_size=32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_commands_lie_in_the_mailbox_as_the_header_has_them(
    mailbox: Mailbox, sent: list[tuple[int, int, int, int]]
) -> None:
    mailbox.send([Command(op, (a, b, c)) for op, a, b, c in sent])
    assert (mailbox.page.count, mailbox.page.done) == (len(sent), 0)
    memory = bytes(ffi.buffer(mailbox.page))
    for at, (op, *arguments) in enumerate(sent):
        start = lib.MAILBOX_OFF_COMMAND + at * 32
        assert int.from_bytes(memory[start : start + 4], "little") == op
        for number, argument in enumerate(arguments):
            place = start + 8 + 8 * number
            assert int.from_bytes(memory[place : place + 8], "little") == argument


def test_a_list_that_is_too_long_is_refused_before_anything_is_written(mailbox: Mailbox) -> None:
    mailbox.send([commands.nop()] * lib.MAILBOX_CAPACITY)
    with pytest.raises(ValueError, match="the mailbox holds 32 commands, not 33"):
        mailbox.send([commands.nop()] * (lib.MAILBOX_CAPACITY + 1))
    assert mailbox.page.count == lib.MAILBOX_CAPACITY


def test_arguments_beyond_64_bits_or_below_0_are_refused(mailbox: Mailbox) -> None:
    for value in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            mailbox.send([commands.wrmsr(0x1D9, value)])


def test_a_results_status_decides_what_it_is(mailbox: Mailbox) -> None:
    mailbox.page.done = 2
    good, bad = mailbox.page.result[0], mailbox.page.result[1]
    good.status, bad.status = lib.RESULT_OK, lib.RESULT_FAULT
    good.value[0:4] = [1, 2, 3, 4]
    bad.vector, bad.error, bad.rip = 14, 2, 0x1000
    done, faulted = mailbox.receive()
    assert done == Result((1, 2, 3, 4))
    assert done.value == 1
    assert faulted == Result((0, 0, 0, 0), Fault(14, 2, 0x1000))
    with pytest.raises(GuestFault, match=r"the guest took #PF\(0x2\) at RIP 0x1000"):
        _ = faulted.value


@pytest.mark.parametrize("status", [lib.RESULT_PENDING, lib.RESULT_UNKNOWN, 77])
def test_a_result_without_meaning_is_an_error(mailbox: Mailbox, status: int) -> None:
    mailbox.page.done = 1
    mailbox.page.result[0].status = status
    with pytest.raises(KvmtestError, match=rf"does not know a command \(status {status}\)"):
        mailbox.receive()


def test_a_count_of_results_beyond_the_mailbox_is_an_error(mailbox: Mailbox) -> None:
    mailbox.page.done = lib.MAILBOX_CAPACITY + 1
    for slot in range(lib.MAILBOX_CAPACITY):
        mailbox.page.result[slot].status = lib.RESULT_OK
    with pytest.raises(KvmtestError, match="33 results"):
        mailbox.receive()


def test_a_guest_is_up_once_its_magic_number_is_there(mailbox: Mailbox) -> None:
    mailbox.page.magic = lib.GUEST_MAGIC
    assert mailbox.is_up
    mailbox.expect_guest()
    assert not mailbox.is_up


def test_a_command_has_begun_once_those_before_it_are_done(mailbox: Mailbox) -> None:
    mailbox.send([commands.nop(), commands.spin()])
    assert [mailbox.has_begun(at) for at in (0, 1)] == [True, False]
    mailbox.page.done = 1
    assert mailbox.has_begun(1)


@pytest.mark.parametrize(("vector", "name"), [(13, "#GP"), (14, "#PF"), (9, "vector 9")])
def test_faults_have_the_manuals_names(vector: int, name: str) -> None:
    assert Fault(vector, 0, 0).name == name
