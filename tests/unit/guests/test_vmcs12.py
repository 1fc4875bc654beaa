"""kvmtest/guests/vmcs12.py: fields' encodings, and what an L1 writes into them."""

from typing import Any

import pytest

from kvmtest._native import ffi, lib
from kvmtest.errors import EnvironmentUnfit
from kvmtest.guests.vmcs12 import CAPABILITIES, ENCODINGS, contents

ANY = 0xFFFF_FFFF_0000_0000
NO_FIELDS = {"revision", "abort", "launch_state"}
#: Width and type in an encoding, SDM volume 3, 25.11.2.
WIDTHS = {0: 2, 1: 8, 2: 4, 3: 8}
READ_ONLY, GUEST, HOST = 1, 2, 3


@pytest.fixture
def sregs() -> Any:
    return ffi.new("struct kvm_sregs *", {"cr0": 0x80000033, "cr3": 0x2000, "cr4": 0x2020})


def width(encoding: int) -> int:
    return encoding >> 13 & 3


def kind(encoding: int) -> int:
    return encoding >> 10 & 3


def test_every_field_of_the_structure_has_its_own_encoding() -> None:
    members = dict(ffi.typeof("struct vmcs12").fields)
    fields = {
        name for name in members if not name.startswith(("padding", "dead_space"))
    } - NO_FIELDS
    assert set(ENCODINGS) == fields
    assert len(set(ENCODINGS.values())) == len(ENCODINGS)


def test_an_encoding_has_the_fields_width_and_what_it_is_of() -> None:
    members = dict(ffi.typeof("struct vmcs12").fields)
    for name, encoding in ENCODINGS.items():
        assert ffi.sizeof(members[name].type) == WIDTHS[width(encoding)], name
        assert (kind(encoding) == HOST) == name.startswith("host_"), name
        is_guests = name.startswith("guest_") and kind(encoding) != READ_ONLY
        assert (kind(encoding) == GUEST) == (is_guests or "_timer_" in name or "link" in name), name


def test_a_few_encodings_are_as_the_manual_has_them() -> None:
    assert ENCODINGS["guest_ia32_debugctl"] == 0x2802
    assert ENCODINGS["tsc_multiplier"] == 0x2032
    assert ENCODINGS["vm_exit_instruction_len"] == 0x440C
    assert ENCODINGS["vmx_preemption_timer_value"] == 0x482E
    assert ENCODINGS["host_rip"] == 0x6C16


def test_controls_have_what_must_be_one(sregs: Any) -> None:
    capabilities = dict.fromkeys(CAPABILITIES.values(), ANY)
    bare = contents(sregs, capabilities, 1, 2)
    must = dict.fromkeys(capabilities, ANY | 1 << 31)
    full = contents(sregs, must, 1, 2)
    for name in CAPABILITIES:
        assert full[name] == bare[name] | 1 << 31


@pytest.mark.parametrize(
    ("field", "bit"),
    [
        ("cpu_based_vm_exec_control", 21),
        ("cpu_based_vm_exec_control", 28),
        ("vm_exit_controls", 9),
        ("vm_entry_controls", 2),
        ("vm_entry_controls", 9),
    ],
)
def test_what_l2_needs_and_may_not_have_is_named(sregs: Any, field: str, bit: int) -> None:
    capabilities = dict.fromkeys(CAPABILITIES.values(), ANY)
    assert contents(sregs, capabilities, 1, 2)[field] & 1 << bit
    capabilities[CAPABILITIES[field]] &= ~(1 << 32 + bit)
    with pytest.raises(EnvironmentUnfit, match=f"no L1 set {1 << bit:#x} in {field}"):
        contents(sregs, capabilities, 1, 2)


def test_l2_and_l1_go_on_where_they_are_told(sregs: Any) -> None:
    fields = contents(sregs, dict.fromkeys(CAPABILITIES.values(), ANY), 0x8100, 0x8200)
    assert (fields["guest_rip"], fields["host_rip"]) == (0x8100, 0x8200)
    assert fields["guest_rsp"] == fields["host_rsp"] == lib.GUEST_STACK
    assert fields["guest_cr3"] == fields["host_cr3"] == 0x2000
    assert "guest_ia32_debugctl" not in fields, "L1 leaves the host's bit alone"
