"""kvmtest/kvm/exits.py: each exit as the guest makes it, and as any bytes in kvm_run give it."""

import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvmtest._native import ffi, lib
from kvmtest.guests import Guest, commands
from kvmtest.kvm import (
    DebugExit,
    FailEntryExit,
    HltExit,
    HypercallExit,
    InternalErrorExit,
    IoExit,
    MemoryFaultExit,
    MmioExit,
    RdmsrExit,
    ShutdownExit,
    SystemEventExit,
    TdxExit,
    TdxFatalExit,
    TdxGetQuoteExit,
    TdxGetTdvmcallInfoExit,
    TdxSetupEventNotifyExit,
    UnknownExit,
    Vcpu,
    WrmsrExit,
    exits,
)
from kvmtest.kvm.mapped_memory import MappedMemory

MakeVcpu = Callable[[bytes], Vcpu]
MAPPING = 3 * 4096


class FakeRun:
    """A vCPU's mapping without a vCPU."""

    def __init__(self) -> None:
        self._mapping = MappedMemory(MAPPING)
        self.mapping = self._mapping.buffer
        self.run: Any = ffi.cast("struct kvm_run *", self._mapping.pointer)

    def fill(self, content: bytes) -> None:
        self.mapping[:] = content.ljust(MAPPING, b"\0")[:MAPPING]

    def decode(self) -> exits.Exit:
        return exits.decode(self.run, self.mapping)

    def close(self) -> None:
        self._mapping.close()


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeRun]:
    made = FakeRun()
    yield made
    made.close()


def clear(fake: FakeRun, reason: str | int) -> Any:
    fake.fill(b"")
    fake.run.exit_reason = getattr(lib, reason) if isinstance(reason, str) else reason
    return fake.run


# As the guest makes them


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (b"\xb8\x34\x12\xba\x77\x01\xee", b"\x34"),  # mov $0x1234, %ax; mov $0x177, %dx; outb
        (b"\xb8\x34\x12\xba\x77\x01\xef", b"\x34\x12"),
        (b"\x66\xb8\x78\x56\x34\x12\xba\x77\x01\x66\xef", b"\x78\x56\x34\x12"),
    ],
)
def test_out_carries_port_size_and_data(real_code: MakeVcpu, code: bytes, data: bytes) -> None:
    assert real_code(code).run() == IoExit(0x177, True, len(data), 1, data)


@pytest.mark.parametrize(("code", "size"), [(b"\xec", 1), (b"\xed", 2), (b"\x66\xed", 4)])
def test_in_carries_port_and_size(real_code: MakeVcpu, code: bytes, size: int) -> None:
    vcpu = real_code(b"\xba\x77\x01" + code + b"\xf4")
    assert vcpu.run() == IoExit(0x177, False, size, 1, b"")
    vcpu.set_io_data(b"\xa1\xb2\xc3\xd4"[:size])
    assert vcpu.run() == HltExit()
    assert vcpu.get_regs().rax == int.from_bytes(b"\xa1\xb2\xc3\xd4"[:size], "little")


@pytest.mark.parametrize(("code", "size"), [(b"\x6e", 1), (b"\x6f", 2), (b"\x66\x6f", 4)])
def test_a_string_out_carries_all_its_items(
    real_code: MakeVcpu, memory: Any, code: bytes, size: int
) -> None:
    text = bytes(range(1, 1 + 6 * size))
    memory.write(0x3000, text)
    # mov $0x3000, %si; mov $6, %cx; mov $0x177, %dx; cld; rep outs; hlt
    vcpu = real_code(b"\xbe\x00\x30\xb9\x06\x00\xba\x77\x01\xfc\xf3" + code + b"\xf4")
    data, count = b"", 0
    while isinstance(exit_ := vcpu.run(), IoExit):
        assert (exit_.port, exit_.is_out, exit_.size) == (0x177, True, size)
        assert len(exit_.data) == exit_.size * exit_.count
        data += exit_.data
        count += exit_.count
    assert (exit_, count, data) == (HltExit(), 6, text)


def test_a_string_in_asks_for_several_items_at_once(real_code: MakeVcpu) -> None:
    # mov $0x3000, %di; mov $6, %cx; mov $0x177, %dx; cld; rep insb; hlt
    vcpu = real_code(b"\xbf\x00\x30\xb9\x06\x00\xba\x77\x01\xfc\xf3\x6c\xf4")
    exit_ = vcpu.run()
    assert isinstance(exit_, IoExit)
    assert (exit_.is_out, exit_.size, exit_.data) == (False, 1, b"")
    assert exit_.count == 6


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (b"\xb8\x34\x12\x66\xbb\x00\x00\x20\x00\x67\x88\x03", b"\x34"),  # movb %al, (%ebx)
        (b"\xb8\x34\x12\x66\xbb\x00\x00\x20\x00\x67\x89\x03", b"\x34\x12"),
        (b"\x66\xb8\x78\x56\x34\x12\x66\xbb\x00\x00\x20\x00\x67\x66\x89\x03", b"\x78\x56\x34\x12"),
    ],
)
def test_a_write_outside_every_slot_is_mmio(real_code: MakeVcpu, code: bytes, data: bytes) -> None:
    vcpu = with_flat_data(real_code(code + b"\xf4"))
    assert vcpu.run() == MmioExit(0x200000, True, data)
    assert vcpu.run() == HltExit()


def test_a_read_outside_every_slot_is_mmio_and_takes_our_data(real_code: MakeVcpu) -> None:
    # mov $0x200000, %ebx; mov (%ebx), %ax; hlt
    vcpu = with_flat_data(real_code(b"\x66\xbb\x00\x00\x20\x00\x67\x8b\x03\xf4"))
    assert vcpu.run() == MmioExit(0x200000, False, b"")
    vcpu.kvm_run.mmio.data[0:2] = [0xCD, 0xAB]
    assert vcpu.run() == HltExit()
    assert vcpu.get_regs().rax & 0xFFFF == 0xABCD


def with_flat_data(vcpu: Vcpu) -> Vcpu:
    """Let real-mode code reach above 64 KiB: "unreal" mode, its data segment 4 GiB long."""
    sregs = vcpu.get_sregs()
    sregs.ds.base, sregs.ds.limit, sregs.ds.g = 0x0, 0xFFFFFFFF, 1
    vcpu.set_sregs(sregs)
    return vcpu


@pytest.mark.usefixtures("msrs_fault")
def test_a_triple_fault_is_a_shutdown(guest: Guest) -> None:
    sregs = guest.vcpu.get_sregs()
    sregs.idt.limit = 0
    guest.vcpu.set_sregs(sregs)
    guest.transport.send([commands.rdmsr(0x4B564D99)])
    assert guest.vcpu.run() == ShutdownExit()


def test_a_single_step_is_a_debug_exit_at_the_next_instruction(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\x90\x90\x90\xf4")
    vcpu.set_guest_debug(lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_SINGLESTEP)
    for at in range(3):
        exit_ = vcpu.run()
        assert isinstance(exit_, DebugExit)
        assert (exit_.exception, exit_.pc, exit_.dr6 >> 14 & 1) == (1, 0x1001 + at, 1)
    vcpu.set_guest_debug(0)
    assert vcpu.run() == HltExit()


# As any bytes in kvm_run give them


@pytest.mark.parametrize("reason", sorted({*exits.DECODERS, lib.KVM_EXIT_IO}))
def test_every_known_reason_of_an_empty_kvm_run_decodes(fake: FakeRun, reason: int) -> None:
    clear(fake, reason)
    decoded = fake.decode()
    assert not isinstance(decoded, UnknownExit)
    assert isinstance(decoded, tuple)


def test_every_reason_that_the_header_has_for_x86_is_known() -> None:
    elsewhere = re.compile(
        r"KVM_EXIT_(S390|ARM|RISCV|LOONGARCH|PAPR|HYPERV_|XEN_|IO_|DCR|OSI|EPR|WATCHDOG|UNKNOWN"
        r"|AP_RESET_HOLD|SNP)"
    )
    names = {name for name in dir(lib) if re.match(r"KVM_EXIT_[A-Z0-9_]+$", name)}
    ours = {getattr(lib, name) for name in names if not elsewhere.match(name)}
    assert ours == {*exits.DECODERS, lib.KVM_EXIT_IO}


def test_the_exit_type_names_every_class() -> None:
    classes = {value for name in exits.__all__ if isinstance(value := getattr(exits, name), type)}
    assert set(typing.get_args(exits.Exit)) == classes


@given(reason=st.integers(0, 2**32 - 1), hardware=st.integers(0, 2**64 - 1))
@example(0, 0x80000021)
@example(2**32 - 1, 0)
def test_an_unknown_reason_is_carried(fake: FakeRun, reason: int, hardware: int) -> None:
    run = clear(fake, reason)
    run.hw.hardware_exit_reason = hardware
    decoded = fake.decode()
    if reason not in exits.DECODERS and reason != lib.KVM_EXIT_IO:
        assert decoded == UnknownExit(reason, hardware)


@given(
    content=st.binary(max_size=600),
    reason=st.sampled_from(sorted({*exits.DECODERS, lib.KVM_EXIT_IO})) | st.integers(0, 2**32 - 1),
)
@settings(max_examples=500)
def test_no_content_makes_decode_raise(fake: FakeRun, content: bytes, reason: int) -> None:
    fake.fill(content)
    fake.run.exit_reason = reason
    assert isinstance(fake.decode(), tuple)


@given(
    direction=st.integers(0, 255),
    size=st.integers(0, 255),
    count=st.integers(0, 2**32 - 1),
    offset=st.integers(0, 2**64 - 1) | st.integers(0, MAPPING + 16),
)
@example(1, 255, 2**32 - 1, 0)
@example(1, 1, 1, MAPPING)
@example(1, 4, 1, MAPPING - 2)
@example(1, 4, 1, 2**64 - 4)
def test_io_data_are_never_read_from_beyond_the_mapping(
    fake: FakeRun, direction: int, size: int, count: int, offset: int
) -> None:
    run = clear(fake, "KVM_EXIT_IO")
    run.io.direction, run.io.size, run.io.count = direction, size, count
    run.io.data_offset = offset
    decoded = fake.decode()
    assert isinstance(decoded, IoExit)
    inside = max(0, min(size * count, MAPPING - offset)) if decoded.is_out else 0
    assert len(decoded.data) == inside
    assert (decoded.size, decoded.count, decoded.is_out) == (size, count, direction == 1)
    assert type(decoded.data) is bytes


def test_io_fields_are_where_the_kernel_puts_them(fake: FakeRun) -> None:
    run = clear(fake, "KVM_EXIT_IO")
    run.io.direction, run.io.size, run.io.port, run.io.count = 1, 2, 0x3F8, 2
    run.io.data_offset = 4096
    fake.mapping[4096:4100] = b"abcd"
    assert fake.decode() == IoExit(0x3F8, True, 2, 2, b"abcd")


def test_a_refused_entry_carries_reason_and_cpu(fake: FakeRun) -> None:
    run = clear(fake, "KVM_EXIT_FAIL_ENTRY")
    run.fail_entry.hardware_entry_failure_reason, run.fail_entry.cpu = 0x80000021, 7
    assert fake.decode() == FailEntryExit(0x80000021, 7)


@pytest.mark.parametrize("count", [0, 2, 16, 17, 2**32 - 1])
def test_an_internal_error_carries_as_many_data_as_there_can_be(fake: FakeRun, count: int) -> None:
    run = clear(fake, "KVM_EXIT_INTERNAL_ERROR")
    run.internal.suberror, run.internal.ndata = lib.KVM_INTERNAL_ERROR_EMULATION, count
    run.internal.data[0], run.internal.data[15] = 11, 26
    decoded = fake.decode()
    assert isinstance(decoded, InternalErrorExit)
    assert decoded.suberror == 1
    assert decoded.data == (11, *[0] * 14, 26)[: min(count, 16)]


@pytest.mark.parametrize("count", [0, 1, 16, 2**32 - 1])
def test_a_system_event_carries_as_many_data_as_there_can_be(fake: FakeRun, count: int) -> None:
    run = clear(fake, "KVM_EXIT_SYSTEM_EVENT")
    run.system_event.type, run.system_event.ndata = 2, count
    run.system_event.data[0] = 9
    assert fake.decode() == SystemEventExit(2, (9, *[0] * 15)[: min(count, 16)])


def test_msr_exits_carry_index_reason_and_data(fake: FakeRun) -> None:
    run = clear(fake, "KVM_EXIT_X86_WRMSR")
    run.msr.index, run.msr.reason, run.msr.data = 0x1D9, 2, 0x4000
    assert fake.decode() == WrmsrExit(0x1D9, 2, 0x4000)
    run.exit_reason = lib.KVM_EXIT_X86_RDMSR
    assert fake.decode() == RdmsrExit(0x1D9, 2)


def test_a_hypercall_carries_its_arguments(fake: FakeRun) -> None:
    run = clear(fake, "KVM_EXIT_HYPERCALL")
    run.hypercall.nr = 12
    run.hypercall.args[0:6] = [1, 2, 3, 4, 5, 6]
    assert fake.decode() == HypercallExit(12, (1, 2, 3, 4, 5, 6), False)


@pytest.mark.parametrize("length", [0, 1, 8, 9, 2**32 - 1])
def test_mmio_carries_at_most_eight_bytes(fake: FakeRun, length: int) -> None:
    run = clear(fake, "KVM_EXIT_MMIO")
    run.mmio.phys_addr, run.mmio.len, run.mmio.is_write = 0xFEE00000, length, 1
    run.mmio.data[0:8] = list(b"datadata")
    assert fake.decode() == MmioExit(0xFEE00000, True, b"datadata"[: min(length, 8)])


def test_exits_newer_than_the_headers_are_read_through_our_declarations(fake: FakeRun) -> None:
    run = clear(fake, "KVM_EXIT_MEMORY_FAULT")
    base = ffi.offsetof("struct kvm_run", "hw")
    fake.mapping[base : base + 24] = b"".join(n.to_bytes(8, "little") for n in (8, 0x1000, 4096))
    assert fake.decode() == MemoryFaultExit(8, 0x1000, 4096)
    run.exit_reason = lib.KVM_EXIT_TDX
    assert fake.decode() == TdxExit(8, 0x1000, (4096, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("nr", "decoded"),
    [
        (0x10000, TdxGetTdvmcallInfoExit(5)),
        (0x10002, TdxGetQuoteExit(5, 6)),
        (0x10004, TdxSetupEventNotifyExit(5)),
        (0x10005, TdxExit(0, 0x10005, (4, 5, 6, 0, 0, 0))),
    ],
)
def test_a_tdvmcall_is_told_by_its_number(fake: FakeRun, nr: int, decoded: exits.Exit) -> None:
    run = clear(fake, "KVM_EXIT_TDX")
    tdx = ffi.cast("struct kvmtest_exit_tdx *", ffi.addressof(run, "hw"))
    tdx.nr, tdx.data[0], tdx.data[1], tdx.data[2] = nr, 4, 5, 6
    assert fake.decode() == decoded


def test_a_td_that_gives_up_says_why_in_r12(fake: FakeRun) -> None:
    run = clear(fake, "KVM_EXIT_SYSTEM_EVENT")
    run.system_event.type, run.system_event.ndata = lib.KVM_SYSTEM_EVENT_TDX_FATAL, 16
    run.system_event.data = list(range(100, 116))
    fatal = fake.decode()
    assert fatal == TdxFatalExit(tuple(range(100, 116)))
    assert isinstance(fatal, TdxFatalExit)
    assert fatal.error == 112
    run.system_event.ndata = 3
    assert fake.decode() == SystemEventExit(lib.KVM_SYSTEM_EVENT_TDX_FATAL, (100, 101, 102))
