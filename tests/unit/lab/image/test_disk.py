"""kvmtest/lab/image/disk.py: what the drives hold, and what is said where a tool is missing."""

import re
import subprocess
from pathlib import Path
from shutil import which

import pytest

from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.image import disk

needs_tools = pytest.mark.skipif(
    not which("xorriso") or not all(file.exists() for file in disk.LOADER),
    reason="needs xorriso, isolinux and syslinux-common",
)


@needs_tools
def test_the_image_holds_kernel_first_file_system_and_command_line(tmp_path: Path) -> None:
    target = tmp_path / "a folder" / "boot.iso"
    target.parent.mkdir()
    disk.make(target, b"kernel" * 1000, b"initramfs" * 5000, "quiet a=b,c")
    out = tmp_path / "out"
    command = ["xorriso", "-osirrox", "on", "-indev", str(target), "-extract", "/", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    found = {p.name.lower(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found["vmlinuz"] == b"kernel" * 1000
    assert found["initramfs"] == b"initramfs" * 5000
    assert b" append quiet a=b,c\n" in found["isolinux.cfg"]
    assert "ldlinux.c32" in found
    # El Torito's boot record is in sector 17.
    assert b"EL TORITO" in target.read_bytes()[17 * 2048 : 18 * 2048]
    assert [path.name for path in target.parent.iterdir()] == ["boot.iso"]


@needs_tools
def test_a_failing_xorriso_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "xorriso"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho first >&2\necho 'the disk is full' >&2\nexit 5\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/bin:/usr/bin")
    target = tmp_path / "out" / "boot.iso"
    target.parent.mkdir()
    with pytest.raises(EnvironmentUnfit, match=r"boot\.iso: xorriso failed: the disk is full$"):
        disk.make(target, b"", b"", "")
    assert list(target.parent.iterdir()) == []


@needs_tools
def test_a_missing_xorriso_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentUnfit, match=r"^xorriso is missing; .* install .*xorriso"):
        disk.make(tmp_path / "boot.iso", b"", b"", "")


@pytest.mark.parametrize("package", ["isolinux", "syslinux-common"])
def test_a_missing_boot_loader_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    files = {tmp_path / name: name for name in ("isolinux", "syslinux-common")}
    for file, name in files.items():
        if name != package:
            file.touch()
    monkeypatch.setattr(disk, "LOADER", files)
    with pytest.raises(
        EnvironmentUnfit, match=rf"/{package} is missing; {re.escape(install(package))}"
    ):
        disk.make(tmp_path / "boot.iso", b"", b"", "")


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 100])
def test_the_payload_s_drive_is_a_header_the_payload_and_as_large_as_any(
    tmp_path: Path, data: bytes
) -> None:
    disk.payload(tmp_path / "drive", data)
    held = (tmp_path / "drive").read_bytes()
    assert held[:8] == b"KVMTEST1"
    assert int.from_bytes(held[8:16], "little") == len(data)
    assert held[2048 : 2048 + len(data)] == data
    assert not any(held[2048 + len(data) :])
    assert len(held) == 64 << 20


def test_a_drive_takes_no_more_room_than_its_payload(tmp_path: Path) -> None:
    disk.payload(tmp_path / "drive", b"x")
    assert (tmp_path / "drive").stat().st_blocks * 512 < 1 << 20


def test_the_largest_payload_fits_and_a_larger_is_refused(tmp_path: Path) -> None:
    largest = bytes((64 << 20) - 2048)
    disk.payload(tmp_path / "drive", largest)
    with pytest.raises(EnvironmentUnfit, match="does not fit the lab's drive"):
        disk.payload(tmp_path / "drive", largest + b"x")
