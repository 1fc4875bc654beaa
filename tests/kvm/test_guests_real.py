"""The real-mode guest."""

from collections.abc import Callable

import pytest

from kvmtest._native import lib
from kvmtest.guests import Command, Guest, GuestFault, commands, load
from kvmtest.kvm import IoExit, Vm

Execute = Callable[[Guest, bytes], None]
CODE = 0x9F00  # below 64 KiB, behind the image


@pytest.fixture
def execute(real: Guest) -> Callable[[bytes], None]:
    """Execute bytes in real mode."""

    def jump(code: bytes) -> None:
        assert real.image.symbols["image_end"] <= CODE
        real.vcpu.complete()
        real.memory.write(CODE, code)
        regs = real.vcpu.get_regs()
        regs.rip = CODE
        real.vcpu.set_regs(regs)

    return jump


def fault_of(guest: Guest) -> commands.Fault:
    with pytest.raises(GuestFault) as caught:
        guest._until_done(1.0)
    return caught.value.fault


def test_the_guest_says_hello_in_real_mode(real: Guest) -> None:
    assert real.transport.is_up
    assert real.vcpu.get_sregs().cr0 & 1 == 0
    assert real.vcpu.get_regs().rflags & 0x200, "interrupts are on"


def test_it_rings_as_often_as_it_is_told_again_and_again(real: Guest) -> None:
    assert [real.ring(count).doorbells for count in (3, 1, 70_000 // 100)] == [3, 1, 700]


def test_without_a_count_it_rings_the_done_port_alone(real: Guest) -> None:
    real.transport.send([Command(lib.COMMAND_RING, (0,))])
    exit_ = real.vcpu.run()
    assert isinstance(exit_, IoExit)
    assert exit_.port == lib.GUEST_DONE_PORT


@pytest.mark.parametrize(
    ("code", "vector", "at"),
    [
        (b"\x31\xc9\xf7\xf1", 0, 2),  # xor %cx, %cx; div %cx
        (b"\x0f\x0b", 6, 0),  # ud2
        (b"\xcc", 3, 1),  # int3: IP behind it
    ],
    ids=["DE", "UD2", "BP"],
)
def test_a_fault_is_reported(
    real: Guest, execute: Callable[[bytes], None], code: bytes, vector: int, at: int
) -> None:
    execute(code)
    assert fault_of(real) == commands.Fault(vector, 0, CODE + at)


def test_a_reported_fault_stays_reported(real: Guest, execute: Callable[[bytes], None]) -> None:
    execute(b"\x0f\x0b")
    assert fault_of(real) == fault_of(real)


def test_an_interrupt_is_taken_and_the_guest_goes_on(real: Guest) -> None:
    real.vcpu.complete()
    real.vcpu.interrupt(0x40)
    assert real.ring(5).doorbells == 5


def test_the_whole_interrupt_vector_table_points_into_the_image(vm: Vm, real: Guest) -> None:
    image = load("real")
    table = real.memory.read(lib.GUEST_IVT, 1024)
    targets = [int.from_bytes(table[at : at + 2], "little") for at in range(0, 1024, 4)]
    segments = {table[at : at + 2] for at in range(2, 1024, 4)}
    assert segments == {b"\0\0"}
    stubs = image.symbols["exception_stubs"]
    assert targets[:32] == [stubs + 8 * vector for vector in range(32)]
    assert set(targets[32:]) == {image.symbols["interrupt"]}
