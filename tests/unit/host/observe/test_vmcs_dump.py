"""A VMCS dump is read whole or not at all, whatever else is in the kernel log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vmcs_lines import dump_lines, records

from kvmtest.host.observe.vmcs_dump import VmcsDump, dump_of, parse_dumps
from kvmtest.missing import Missing

FS_BASE = 0x5F7D419E551E4C06
NEEDED = ("*** Guest", "FS:", "DebugCtl", "*** Host", "*** Control", "PinBased")

fields = st.integers(0, 2**64 - 1)
noise = st.lists(
    st.sampled_from(
        [
            "",
            "usb 1-1: new device",
            "kvm_intel: set kvm_intel.dump_invalid_vmcs=1 to dump internal KVM state.",
            "DebugCtl = 0x0  DebugExceptions = 0x0",
            "said: DebugCtl = 0x0000000000004000  DebugExceptions = 0x0000000000000000",
            "kvmtest: begin 0123",
            "*** Guest State",
        ]
    ),
    max_size=3,
)


def whole(lines: list[str]) -> list[VmcsDump]:
    dumps = parse_dumps(records(lines))
    return [] if isinstance(dumps, Missing) else dumps


def test_a_dump_has_the_guest_s_fields() -> None:
    lines = dump_lines(FS_BASE, 0x4000, cpu=3, exceptions=0x10)
    assert parse_dumps(records(lines)) == [VmcsDump(0x4000, 0x10, FS_BASE, 0xD3FF, 3)]
    assert dump_of(records(lines), FS_BASE) == VmcsDump(0x4000, 0x10, FS_BASE, 0xD3FF, 3)


@given(fields, fields, st.integers(0, 2**32 - 1), st.integers(-1, 8191), st.data())
def test_a_dump_is_read_through_other_lines(
    fs_base: int, debugctl: int, controls: int, cpu: int, data: st.DataObject
) -> None:
    lines = []
    for line in dump_lines(fs_base, debugctl, controls=controls, cpu=cpu):
        lines += [*data.draw(noise), line]
    expected = VmcsDump(debugctl, 0, fs_base, controls, cpu)
    assert dump_of(records(lines), fs_base) == expected
    assert expected.loads_debugctl is bool(controls & 4)


def test_an_old_kernel_s_dump_has_no_prefix_and_no_cpu() -> None:
    lines = dump_lines(FS_BASE, 0x4001, prefix="")[1:]
    assert whole(lines) == [VmcsDump(0x4001, 0, FS_BASE, 0xD3FF, None)]


@pytest.mark.parametrize("gone", NEEDED)
def test_a_dump_without_one_of_its_lines_is_none(gone: str) -> None:
    lines = [line for line in dump_lines(FS_BASE, 0x4000) if gone not in line]
    assert whole(lines) == []
    assert isinstance(dump_of(records(lines), FS_BASE), Missing)


@given(st.integers(0, 21))
def test_a_dump_that_is_cut_off_is_none(length: int) -> None:
    lines = dump_lines(FS_BASE, 0x4000)[:length]
    if any("PinBased" in line for line in lines):
        return
    answer = dump_of(records(lines), FS_BASE)
    assert isinstance(answer, Missing)
    assert ("cut off" in answer.what) is (length >= 2)


@given(st.integers(0, 21), st.integers(0, 21))
def test_two_dumps_mixed_give_no_field_of_the_other(here: int, there: int) -> None:
    first, second = dump_lines(FS_BASE, 0x4000), dump_lines(0x1111, 0)
    mixed = first[:here] + second[:there] + first[here:] + second[there:]
    for dump in whole(mixed):
        assert (dump.fs_base, dump.debugctl) in [(FS_BASE, 0x4000), (0x1111, 0)]


def test_beside_a_dump_that_is_cut_off_none_is_trusted() -> None:
    lines = dump_lines(0x1111, 0)[:9] + dump_lines(FS_BASE, 0x4000)
    assert isinstance(dump_of(records(lines), FS_BASE), Missing)
    lines = dump_lines(0x1111, 0)[9:] + dump_lines(FS_BASE, 0x4000)
    assert isinstance(dump_of(records(lines), FS_BASE), Missing)


def test_each_dump_has_its_own_cpu() -> None:
    lines = dump_lines(1, 0, cpu=1) + dump_lines(2, 0)[1:] + dump_lines(3, 0, cpu=0)
    assert [dump.cpu for dump in whole(lines)] == [1, None, 0]


def test_of_many_dumps_the_one_with_the_fs_base_counts() -> None:
    lines = dump_lines(1, 0) + dump_lines(FS_BASE, 0x4000) + dump_lines(2, 0)
    dump = dump_of(records(lines), FS_BASE)
    assert isinstance(dump, VmcsDump)
    assert dump.debugctl == 0x4000
    assert dump_of(records(lines), 3) == Missing(
        "the kernel log has no VMCS dump with FS base 0x3",
        "look at the kernel log, and run without other VMs",
    )
    twice = dump_of(records(lines + dump_lines(2, 0x4000)), 2)
    assert isinstance(twice, Missing)
    assert "2 VMCS dumps with FS base 0x2" in twice.what


def test_what_userspace_writes_is_no_dump() -> None:
    lines = dump_lines(FS_BASE, 0x4000)
    assert parse_dumps(records(lines, facility=1)) == []


def test_a_line_twice_in_one_dump_breaks_it() -> None:
    lines = dump_lines(FS_BASE, 0x4000)
    at = next(at for at, line in enumerate(lines) if "DebugCtl" in line)
    again = [*lines[: at + 1], lines[at].replace("4000", "0000"), *lines[at + 1 :]]
    assert whole(again) == []


def test_a_dump_of_linux_5_10_has_no_name_before_its_lines_and_pinbased_apart() -> None:
    lines = [
        line.replace("PinBased=0x0000007f EntryControls", "EntryControls")
        for line in dump_lines(FS_BASE, 0x4000, prefix="")
        if "last attempted" not in line
    ]
    assert parse_dumps(records(lines)) == [VmcsDump(0x4000, 0, FS_BASE, 0xD3FF, None)]
