import struct

import pytest

from kvmtest._native import ffi
from kvmtest.kvm.struct_formats import unpacker


def test_a_format_reads_what_the_compiler_wrote() -> None:
    run = ffi.new("struct kvm_run *")
    run.exit_reason, run.io.size, run.io.port, run.io.data_offset = 2, 4, 0x3F8, 1 << 40
    members = ("exit_reason", "io.direction", "io.size", "io.port", "io.data_offset")
    reader = unpacker("struct kvm_run", *members)
    assert reader.unpack_from(ffi.buffer(run)) == (2, 0, 4, 0x3F8, 1 << 40)


def test_signed_members_stay_signed() -> None:
    desc = ffi.new("struct kvm_stats_desc *", {"exponent": -9, "size": 0xFFFF})
    reader = unpacker("struct kvm_stats_desc", "exponent", "size")
    assert reader.unpack_from(ffi.buffer(desc)) == (-9, 0xFFFF)


def test_a_start_skips_what_comes_before_it() -> None:
    offset = ffi.offsetof("struct kvm_regs", "rip")
    reader = unpacker("struct kvm_regs", "rip", start=offset)
    assert reader.unpack(struct.pack("=Q", 7)) == (7,)


@pytest.mark.parametrize("members", [("rbx", "rax"), ("rax", "rax")])
def test_members_out_of_order_are_refused(members: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        unpacker("struct kvm_regs", *members)


def test_a_structure_is_no_integer() -> None:
    with pytest.raises(ValueError, match="no integer"):
        unpacker("struct kvm_sregs", "cs")
