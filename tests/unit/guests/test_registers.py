"""kvmtest/guests/registers.py: commands and results through I/O ports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.guests import Command, Fault, Registers, Result, commands
from kvmtest.kvm import HltExit, IoExit

word = st.integers(0, 2**64 - 1)


class Ports:
    """A guest's side of the registers; it is its own vCPU."""

    def __init__(self) -> None:
        self.registers = Registers()
        self.data = b""

    def set_io_data(self, data: bytes) -> None:
        self.data = data

    def read(self, port: int) -> int | None:
        served = self.registers.serve(self, IoExit(port, False, 4, 1, b""))  # type: ignore[arg-type]
        return int.from_bytes(self.data, "little") if served else None

    def write(self, port: int, value: int) -> bool:
        exit_ = IoExit(port, True, 4, 1, value.to_bytes(4, "little"))
        return self.registers.serve(self, exit_)  # type: ignore[arg-type]

    def read_command(self) -> tuple[int, ...]:
        """Read op and arguments, as halves where they have 64 bits."""
        words = [self.read(lib.REGISTERS_COMMAND_PORT + at) for at in (0, *range(8, 32, 4))]
        op, *halves = [word or 0 for word in words]
        arguments = [low | high << 32 for low, high in zip(halves[::2], halves[1::2], strict=True)]
        return (op, *arguments)

    def write_result(self, status: int, *values: int, at: int = lib.RESULT_OFF_VALUE) -> bool:
        for number, value in enumerate(values):
            place = lib.REGISTERS_RESULT_PORT + at + 8 * number
            self.write(place, value & 0xFFFFFFFF)
            self.write(place + 4, value >> 32)
        return self.write(lib.REGISTERS_RESULT_PORT + lib.RESULT_OFF_STATUS, status)


@pytest.fixture
def guest() -> Ports:
    return Ports()


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), word, word, word, st.tuples(word, word, word, word)),
        max_size=8,
    )
)
def test_commands_are_shown_in_order_and_results_come_back(
    rows: list[tuple[int, int, int, int, tuple[int, int, int, int]]],
) -> None:
    guest = Ports()
    guest.registers.send([Command(op, (a, b, c)) for op, a, b, c, _ in rows])
    for done, (*command, values) in enumerate(rows):
        assert guest.read(lib.REGISTERS_LEFT_PORT) == len(rows) - done
        assert guest.read_command() == tuple(command)
        assert guest.write_result(lib.RESULT_OK, *values)
    assert guest.read(lib.REGISTERS_LEFT_PORT) == 0
    assert guest.registers.receive() == [Result(values) for *_, values in rows]


def test_arguments_that_a_command_has_not_are_0(guest: Ports) -> None:
    guest.registers.send([Command(1, (7, 8, 9)), Command(2, (5,))])
    guest.write_result(lib.RESULT_OK)
    assert guest.read_command() == (2, 5, 0, 0)


def test_a_fault_is_a_result(guest: Ports) -> None:
    guest.registers.send([commands.nop()])
    guest.write(lib.REGISTERS_RESULT_PORT + lib.RESULT_OFF_VECTOR, 14)
    guest.write_result(lib.RESULT_FAULT, 2, 0x123456789A, at=lib.RESULT_OFF_ERROR)
    assert guest.registers.receive() == [Result((0, 0, 0, 0), Fault(14, 2, 0x123456789A))]


def test_a_fault_outside_commands_is_no_result(guest: Ports) -> None:
    guest.write(lib.REGISTERS_RESULT_PORT + lib.RESULT_OFF_VECTOR, 13)
    assert guest.registers.fault == Fault(13, 0, 0)
    assert guest.registers.receive() == []


def test_a_command_that_the_guest_does_not_know_is_an_error(guest: Ports) -> None:
    guest.registers.send([commands.nop()])
    guest.write_result(lib.RESULT_UNKNOWN)
    with pytest.raises(KvmtestError, match="does not know a command"):
        guest.registers.receive()


def test_a_command_has_begun_once_its_last_argument_is_read(guest: Ports) -> None:
    has_begun = guest.registers.has_begun
    guest.registers.send([commands.nop(), commands.spin()])
    assert not has_begun(0)
    guest.read_command()
    assert (has_begun(0), has_begun(1)) == (True, False)
    guest.write_result(lib.RESULT_OK)
    assert (has_begun(0), has_begun(1)) == (True, False)
    guest.read(lib.REGISTERS_COMMAND_PORT)
    assert not has_begun(1)
    guest.read_command()
    assert has_begun(1)


def test_a_guest_is_up_once_it_has_said_the_magic_number(guest: Ports) -> None:
    assert guest.write(lib.REGISTERS_HELLO_PORT, 1)
    assert not guest.registers.is_up
    guest.write(lib.REGISTERS_HELLO_PORT, lib.GUEST_MAGIC)
    assert guest.registers.is_up
    guest.registers.expect_guest()
    assert not guest.registers.is_up


def test_a_result_of_no_command_is_not_served(guest: Ports) -> None:
    assert not guest.write_result(lib.RESULT_OK)
    guest.registers.send([commands.nop()])
    assert guest.write_result(lib.RESULT_OK)
    assert not guest.write_result(lib.RESULT_OK)


@pytest.mark.parametrize(
    "exit_",
    [
        HltExit(),
        None,
        IoExit(lib.GUEST_DONE_PORT, True, 4, 1, bytes(4)),
        IoExit(lib.GUEST_FAULT_PORT, True, 4, 1, bytes(4)),
        IoExit(lib.REGISTERS_LEFT_PORT, True, 4, 1, bytes(4)),
        IoExit(lib.REGISTERS_HELLO_PORT, False, 4, 1, b""),
        IoExit(lib.REGISTERS_COMMAND_PORT, False, 1, 1, b""),
        IoExit(lib.REGISTERS_COMMAND_PORT, False, 4, 2, b""),
        IoExit(lib.REGISTERS_COMMAND_PORT + 2, False, 4, 1, b""),
        IoExit(lib.REGISTERS_COMMAND_PORT + lib.COMMAND_SIZE, False, 4, 1, b""),
        IoExit(lib.REGISTERS_COMMAND_PORT - 4, False, 4, 1, b""),
        IoExit(lib.REGISTERS_COMMAND_PORT, True, 4, 1, bytes(4)),
        IoExit(lib.REGISTERS_RESULT_PORT, False, 4, 1, b""),
        IoExit(lib.REGISTERS_RESULT_PORT + 1, True, 4, 1, bytes(4)),
        IoExit(lib.REGISTERS_RESULT_PORT + lib.RESULT_SIZE, True, 4, 1, bytes(4)),
    ],
)
def test_other_exits_are_not_served(guest: Ports, exit_: IoExit | HltExit | None) -> None:
    guest.registers.send([commands.nop()])
    assert not guest.registers.serve(guest, exit_)  # type: ignore[arg-type]
    assert guest.data == b""
