"""Disks
=====

The CD image that a machine boots from, and the image of its payload drive.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from kvmtest.distribution import install, path_of
from kvmtest.errors import EnvironmentUnfit

__all__ = ["LOADER", "make", "payload"]

#: The boot loader's files, with their packages by Debian's names.
LOADER = {
    path_of("isolinux.bin"): "isolinux",
    path_of("ldlinux.c32"): "syslinux-common",
}
_CONFIGURATION = """\
default lab
prompt 0
timeout 0
label lab
 kernel /vmlinuz
 initrd /initramfs
 append {command_line}
"""

_SECTOR = 2048
_MAGIC = b"KVMTEST1"  # c_helpers/lab/port.c
#: The payload drive's size in bytes, which must be that of the saved machine.
_PAYLOAD_SIZE = 64 << 20


def make(target: Path, kernel: bytes, initramfs: bytes, command_line: str) -> None:
    """Write the boot CD's image. Raises EnvironmentUnfit where a tool is missing or fails."""
    for part, package in LOADER.items():
        if not part.exists():
            raise EnvironmentUnfit(f"{part} is missing; {install(package)}")
    xorriso = shutil.which("xorriso")
    if xorriso is None:
        raise EnvironmentUnfit(f"xorriso is missing; {install('xorriso')}")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        root = Path(folder)
        (root / "isolinux").mkdir()
        for part in LOADER:
            shutil.copy(part, root / "isolinux")
        configuration = _CONFIGURATION.format(command_line=command_line)
        (root / "isolinux" / "isolinux.cfg").write_text(configuration)
        (root / "vmlinuz").write_bytes(kernel)
        (root / "initramfs").write_bytes(initramfs)
        command = [
            xorriso, "-as", "mkisofs", "-quiet", "-o", str(target),
            "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat",
            "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", folder,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise EnvironmentUnfit(f"{target}: xorriso failed: {why}")


def payload(target: Path, data: bytes) -> None:
    """Write the image of the payload drive, in the form that c_helpers/lab/port.c reads."""
    if _SECTOR + len(data) > _PAYLOAD_SIZE:
        raise EnvironmentUnfit(f"a payload of {len(data)} bytes does not fit the lab's drive")
    header = _MAGIC + len(data).to_bytes(8, "little")
    with target.open("wb") as file:
        file.write(header.ljust(_SECTOR, b"\0") + data)
        os.truncate(file.fileno(), _PAYLOAD_SIZE)
