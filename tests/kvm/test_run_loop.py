"""Vcpu.run_loop: doorbells answered without Python between, each entry stamped."""

from collections.abc import Callable

import pytest

from kvmtest._native import lib
from kvmtest.guests import Guest, Rings, commands
from kvmtest.kvm import Deadline, HltExit, IoExit, Loop, Stopped, Vcpu

MakeVcpu = Callable[[bytes], Vcpu]
DOORBELL = lib.GUEST_DOORBELL_PORT

# out %al, $0x10, for ever
RING_FOR_EVER = b"\xe6\x10\xeb\xfc"


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_every_doorbell_is_counted(guest: Guest, count: int) -> None:
    loop = guest.ring(count)
    assert loop.doorbells == count


def test_the_real_mode_guest_rings_as_often(real: Guest) -> None:
    assert real.ring(1000).doorbells == 1000


def test_a_limit_ends_the_loop_without_an_exit(real_code: MakeVcpu) -> None:
    vcpu = real_code(RING_FOR_EVER)
    for limit in (1, 7, 100):
        entries = vcpu.entries
        loop = vcpu.run_loop(0x10, limit=limit)
        assert (loop.doorbells, loop.exit) == (limit, None)
        # A deadline's signal may end an entry that is then made again.
        assert limit <= vcpu.entries - entries <= limit + 1


def test_another_port_ends_the_loop(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10\xe6\x10\xe6\x11\xf4")
    loop = vcpu.run_loop(0x10)
    assert (loop.doorbells, loop.exit) == (2, IoExit(0x11, True, 1, 1, b"\0"))
    loop = vcpu.run_loop(0x10)
    assert (loop.doorbells, loop.exit) == (0, HltExit())


def test_an_in_from_the_port_is_no_doorbell(real_code: MakeVcpu) -> None:
    loop = real_code(b"\xe6\x10\xe4\x10").run_loop(0x10)
    assert (loop.doorbells, loop.exit) == (1, IoExit(0x10, False, 1, 1, b""))


def test_the_deadline_is_for_the_whole_loop(real_code: MakeVcpu) -> None:
    vcpu = real_code(RING_FOR_EVER)
    loop = vcpu.run_loop(0x10, timeout=0.01, stamps=4)
    assert loop.exit == Deadline(0.01)
    assert loop.doorbells > 10
    # The clock is CLOCK_MONOTONIC; the stamps are the TSC's: the loop went on from here.
    assert vcpu.run_loop(0x10, limit=1).doorbells == 1


def test_a_stopped_vcpu_does_not_enter_the_loop(real_code: MakeVcpu) -> None:
    vcpu = real_code(RING_FOR_EVER)
    vcpu.stop()
    loop = vcpu.run_loop(0x10, stamps=4)
    assert (loop.doorbells, loop.exit, loop.stamps) == (0, Stopped(), [])
    assert vcpu.entries == 0


def check_stamps(loop: Loop | Rings, before: int, after: int) -> None:
    flat = [tsc for stamp in loop.stamps for tsc in stamp]
    assert flat == sorted(flat)
    assert len(set(flat)) == len(flat)
    assert not flat or (before < flat[0] and flat[-1] < after)


@pytest.mark.parametrize(("count", "room"), [(1, 8), (7, 8), (8, 8), (9, 8), (100, 8), (5, 1)])
def test_stamps_are_the_newest_in_order(guest: Guest, count: int, room: int) -> None:
    before = lib.clock_tsc()
    loop = guest.ring(count, stamps=room)
    check_stamps(loop, before, lib.clock_tsc())
    assert len(loop.stamps) == min(room, count + 1)  # with that of the done port
    assert loop.stamps[-1] == (guest.vcpu.tsc_entry, guest.vcpu.tsc_exit)


@pytest.mark.parametrize(("limit", "room"), [(1, 4), (4, 4), (5, 4), (50, 4)])
def test_a_limit_leaves_the_stamps_of_its_doorbells(
    real_code: MakeVcpu, limit: int, room: int
) -> None:
    vcpu = real_code(RING_FOR_EVER)
    before = lib.clock_tsc()
    loop = vcpu.run_loop(0x10, limit=limit, stamps=room)
    check_stamps(loop, before, lib.clock_tsc())
    assert len(loop.stamps) == min(room, limit)
    assert loop.stamps[-1] == (vcpu.tsc_entry, vcpu.tsc_exit)


def test_without_room_there_are_no_stamps(real: Guest) -> None:
    assert real.ring(3).stamps == []


def test_the_deadlines_entry_has_its_stamp(guest: Guest) -> None:
    guest.transport.send([commands.ring(3), commands.spin()])
    loop = guest.vcpu.run_loop(DOORBELL, stamps=10, timeout=0.01)
    assert (loop.doorbells, loop.exit, len(loop.stamps)) == (3, Deadline(0.01), 4)
    *short, last = [exit_ - entry for entry, exit_ in loop.stamps]
    assert last > max(short)
