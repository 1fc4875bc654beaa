"""The FADT is read strictly."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stand_in import FACP, XEON, fadt_table, stand_in

from kvmtest.host.facts.fadt import Fadt, FadtError, parse_fadt, read_fadt
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

BYTE = st.integers(0, 255)
DWORD = st.integers(0, 2**32 - 1)


@given(st.builds(Fadt, DWORD, BYTE, BYTE, BYTE, BYTE, BYTE, DWORD), st.integers(116, 300))
def test_what_the_table_says_is_read_at_any_length(fadt: Fadt, length: int) -> None:
    assert parse_fadt(fadt_table(fadt, length)) == fadt
    assert fadt.hardware_reduced == bool(fadt.flags & 0x100000)
    assert len(fadt.refused) <= 5


@given(st.binary(max_size=300) | st.binary(max_size=200).map(b"FACP".__add__))
def test_any_bytes_are_a_fadt_or_an_error(data: bytes) -> None:
    with suppress(FadtError):
        assert parse_fadt(data).smi_cmd >= 0


@given(st.integers(0, 275), st.integers(1, 255))
def test_one_changed_byte_is_found(where: int, change: int) -> None:
    data = bytearray(fadt_table(XEON))
    data[where] ^= change
    with pytest.raises(FadtError):
        parse_fadt(bytes(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "instead of FACP"),
        (b"DSDT" + bytes(300), "instead of FACP"),
        (fadt_table(XEON)[:100], "cut off after 100"),
        (fadt_table(XEON)[:-1], "says 276 bytes but has 275"),
        (fadt_table(XEON) + b"\0", "says 276 bytes but has 277"),
        (fadt_table(XEON)[:-1] + b"\1", "sum to 0x1"),
    ],
)
def test_each_damage_is_named(data: bytes, words: str) -> None:
    with pytest.raises(FadtError, match=words):
        parse_fadt(data)


def test_every_command_of_the_firmware_is_refused() -> None:
    assert XEON.refused == {
        0xA0: "ACPI_ENABLE",
        0xA1: "ACPI_DISABLE",
        0xF2: "S4BIOS_REQ",
        0x80: "PSTATE_CNT",
        0x85: "CST_CNT",
    }


@pytest.mark.parametrize(
    ("files", "words"),
    [({}, "shows no ACPI table FACP"), ({FACP: b"FACP"}, "cut off after 4")],
)
def test_a_table_that_can_t_be_had_is_missing(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    fadt = read_fadt(stand_in(tmp_path, files))
    assert isinstance(fadt, Missing)
    assert words in fadt.what


def test_this_machine_s_table_is_intact() -> None:
    if not os.access(FACP, os.R_OK):
        pytest.skip(f"{FACP} can't be read")
    fadt = read_fadt(Tree())
    assert not isinstance(fadt, Missing), fadt
