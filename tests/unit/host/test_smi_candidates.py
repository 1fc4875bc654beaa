"""The FADT is read strictly, and each SMI trigger looks usable or says why it is not."""

import os
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in import stand_in

from kvmtest.host.smi_candidates import (
    Candidate,
    Fadt,
    FadtError,
    candidates,
    parse_fadt,
    read_fadt,
)
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

FACP = "/sys/firmware/acpi/tables/FACP"
XEON = Fadt(0xB2, 0xA0, 0xA1, 0xF2, 0x80, 0x85, 0x20)


def table(fadt: Fadt, length: int = 276) -> bytes:
    """The bytes of an intact FACP that says ``fadt``."""
    data = bytearray(length)
    data[:8] = b"FACP" + struct.pack("<I", length)
    data[48:52] = struct.pack("<I", fadt.smi_cmd)
    data[52:56] = bytes([fadt.acpi_enable, fadt.acpi_disable, fadt.s4bios_req, fadt.pstate_cnt])
    data[95] = fadt.cst_cnt
    data[112:116] = struct.pack("<I", fadt.flags)
    data[9] = -sum(data) & 0xFF
    return bytes(data)


def port(tree: Tree) -> Candidate:
    return next(c for c in candidates(tree) if c.name == "command-port")


def efi(tree: Tree) -> Candidate:
    return next(c for c in candidates(tree) if c.name == "efi-variable")


BYTE = st.integers(0, 255)
DWORD = st.integers(0, 2**32 - 1)


@given(st.builds(Fadt, DWORD, BYTE, BYTE, BYTE, BYTE, BYTE, DWORD), st.integers(116, 300))
def test_what_the_table_says_is_read_at_any_length(fadt: Fadt, length: int) -> None:
    assert parse_fadt(table(fadt, length)) == fadt
    assert fadt.hardware_reduced == bool(fadt.flags & 0x100000)
    assert len(fadt.refused) <= 5


@given(st.binary(max_size=300) | st.binary(max_size=200).map(b"FACP".__add__))
def test_any_bytes_are_a_fadt_or_an_error(data: bytes) -> None:
    with suppress(FadtError):
        assert parse_fadt(data).smi_cmd >= 0


@given(st.integers(0, 275), st.integers(1, 255))
def test_one_changed_byte_is_found(where: int, change: int) -> None:
    data = bytearray(table(XEON))
    data[where] ^= change
    with pytest.raises(FadtError):
        parse_fadt(bytes(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "instead of FACP"),
        (b"DSDT" + bytes(300), "instead of FACP"),
        (table(XEON)[:100], "cut off after 100"),
        (table(XEON)[:-1], "says 276 bytes but has 275"),
        (table(XEON) + b"\0", "says 276 bytes but has 277"),
        (table(XEON)[:-1] + b"\1", "sum to 0x1"),
    ],
)
def test_each_damage_is_named(data: bytes, words: str) -> None:
    with pytest.raises(FadtError, match=words):
        parse_fadt(data)


def test_every_command_of_the_firmware_is_refused() -> None:
    assert XEON.refused == {0xA0, 0xA1, 0xF2, 0x80, 0x85}


def test_the_port_of_an_ordinary_machine_looks_usable(tmp_path: Path) -> None:
    candidate = port(stand_in(tmp_path, {FACP: table(XEON)}))
    assert candidate.obstacle is None
    assert candidate.port == 0xB2
    assert candidate.refused == XEON.refused
    assert "0xb2" in candidate.description


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "shows no ACPI table FACP"),
        ({FACP: b"FACP"}, "cut off"),
        ({FACP: table(Fadt(0xB2, 1, 2, 0, 0, 0, 1 << 20))}, "hardware-reduced"),
        ({FACP: table(Fadt(0, 0, 0, 0, 0, 0, 0))}, "SMI_CMD is 0"),
        ({FACP: table(Fadt(0x10000, 1, 2, 0, 0, 0, 0))}, "no I/O port"),
        (
            {FACP: table(XEON), "/sys/kernel/security/lockdown": "none [integrity] confid"},
            "lockdown (integrity)",
        ),
    ],
)
def test_each_obstacle_to_the_port_is_named(
    tmp_path: Path, files: dict[str, str | bytes], words: str
) -> None:
    candidate = port(stand_in(tmp_path, files))
    assert candidate.obstacle is not None
    assert words in candidate.obstacle.what
    assert (candidate.port is None) == ("lockdown" not in words)


def test_lockdown_that_is_off_is_no_obstacle(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        FACP: table(XEON),
        "/sys/kernel/security/lockdown": "[none] integrity confidentiality",
    }
    assert port(stand_in(tmp_path, files)).obstacle is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "not booted by UEFI"),
        ({"/sys/firmware/efi/systab": ""}, "not mounted or empty"),
    ],
)
def test_each_obstacle_to_a_uefi_variable_is_named(
    tmp_path: Path, files: dict[str, str | bytes], words: str
) -> None:
    obstacle = efi(stand_in(tmp_path, files)).obstacle
    assert obstacle is not None
    assert words in obstacle.what


def test_mounted_uefi_variables_look_usable(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, {"/sys/firmware/efi/efivars/BootOrder-8be4": b"\7\0\0\0\0\0"})
    assert efi(tree).obstacle is None


def test_this_machine_s_table_is_intact() -> None:
    if not os.access(FACP, os.R_OK):
        pytest.skip(f"{FACP} can't be read")
    fadt = read_fadt(Tree())
    assert not isinstance(fadt, Missing), fadt
