"""The numbers in the reproducers are those of the checks, the SDM and the kernel's headers."""

import re

from kvmtest._native import ffi
from kvmtest.guests.vmcs12 import CAPABILITIES
from kvmtest.reproducers.numbers import meanings

ROW = re.compile(r"\t\{ (0x\w+), (\d), (0x\w+) \}, /\* (\w+) \*/")


def test_numbers_are_written_as_the_kernel_s_texts_write_them() -> None:
    named = meanings()
    assert named["IA32_DEBUGCTL"] == "0x1d9"
    assert named["FREEZE_WHILE_SMM"] == "0x4000"
    assert named["INVALID_GUEST_STATE"] == "0x80000021"
    assert named["QUIRK"] == "0x400"
    # As docs/findings/bit-14-in-vmcs12-refused.md says.
    assert int(named["GUEST_IA32_DEBUGCTL"], 0) == 184
    assert named["UNRESTRICTED"] == "/sys/module/kvm_intel/parameters/unrestricted_guest"
    assert named["MODPROBE"] == "modprobe kvm_intel unrestricted_guest=0"


def test_a_field_of_vmcs12_has_its_place_its_size_and_a_value() -> None:
    rows = [ROW.fullmatch(line) for line in meanings()["FIELDS"].splitlines()]
    fields = {row[4]: (int(row[1], 0), int(row[2]), int(row[3], 0)) for row in rows if row}
    assert len(fields) == len(rows)
    for name, (offset, size, value) in fields.items():
        member = ffi.new("struct vmcs12 *")
        ffi.memmove(ffi.cast("char *", member) + offset, value.to_bytes(size, "little"), size)
        assert getattr(member, name) == value != 0
    assert fields["guest_cs_selector"][2] == 8
    assert not fields.keys() & CAPABILITIES.keys()


def test_controls_are_made_from_the_capability_msrs() -> None:
    rows = meanings()["CONTROLS"].splitlines()
    assert [name for name in CAPABILITIES if any(name in row for row in rows)] == list(CAPABILITIES)
    (entry,) = (row for row in rows if "vm_entry_controls" in row)
    # IA-32e mode guest, and load debug controls.
    assert entry == "\t{ 0x30c, 0x490, 0x204 }, /* vm_entry_controls */"
