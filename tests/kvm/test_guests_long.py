"""The 64-bit guest: what it counts, what it faults on, and what it sees of time."""

import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmtest._native import lib
from kvmtest.errors import EnvironmentUnfit, KvmtestError
from kvmtest.guests import (
    Guest,
    GuestFault,
    Mailbox,
    TscGap,
    UnexpectedExit,
    commands,
    load,
    mailbox,
    registers,
)
from kvmtest.guests import image as image_module
from kvmtest.kvm import DebugExit, IoExit, Stopped, System, Vm

Execute = Callable[[Guest, bytes], None]
NewGuest = Callable[[Vm], Guest]
BOGUS = 0x4B564D99
CODE = 0x40000
NON_CANONICAL = 0x1234_5678_1234_5678


# Counting


@pytest.fixture
def guest(each_guest: Guest) -> Guest:
    return each_guest


def counted(guest: Guest) -> Any:
    """The module that says how many instructions the guest of this transport retires."""
    return mailbox if isinstance(guest.transport, Mailbox) else registers


def single_steps(guest: Guest, command: commands.Command) -> int:
    """Count the instructions that one command retires, from the resume to the next done OUT."""
    guest.vcpu.complete()  # or the completed OUT would be a step of its own on some CPUs
    guest.transport.send([command])
    guest.vcpu.set_guest_debug(lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_SINGLESTEP)
    steps = 0
    while True:
        exit_ = guest.vcpu.run()
        if isinstance(exit_, DebugExit):
            steps += 1
            assert steps < 10_000
        elif guest.transport.serve(guest.vcpu, exit_):
            guest.vcpu.complete()
        else:
            break
    assert isinstance(exit_, IoExit)
    assert exit_.port == lib.GUEST_DONE_PORT
    guest.vcpu.set_guest_debug(0)
    return steps


@pytest.mark.parametrize("turns", [1, 2, 3, 10, 500])
def test_a_loop_retires_the_overhead_and_two_instructions_a_turn(guest: Guest, turns: int) -> None:
    assert single_steps(guest, commands.loop(turns)) == counted(guest).LOOP_OVERHEAD + 2 * turns


def test_every_list_of_one_loop_counts_alike(guest: Guest) -> None:
    assert [single_steps(guest, commands.loop(7)) for _ in range(3)] == [
        counted(guest).LOOP_OVERHEAD + 14
    ] * 3


def test_another_command_counts_otherwise(guest: Guest) -> None:
    assert single_steps(guest, commands.nop()) != counted(guest).LOOP_OVERHEAD + 2


def test_a_loop_of_none_is_a_loop_of_one(guest: Guest) -> None:
    assert commands.loop(0) == commands.loop(1)
    assert commands.ring(-3) == commands.ring(1)
    assert guest.execute(commands.loop(0))[0].fault is None


@pytest.mark.parametrize(("ticks", "threshold"), [(1, 1 << 62), (100_000, 1 << 62), (300_000, 1)])
def test_a_watch_retires_what_its_polls_and_gaps_say(
    guest: Guest, ticks: int, threshold: int
) -> None:
    steps = single_steps(guest, commands.watch(ticks, threshold))
    gaps, polls, *_ = guest.transport.receive()[0].values
    assert bool(gaps) == (threshold == 1)
    assert steps == counted(guest).watch_instructions(polls, gaps)


# Coming up


def test_the_guest_says_hello(guest: Guest) -> None:
    assert guest.transport.is_up
    assert guest.vcpu.get_regs().rflags & 0x200, "interrupts are on"


def test_a_guest_that_says_nothing_is_an_error_with_what_to_do(vm: Vm, new_guest: NewGuest) -> None:
    guest = new_guest(vm)
    done = b"\x66\xba\xc1\x01\xee"  # mov $0x1c1, %dx; out %al, %dx
    guest.memory.write(guest.image.symbols["start"], done)
    with pytest.raises(KvmtestError, match="did not say hello; build it again"):
        guest.boot()


def test_a_guest_on_an_unexpected_port_names_the_exit(vm: Vm, new_guest: NewGuest) -> None:
    guest = new_guest(vm)
    guest.memory.write(guest.image.symbols["start"], b"\xe6\x10")
    with pytest.raises(UnexpectedExit, match=r"the long guest came back with IoExit\(port=16") as e:
        guest.boot()
    assert e.value.exit == IoExit(0x10, True, 1, 1, b"\0")


def test_a_guest_that_does_not_come_back_names_the_deadline(guest: Guest) -> None:
    with pytest.raises(UnexpectedExit, match=r"came back with Deadline\(timeout=0.01\)"):
        guest.execute(commands.spin(), timeout=0.01)


def test_two_guests_in_two_vms_do_not_meet(vm: Vm, system: System, new_guest: NewGuest) -> None:
    with system.create_vm() as other_vm:
        one, two = new_guest(vm), new_guest(other_vm)
        one.boot()
        two.boot()
        one.execute(commands.wrmsr(0x176, 0x1111))
        two.execute(commands.wrmsr(0x176, 0x2222))
        assert one.execute(commands.rdmsr(0x176))[0].value == 0x1111
        assert two.execute(commands.rdmsr(0x176))[0].value == 0x2222


# Faults in commands


@pytest.mark.usefixtures("msrs_fault")
@pytest.mark.parametrize(
    ("command", "symbol", "at"),
    [(commands.rdmsr(BOGUS), "rdmsr", 0), (commands.wrmsr(BOGUS, 1), "wrmsr", 9)],
)
def test_a_bogus_msr_faults_at_its_instruction(
    guest: Guest, command: commands.Command, symbol: str, at: int
) -> None:
    [result] = guest.execute(command)
    assert result.fault == commands.Fault(13, 0, guest.image.symbols[symbol] + at)
    with pytest.raises(GuestFault, match=r"the guest took #GP\(0x0\) at RIP 0x"):
        _ = result.value


@pytest.mark.usefixtures("msrs_fault")
def test_a_fault_ends_its_command_alone(guest: Guest) -> None:
    results = guest.execute(
        commands.cpuid(0),
        commands.rdmsr(BOGUS),
        commands.nop(),
        commands.rdmsr(BOGUS),
        commands.loop(9),
    )
    assert [bool(result.fault) for result in results] == [False, True, False, True, False]
    assert results[0].values[0] > 0


def test_a_performance_counter_that_is_not_there_faults(guest: Guest) -> None:
    [result] = guest.execute(commands.rdpmc(0x3FFFFFFF))
    assert result.fault is not None
    assert (result.fault.name, result.fault.rip) == ("#GP", guest.image.symbols["rdpmc"])


@pytest.mark.usefixtures("msrs_fault")
def test_a_stack_that_breaks_while_spinning_is_a_fault_of_the_command(guest: Guest) -> None:
    guest.transport.send([commands.spin(), commands.rdmsr(0x176)])
    guest.run(0.005)
    regs = guest.vcpu.get_regs()
    regs.rsp = NON_CANONICAL
    guest.vcpu.set_regs(regs)
    guest.vcpu.interrupt(0x40)
    results = finish(guest)
    fault = results[0].fault
    assert fault is not None
    assert (fault.name, fault.rip) == ("#SS", guest.image.symbols["spin"])
    assert results[1].fault is None


def finish(guest: Guest) -> list[commands.Result]:
    """Let the guest go on with its list to the end."""
    exit_ = guest.run()
    assert isinstance(exit_, IoExit)
    assert exit_.port == lib.GUEST_DONE_PORT
    return guest.transport.receive()


# Faults outside commands


def fault_of(guest: Guest) -> commands.Fault:
    """Let the guest run into its fault, through the guest's own report."""
    with pytest.raises(GuestFault) as caught:
        guest._until_done(1.0)
    return caught.value.fault


@pytest.mark.usefixtures("msrs_fault")
@pytest.mark.parametrize(
    ("code", "vector", "error", "at"),
    [
        (b"\x31\xc9\xf7\xf1", 0, 0, 2),  # xor %ecx, %ecx; div %ecx
        (b"\x0f\x0b", 6, 0, 0),  # ud2
        (b"\x48\xa1" + struct.pack("<Q", NON_CANONICAL), 13, 0, 0),  # mov from there
        (b"\x48\xbc" + struct.pack("<Q", NON_CANONICAL) + b"\x50", 12, 0, 10),  # push there
        (b"\x66\xb8\xf0\x00\x8e\xd8", 13, 0xF0, 4),  # mov $0xf0, %ax; mov %ax, %ds
        (b"\xb9\x99\x4d\x56\x4b\x0f\x32", 13, 0, 5),  # mov $BOGUS, %ecx; rdmsr
        (b"\xa2" + struct.pack("<Q", 1 << 30), 14, 2, 0),  # write behind the first GiB
        (b"\xa0" + struct.pack("<Q", 1 << 30), 14, 0, 0),  # read there
    ],
    ids=["DE", "UD", "GP-address", "SS", "GP-selector", "GP-msr", "PF-write", "PF-read"],
)
def test_a_fault_outside_commands_is_reported(
    guest: Guest, jump_to: Execute, code: bytes, vector: int, error: int, at: int
) -> None:
    jump_to(guest, code)
    assert fault_of(guest) == commands.Fault(vector, error, CODE + at)


def test_a_fetch_from_nowhere_is_reported(guest: Guest, jump_to: Execute) -> None:
    jump_to(guest, b"\x48\xb8" + struct.pack("<Q", 1 << 31) + b"\xff\xe0")  # jmp *%rax
    fault = fault_of(guest)
    assert (fault.vector, fault.error & ~0x10, fault.rip) == (14, 0, 1 << 31)


# Intel SDM volume 3, table 6-1: whether the processor pushes an error code.
@pytest.mark.parametrize(
    ("vector", "has_error"),
    [(0, False), (5, False), (6, False), (7, False), (8, True), (10, True), (11, True),
     (12, True), (13, True), (14, True), (16, False), (17, True), (19, False)],
)  # fmt: skip
def test_vectors_with_and_without_error_code_are_told_apart(
    guest: Guest, jump_to: Execute, vector: int, has_error: bool
) -> None:
    jump_to(guest, b"\xeb\xfe")
    events = guest.vcpu.get_vcpu_events()
    # The processor always gives #DF and #AC the error code 0.
    error = 0x18 if has_error and vector not in (8, 17) else 0
    events.exception.injected, events.exception.nr = 1, vector
    events.exception.has_error_code, events.exception.error_code = has_error, error
    guest.vcpu.set_vcpu_events(events)
    assert fault_of(guest) == commands.Fault(vector, error, CODE)


def test_a_broken_stack_outside_commands_is_reported(guest: Guest, jump_to: Execute) -> None:
    jump_to(guest, b"\xeb\xfe")
    regs = guest.vcpu.get_regs()
    regs.rsp = NON_CANONICAL
    guest.vcpu.set_regs(regs)
    guest.vcpu.interrupt(0x40)
    fault = fault_of(guest)
    assert (fault.name, fault.rip) == ("#SS", CODE)


def test_a_reported_fault_stays_reported(guest: Guest, jump_to: Execute) -> None:
    jump_to(guest, b"\x0f\x0b")
    first = fault_of(guest)
    assert fault_of(guest) == first


def test_the_32_stubs_are_16_bytes_apart(vm: Vm, guest: Guest) -> None:
    stubs = guest.image.symbols["exception_stubs"]
    for vector in range(32):
        code = vm.memories[0].read(stubs + 16 * vector, 4)
        assert bytes([0x6A, vector]) in code


# Interrupts


def test_an_interrupt_while_spinning_is_taken_and_the_guest_goes_on(vm: Vm, guest: Guest) -> None:
    guest.transport.send([commands.spin()])
    guest.run(0.005)
    assert guest.vcpu.get_regs().rip == guest.image.symbols["spin"]
    stack = guest.vcpu.get_regs().rsp
    marker = b"\xa5" * 40
    vm.memories[0].write(stack - 40, marker)
    for _ in range(3):
        guest.vcpu.interrupt(0x40)
        guest.run(0.005)
        assert not guest.vcpu.get_vcpu_events().interrupt.injected
        regs = guest.vcpu.get_regs()
        assert (regs.rip, regs.rsp) == (guest.image.symbols["spin"], stack)
    # RIP, CS, RFLAGS, RSP and SS of the interrupted spin lie below its stack.
    frame = struct.unpack("<5Q", vm.memories[0].read((stack & ~0xF) - 40, 40))
    assert frame[0] == guest.image.symbols["spin"]
    assert frame[3] == stack


@pytest.mark.parametrize("vector", [0x20, 0x80, 0xFF])
def test_every_interrupt_vector_has_a_handler(guest: Guest, vector: int) -> None:
    guest.vcpu.complete()
    guest.vcpu.interrupt(vector)
    assert guest.execute(commands.loop(5))[0].fault is None


# Time


def watch(
    guest: Guest, ticks: int, threshold: int
) -> tuple[commands.Result, list[TscGap], int, int]:
    before = lib.clock_tsc()
    [result] = guest.execute(commands.watch(ticks, threshold), timeout=10)
    return result, guest.gaps(result.value), before, lib.clock_tsc()


def tsc_offset(guest: Guest) -> tuple[int, int]:
    """Return bounds of the guest's TSC minus the host's."""
    before = lib.clock_tsc()
    tsc = guest.vcpu.get_msr(0x10)
    return tsc - lib.clock_tsc(), tsc - before


def test_gaps_are_in_order_long_enough_and_inside_the_watch(guest: Guest) -> None:
    ticks, threshold = 20_000_000, 1000
    result, gaps, before, after = watch(guest, ticks, threshold)
    found, polls, shortest, longest = result.values
    assert len(gaps) == min(found, lib.GUEST_GAP_CAPACITY)
    flat = [tsc for gap in gaps for tsc in gap]
    assert flat == sorted(flat)
    assert all(gap.end - gap.begin >= threshold for gap in gaps)
    assert shortest <= longest
    assert polls >= found
    if gaps:
        assert max(gap.end - gap.begin for gap in gaps) == longest or found > len(gaps)
        least, most = tsc_offset(guest)
        assert before + least < flat[0]
        assert flat[-1] < after + most
        assert flat[-1] - flat[0] <= ticks + longest


def test_a_threshold_above_all_finds_nothing(guest: Guest) -> None:
    result, gaps, *_ = watch(guest, 1_000_000, 1 << 62)
    assert (result.value, gaps) == (0, [])
    assert result.values[1] > 0


def test_more_gaps_than_room_are_counted_and_the_first_are_kept(mailbox_guest: Guest) -> None:
    capacity = lib.GUEST_GAP_CAPACITY
    beyond = lib.GUEST_GAP_LOG + 16 * capacity
    mailbox_guest.memory.write(beyond, b"\xa5" * 64)
    result = watch(mailbox_guest, 1, 0)[0]
    per_poll = max(result.values[3], 1)
    ticks = per_poll * capacity
    while result.value <= capacity:
        ticks *= 2
        assert ticks < 1 << 40
        result, gaps, *_ = watch(mailbox_guest, ticks, 0)
    assert len(gaps) == capacity
    flat = [tsc for gap in gaps for tsc in gap]
    assert flat == sorted(flat)
    assert mailbox_guest.memory.read(beyond, 64) == b"\xa5" * 64


def test_a_vcpu_that_was_held_back_shows_a_gap_of_at_least_that_time(
    mailbox_guest: Guest,
) -> None:
    held: list[int] = []
    ticks = 600_000_000
    mailbox_guest.transport.send([commands.watch(ticks, 100)])

    def run_with_pause() -> None:
        vcpu = mailbox_guest.vcpu
        while isinstance(mailbox_guest.run(10), Stopped):
            start = vcpu.tsc_exit
            while lib.clock_tsc() - start < 100_000_000:
                pass
            vcpu.clear_stop()
            held.append(vcpu.tsc_exit)
        held.append(vcpu.tsc_entry)

    thread = threading.Thread(target=run_with_pause)
    entries = mailbox_guest.vcpu.entries
    thread.start()
    while mailbox_guest.vcpu.entries == entries:
        pass
    due = time.monotonic() + 0.02
    while time.monotonic() < due:
        pass
    mailbox_guest.vcpu.stop()
    thread.join()
    [result] = mailbox_guest.transport.receive()
    left, back = held
    assert back - left >= 100_000_000
    longest = max(gap.end - gap.begin for gap in mailbox_guest.gaps(result.value))
    assert longest == result.values[3] or result.value > lib.GUEST_GAP_CAPACITY
    assert result.values[3] >= back - left


# Images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("long", "real"):
        (tmp_path / f"{name}.elf").write_bytes((image_module.IMAGES / f"{name}.elf").read_bytes())
    return tmp_path


def test_an_image_has_its_bytes_and_symbols() -> None:
    image = load("long")
    assert image.address == lib.GUEST_IMAGE == image.symbols["start"]
    assert image.address + len(image.data) == image.symbols["image_end"] <= lib.GUEST_IDT
    assert load("long") is image


def test_a_missing_image_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit) as caught:
        load("nosuch", tmp_path)
    assert str(caught.value) == (
        f"guest nosuch: the image is missing at {tmp_path}/nosuch.elf; "
        "build it again (make, or pip install)"
    )


def unusable(folder: Path, content: bytes) -> str:
    (folder / "broken.elf").write_bytes(content)
    with pytest.raises(EnvironmentUnfit) as caught:
        image_module.load.__wrapped__("broken", folder)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no ELF file at all", bytes(4096)])
def test_a_corrupt_image_is_one_line_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    message = unusable(tmp_path, content)
    assert "\n" not in message
    assert "guest broken: the image is not usable (" in message
    assert message.endswith("build it again (make, or pip install)")


def test_an_image_cut_off_anywhere_is_refused(images: Path) -> None:
    whole = (images / "long.elf").read_bytes()
    for length in range(0, len(whole), 61):
        unusable(images, whole[:length])


def test_a_folder_in_the_images_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.elf").mkdir()
    with pytest.raises(EnvironmentUnfit, match="not usable"):
        load("long", tmp_path)


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_image_loads_or_is_refused_never_more(
    images: Path, damage: list[tuple[int, int]]
) -> None:
    content = bytearray((images / "long.elf").read_bytes())
    for at, value in damage:
        # The tables of the file, rather than the code, are what the reader can stumble on.
        place = at % 64 if at & 1 else len(content) - 1 - at % 1500
        content[place] = value
    (images / "damaged.elf").write_bytes(content)
    message = ""
    try:
        image = image_module.load.__wrapped__("damaged", images)
        assert image.address == lib.GUEST_IMAGE
        assert image.address + len(image.data) == image.symbols["image_end"]
    except EnvironmentUnfit as error:
        message = str(error)
    assert "\n" not in message
