"""The configuration of a Bochs machine
====================================

What a bochsrc says, and what a saved machine's says when the machine is restored elsewhere. Bochs
2.7 and 3.0 take the same; a build refuses lines on parts that it was compiled without.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.emulator import PARALLEL, PAYLOAD, SERIAL, Hardware, Start

from .log import LOG

__all__ = [
    "BIOS",
    "BOOT_DISK",
    "CPU_MODEL",
    "INSTRUCTIONS_PER_SECOND",
    "KERNEL_ARGUMENTS",
    "MODULES",
    "MSRS",
    "VGA_BIOS",
    "Drives",
    "Ports",
    "Variant",
    "bochsrc",
    "copy_state",
    "placeless",
    "reconfigured",
]

CPU_MODEL = "corei7_skylake_x"

#: Instructions in an emulated second.
INSTRUCTIONS_PER_SECOND = 100_000_000

#: The modules that a machine loads.
MODULES = ("kvm_intel", "msr")

#: What a kernel is told in a machine of any build. One CPU of 2.7 misses the other's write to the
#: line that it monitors: no MWAIT when idle.
KERNEL_ARGUMENTS = "tsc_early_khz=100000 no_timer_check noxsave idle=halt"

#: The boot CD's image in the folder of what a machine boots from.
BOOT_DISK = "boot.iso"

#: MSRs that are plain storage.
MSRS = Path(__file__).with_name("msrs.def")

#: Debian's firmware for Bochs.
BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
VGA_BIOS = Path("/usr/share/bochs/VGABIOS-lgpl-latest")


@dataclass(frozen=True, slots=True)
class Variant:
    """What one build of Bochs is told: its firmware, and ``lines`` that other builds refuse."""

    bios: Path
    vga_bios: Path
    lines: tuple[str, ...]

    @classmethod
    def distribution(cls) -> "Variant":
        """Return what a build of Debian's is told.

        The display "term" needs a package of its own, but no terminal. Unless told otherwise, the
        speaker opens the host's sound device.
        """
        lines = ("display_library: term", "sound: driver=dummy", "speaker: enabled=0")
        return cls(BIOS, VGA_BIOS, lines)


@dataclass(frozen=True, slots=True)
class Ports:
    """The FIFOs or files behind the machine's ports, and the emulator's own log."""

    serial: Path
    parallel: Path
    log: Path

    @classmethod
    def of(cls, folder: Path) -> "Ports":
        """Return those of the machine that runs in ``folder``."""
        return cls(folder / SERIAL, folder / PARALLEL, folder / LOG)


@dataclass(frozen=True, slots=True)
class Drives:
    """The images of the boot CD and of the payload drive."""

    boot: Path
    payload: Path

    @classmethod
    def of(cls, start: Start, folder: Path) -> "Drives":
        """Return those of the machine that runs in ``folder``."""
        return cls(start.boot / BOOT_DISK, folder / PAYLOAD)


def bochsrc(variant: Variant, hardware: Hardware, drives: Drives, ports: Ports) -> str:
    """Return the text of a bochsrc: a machine without display, network or sound.

    Raises EnvironmentUnfit for a path that a bochsrc can't hold.
    """
    own = "\n".join(variant.lines)
    return f"""\
config_interface: textconfig
romimage: file={_quoted(variant.bios)}
vgaromimage: file={_quoted(variant.vga_bios)}
cpu: model={CPU_MODEL}, count={hardware.cpus}, ips={INSTRUCTIONS_PER_SECOND}, \
reset_on_triple_fault=0, ignore_bad_msrs=0, msrs={_quoted(MSRS)}
memory: guest={hardware.memory}, host={hardware.memory}
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={_quoted(drives.boot)}, status=inserted
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path={_quoted(drives.payload)}, status=inserted
boot: cdrom
clock: sync=none, time0=utc
com1: enabled=1, mode=file, dev={_quoted(ports.serial)}
parport1: enabled=1, file={_quoted(ports.parallel)}
log: {_quoted(ports.log)}
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
mouse: enabled=0
{own}
"""


def placeless(variant: Variant, hardware: Hardware) -> str:
    """Return a bochsrc that names no file: what a machine depends on, wherever its files are."""
    nowhere = Path("x")
    variant = replace(variant, bios=nowhere, vga_bios=nowhere)
    text = bochsrc(variant, hardware, Drives(nowhere, nowhere), Ports(nowhere, nowhere, nowhere))
    return text.replace(_quoted(MSRS), "")


def reconfigured(saved: str, variant: Variant, drives: Drives, ports: Ports) -> str:
    """Return the configuration of a saved machine with other drives and ports.

    It may have been saved by another copy of kvmtest, or in a cache that was elsewhere: its paths
    of the MSR file and of the firmware are replaced too.
    """
    changes = {
        r"^ata0-master:.*": f"ata0-master: type=cdrom, path={_quoted(drives.boot)}, "
        'status=inserted, model="Generic 1234", biosdetect=auto',
        r"^ata1-master:.*": f"ata1-master: type=cdrom, path={_quoted(drives.payload)}, "
        'status=inserted, model="Generic 1234", biosdetect=auto',
        r"^com1:.*": f"com1: enabled=1, mode=file, dev={_quoted(ports.serial)}",
        r"^parport1:.*": f"parport1: enabled=1, file={_quoted(ports.parallel)}",
        r"^log:.*": f"log: {_quoted(ports.log)}",
        r'(?<=, )msrs="[^"\n]*"': f"msrs={_quoted(MSRS)}",
        r'^romimage: file="[^"\n]*"': f"romimage: file={_quoted(variant.bios)}",
        r'^vgaromimage: file="[^"\n]*"': f"vgaromimage: file={_quoted(variant.vga_bios)}",
    }
    for pattern, line in changes.items():
        saved, count = re.subn(pattern, line.replace("\\", r"\\"), saved, flags=re.M)
        if count != 1:
            raise EnvironmentUnfit(
                f"the saved machine's configuration has {count} lines {pattern}; use --cold"
            )
    return saved


def copy_state(state: Path, copy: Path, variant: Variant, drives: Drives, ports: Ports) -> None:
    """Copy a saved machine of a build to the folder ``copy``, with other drives and ports.

    Raises EnvironmentUnfit where its configuration can't be changed.
    """
    copy.mkdir()
    for file in state.iterdir():
        if file.name != "config":
            (copy / file.name).symlink_to(file)
    saved = (state / "config").read_text()
    (copy / "config").write_text(reconfigured(saved, variant, drives, ports))


def _quoted(path: Path) -> str:
    """Return a path as a bochsrc writes it, where $ begins the name of a variable."""
    if not str(path).isprintable() or set('"$') & set(str(path)):
        raise EnvironmentUnfit(
            f"Bochs takes no path like {str(path)!r}, for its special characters; set TMPDIR and "
            "KVMTEST_CACHE to other folders"
        )
    return f'"{path}"'
