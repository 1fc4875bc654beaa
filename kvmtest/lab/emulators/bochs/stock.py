"""The distribution's Bochs
========================

The fallback where the lab's own emulator can't be built: Bochs of any version as it is installed,
tried with 2.7 and 3.0. A machine boots for each job and is never saved; it has no counters.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.digest import of_parts
from kvmtest.lab.emulators.emulator import (
    Hardware,
    Launch,
    Start,
    inherited,
    installed,
)
from kvmtest.lab.image import disk

from . import configuration
from .configuration import Drives, Ports, Variant
from .log import last_words

__all__ = ["LACKS", "PACKAGES", "StockBochs"]

#: The Debian packages to install.
PACKAGES = ("bochs", "bochs-term", "bochsbios", "vgabios", "busybox-static")

#: Why stock Bochs does not meet these preconditions.
LACKS = {
    "pmu": "the emulated machine (Bochs) has no performance counters",
    "debugctl-switch": "the emulated machine (Bochs) does not switch DEBUGCTL at VM-entry and "
    "VM-exit",
}


@dataclass(frozen=True)
class StockBochs:
    """The installed emulator. ``why`` says why it is used, for SKIP reasons and evidence.

    ``needs_script`` tells that its debugger is always on, and waits for commands.
    """

    program: Path
    version: str
    digest: str = field(repr=False)
    needs_script: bool = False
    why: str = ""

    name: ClassVar[str] = "Bochs"
    model: ClassVar[str] = configuration.CPU_MODEL
    modules: ClassVar[tuple[str, ...]] = configuration.MODULES
    boots_flat: ClassVar[bool] = True
    cpus: ClassVar[int] = 1
    can_save: ClassVar[bool] = False
    # Bochs 3.0 has posted interrupts, and refuses a descriptor that is not page-aligned. The SDM
    # (volume 3, 27.2.1.1) asks for the alignment that KVM gives it, 64 bytes.
    kernel_arguments: ClassVar[str] = f"{configuration.KERNEL_ARGUMENTS} kvm_intel.enable_apicv=0"

    @classmethod
    def find(cls, why: str = "") -> "StockBochs":
        """Find the emulator; raises EnvironmentUnfit with the packages to install."""
        program, version, banner = installed(
            "Bochs",
            "the lab's emulator",
            ("bochs-bin", "bochs"),
            (configuration.BIOS, configuration.VGA_BIOS),
            PACKAGES,
            "--help",
            r"Bochs x86 Emulator (\S+)",
        )
        parts = (program, configuration.BIOS, configuration.VGA_BIOS, configuration.MSRS)
        digest = of_parts(*(hashlib.sha256(part.read_bytes()).hexdigest() for part in parts))
        # Since 3.0 the debugger is on only if the option -debugger asks for it.
        needs_script = "-rc " in banner and "-debugger " not in banner
        return cls(program, version, digest, needs_script, why)

    @property
    def lacks(self) -> Mapping[str, str]:
        """Why a machine does not meet a precondition, by its name."""
        why = f"; {self.why}" if self.why else ""
        return {need: f"{reason}{why}" for need, reason in LACKS.items()}

    @property
    def details(self) -> Mapping[str, str | int]:
        """Further facts, for evidence."""
        return {
            "instructions_per_second": configuration.INSTRUCTIONS_PER_SECOND,
            **({"emulator_chosen": self.why} if self.why else {}),
        }

    def check(self, hardware: Hardware) -> None:
        """Raise EnvironmentUnfit for CPU features that the model lacks."""
        for feature in hardware.cpu_features:
            raise EnvironmentUnfit(
                f"--show-cpu-feature {feature}: the distribution's Bochs can't show it"
                + (f"; {self.why}" if self.why else "")
            )

    def machine_digest(self, hardware: Hardware) -> str:
        """Return the digest of the emulator and of a machine's configuration."""
        return of_parts(self.digest, configuration.placeless(Variant.distribution(), hardware))

    def make_boot(self, folder: Path, kernel: bytes, initramfs: bytes, command_line: str) -> None:
        """Write the boot CD to a folder."""
        disk.make(folder / configuration.BOOT_DISK, kernel, initramfs, command_line)

    def launch(self, start: Start, folder: Path) -> Launch:
        """Write the configuration to a machine's folder; raises EnvironmentUnfit."""
        assert start.state is None
        assert start.save is None
        drives, ports = Drives.of(start, folder), Ports.of(folder)
        config, script = folder / "bochsrc", folder / "script"
        config.write_text(
            configuration.bochsrc(Variant.distribution(), start.hardware, drives, ports)
        )
        command = [str(self.program), "-q", "-f", str(config)]
        if self.needs_script:
            script.write_text("c\n")
            command += ["-rc", str(script)]
        # The display "term" asks for a terminal that it knows.
        return Launch(command, {**inherited(), "TERM": "vt100"})

    def is_saved(self, state: Path) -> bool:
        """Tell that no machine was saved."""
        return False

    def ended_well(self, status: int) -> bool:
        """Tell whether the status is that of a machine that was shut down."""
        return status in (0, 1)

    def complaint(self, folder: Path) -> str:
        """Return its last panic, or the last line that it printed."""
        return last_words(folder)
