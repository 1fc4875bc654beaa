"""Bochs
=====

The emulator behind the lab's Intel machine: what is installed, how a machine is configured, and the
commands that boot one, save it and restore it. Written for Debian's Bochs 2.7.
"""

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit

__all__ = ["CPU_MODEL", "Bochs", "Drives", "Hardware", "Ports", "configuration", "reconfigured"]

#: Packages that root on Debian is asked to install.
PACKAGES = ("bochs", "bochs-term", "bochsbios", "isolinux", "syslinux-common", "xorriso",
            "busybox-static")  # fmt: skip

CPU_MODEL = "corei7_skylake_x"
_MSRS = Path(__file__).with_name("bochs-msrs.def")
_EXTENSION = Path(__file__).with_name("bochs-extension.so")
_BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
_VGA_BIOS = Path("/usr/share/bochs/VGABIOS-lgpl-latest")

#: Emulated instructions a second, by which the machine's clocks go; Bochs manages about 70 million.
INSTRUCTIONS_PER_SECOND = 100_000_000


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine is made of; ``memory`` in MiB."""

    cpus: int = 1
    memory: int = 512


@dataclass(frozen=True, slots=True)
class Ports:
    """Where what leaves the machine goes: FIFOs or files, and the emulator's own log."""

    serial: Path
    parallel: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Drives:
    """The images of the boot CD and of the payload drive."""

    boot: Path
    payload: Path


@dataclass(frozen=True)
class Bochs:
    """The installed emulator. ``extension`` is preloaded into it where this version is known."""

    program: Path
    version: str
    extension: Path | None
    digest: str = field(repr=False)

    @classmethod
    def find(cls) -> "Bochs":
        """Find the emulator; raises EnvironmentUnfit with what to install."""
        program = shutil.which("bochs-bin") or shutil.which("bochs")
        install = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        if program is None:
            raise EnvironmentUnfit(f"the lab's emulator, Bochs, is not installed; {install}")
        for file in (_BIOS, _VGA_BIOS):
            if not file.exists():
                raise EnvironmentUnfit(f"{file}, which Bochs needs, is missing; {install}")
        path = Path(program).resolve()
        banner = subprocess.run(
            [path, "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        version = re.search(r"Bochs x86 Emulator (\S+)", banner.stdout + banner.stderr)
        if version is None:
            raise EnvironmentUnfit(f"{path} does not say that it is Bochs; {install}")
        digest = hashlib.sha256()
        for file in (path, _BIOS, _VGA_BIOS, _MSRS, *([_EXTENSION] if _EXTENSION.exists() else [])):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        extension = _EXTENSION if _EXTENSION.exists() else None
        return cls(path, version[1], extension, digest.hexdigest())

    @cached_property
    def can_save(self) -> bool:
        """Whether machines can be saved: the extension is there and fits this build."""
        return self.extension is not None

    def boot(self, config: Path, script: Path) -> list[str]:
        """Return the command that boots a machine; the debugger obeys ``script``."""
        return [str(self.program), "-q", "-f", str(config), "-rc", str(script)]

    def restore(self, state: Path, script: Path) -> list[str]:
        """Return the command that restores a machine."""
        return [str(self.program), "-q", "-r", str(state), "-rc", str(script)]

    def environment(self) -> dict[str, str]:
        """Return the environment that the emulator runs in."""
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        # The display "term" writes to standard output, and wants a terminal that it knows.
        kept["TERM"] = "vt100"
        if self.extension:
            kept["LD_PRELOAD"] = str(self.extension)
        return kept


def configuration(hardware: Hardware, drives: Drives, ports: Ports) -> str:
    """Return the text of a bochsrc: a machine without display, network or sound."""
    return f"""\
config_interface: textconfig
display_library: term
romimage: file={_BIOS}
vgaromimage: file={_VGA_BIOS}
cpu: model={CPU_MODEL}, count={hardware.cpus}, ips={INSTRUCTIONS_PER_SECOND}, \
reset_on_triple_fault=0, ignore_bad_msrs=0, msrs="{_MSRS}"
memory: guest={hardware.memory}, host={hardware.memory}
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="{drives.boot}", status=inserted
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path="{drives.payload}", status=inserted
boot: cdrom
clock: sync=none, time0=utc
com1: enabled=1, mode=file, dev={ports.serial}
parport1: enabled=1, file={ports.parallel}
sound: driver=dummy
speaker: enabled=0
log: {ports.log}
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
mouse: enabled=0
magic_break: enabled=1
"""


def reconfigured(saved: str, drives: Drives, ports: Ports) -> str:
    """Return the configuration of a saved machine with other drives and ports."""
    changes = {
        r"^ata0-master:.*": f'ata0-master: type=cdrom, path="{drives.boot}", status=inserted, '
        'model="Generic 1234", biosdetect=auto',
        r"^ata1-master:.*": f'ata1-master: type=cdrom, path="{drives.payload}", status=inserted, '
        'model="Generic 1234", biosdetect=auto',
        r"^com1:.*": f"com1: enabled=1, mode=file, dev={ports.serial}",
        r"^parport1:.*": f"parport1: enabled=1, file={ports.parallel}",
        r"^log:.*": f"log: {ports.log}",
    }
    for pattern, line in changes.items():
        saved, count = re.subn(pattern, line.replace("\\", r"\\"), saved, flags=re.M)
        if count != 1:
            raise EnvironmentUnfit(
                f"the saved machine's configuration has {count} lines {pattern}; use --cold"
            )
    return saved
