"""c_helpers/selftest: the ROM that the emulator's self-test runs."""

import runpy
from pathlib import Path
from shutil import which

import pytest

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.skipif(which("cc") is None, reason="needs a C compiler")


def build(rom: Path) -> bytes:
    runpy.run_path(str(ROOT / "c_helpers" / "selftest" / "build.py"))["build"](rom)
    return rom.read_bytes()


def test_the_cpu_resets_into_the_last_sixteen_bytes_of_one_segment(tmp_path: Path) -> None:
    rom = build(tmp_path / "rom")
    assert len(rom) == 0x10000
    # jmp f000:0000, where the image begins with cli; cld
    assert rom[0xFFF0:0xFFF5] == bytes.fromhex("ea000000f0")
    assert rom[:2] == bytes.fromhex("fafc")


def test_the_same_source_gives_the_same_rom(tmp_path: Path) -> None:
    assert build(tmp_path / "one") == build(tmp_path / "other")
