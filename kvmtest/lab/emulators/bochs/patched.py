"""Debian's Bochs, patched
=======================

The installed emulator with a library preloaded: what is installed, and the commands that boot, save
and restore a machine. Written for Debian's Bochs 2.7.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.lab.digest import of_parts
from kvmtest.lab.emulators.emulator import (
    PARALLEL,
    PAYLOAD,
    SERIAL,
    Hardware,
    Launch,
    Start,
    inherited,
    installed,
)
from kvmtest.lab.image import disk

from . import configuration
from .configuration import Drives, Ports, Variant
from .log import LOG, last_words
from .stock import LACKS, PACKAGES

__all__ = ["PMU", "SHOWN", "Bochs"]

#: CPU features that a machine can show although its CPU lacks them (c_helpers/bochs/cpuid.c).
SHOWN = ("rtm",)

_EXTENSION = Path(__file__).parents[1] / "bochs-extension.so"
# The function that the extension calls (c_helpers/bochs/save.c).
_SAVE_STATE = b"_ZN13bx_real_sim_c10save_stateEPKc"
# The build that the extension is written for (c_helpers/bochs/build.c).
_KNOWN_BUILD = bytes.fromhex("6e89e0c07c096ab305b68eb0bf69c4aeb788d10d")
_BOOT_DISK = "boot.iso"
#: The counters that the extension adds, for evidence (c_helpers/bochs/pmu.h, docs/lab-pmu.md).
PMU: dict[str, str | int] = {
    "pmu": "kvmtest's model, version 3",
    "pmu_not_modelled": "overflow and its interrupt, sampling, skid, events but instructions and "
    "cycles; real handlers of SMIs and their latency, rendezvous",
    "smi_source_msr": 0x4B500000,
}


@dataclass(frozen=True)
class Bochs:
    """The installed emulator; ``extension`` is preloaded into it where it fits this build.

    ``is_known`` tells that this is the build that the extension is written for: then it adds
    counters and SMIs, not only saving. ``digest`` is that of all files that a machine is made from.
    """

    program: Path
    version: str
    extension: Path | None
    digest: str = field(repr=False)
    is_known: bool = False

    @classmethod
    def find(cls) -> "Bochs":
        """Find the emulator; raises EnvironmentUnfit with the packages to install."""
        path, version, _ = installed(
            "Bochs",
            "the lab's emulator",
            ("bochs-bin", "bochs"),
            (configuration.BIOS, configuration.VGA_BIOS),
            PACKAGES,
            "--help",
            r"Bochs x86 Emulator (\S+)",
        )
        code = path.read_bytes()
        fits = _EXTENSION.exists() and _SAVE_STATE in code
        extension = _EXTENSION if fits else None
        digest = hashlib.sha256()
        parts = (path, configuration.BIOS, configuration.VGA_BIOS, configuration.MSRS)
        for file in (*parts, *([extension] if extension else [])):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        known = extension is not None and _KNOWN_BUILD in code
        return cls(path, version, extension, digest.hexdigest(), known)

    name = "Bochs"
    model = configuration.CPU_MODEL
    modules = ("kvm_intel", "msr")
    boots_flat = True
    cpus = 1
    kernel_arguments = configuration.KERNEL_ARGUMENTS

    @property
    def variant(self) -> Variant:
        """What its machines are told beyond what each build of Bochs is."""
        return Variant.distribution("magic_break: enabled=1")

    @property
    def can_save(self) -> bool:
        """Whether machines can be saved."""
        return self.extension is not None

    @property
    def lacks(self) -> dict[str, str]:
        """Why this build does not meet a precondition, by its name."""
        return {} if self.is_known else LACKS

    @property
    def details(self) -> dict[str, str | int]:
        """Further facts, for evidence."""
        rate: dict[str, str | int] = {
            "instructions_per_second": configuration.INSTRUCTIONS_PER_SECOND
        }
        return rate | PMU if self.is_known else rate

    def check(self, hardware: Hardware) -> None:
        """Raise UsageError or EnvironmentUnfit for CPU features that can't be shown."""
        for feature in hardware.cpu_features:
            if feature not in SHOWN:
                raise UsageError(
                    f"--show-cpu-feature {feature}: the Intel machine can show {', '.join(SHOWN)}"
                )
            if not self.is_known:
                raise EnvironmentUnfit(
                    f"--show-cpu-feature {feature}: this build of Bochs can't be made to show it; "
                    "use that of Debian 12"
                )

    def machine_digest(self, hardware: "Hardware") -> str:
        """Return the digest of the emulator and of a machine's configuration."""
        # The emulator's digest has the content of the files that the configuration names.
        return of_parts(
            self.digest, configuration.placeless(self.variant, hardware), *hardware.cpu_features
        )

    def make_boot(self, folder: Path, kernel: bytes, initramfs: bytes, command_line: str) -> None:
        """Write the boot CD to a folder."""
        disk.make(folder / _BOOT_DISK, kernel, initramfs, command_line)

    def launch(self, start: Start, folder: Path) -> Launch:
        """Write configuration and the debugger's script to a machine's folder."""
        ports = Ports(folder / SERIAL, folder / PARALLEL, folder / LOG)
        drives = Drives(start.boot / _BOOT_DISK, folder / PAYLOAD)
        script = folder / "script"
        steps = [f"!save {start.save}"] if start.save else ["c"] * start.passes
        script.write_text("\n".join(["c", *steps, "q", ""]))
        if start.state is None:
            config = folder / "bochsrc"
            config.write_text(configuration.bochsrc(self.variant, start.hardware, drives, ports))
            command = self.boot(config, script)
        else:
            restored = folder / "state"
            _copy_state(start.state, restored, drives, ports)
            command = self.restore(restored, script)
        return Launch(command, self.environment(start.hardware))

    def boot(self, config: Path, script: Path) -> list[str]:
        """Return the command that boots a machine; the debugger runs ``script``."""
        return [str(self.program), "-q", "-f", str(config), "-rc", str(script)]

    def restore(self, state: Path, script: Path) -> list[str]:
        """Return the command that restores a machine."""
        return [str(self.program), "-q", "-r", str(state), "-rc", str(script)]

    def is_saved(self, state: Path) -> bool:
        """Tell whether a machine was saved to that folder."""
        return (state / "config").is_file()

    def ended_well(self, status: int) -> bool:
        """Tell whether the status is 0, or 1: that of a debugger that was told to quit."""
        return status in (0, 1)

    def complaint(self, folder: Path) -> str:
        """Return its last panic, or the last line that it printed."""
        return last_words(folder)

    def environment(self, hardware: Hardware) -> dict[str, str]:
        """Return the environment that the emulator runs in."""
        kept = inherited()
        # The display "term" writes to standard output, and asks for a terminal that it knows.
        kept["TERM"] = "vt100"
        # Restoring fills the machine's memory, faster in huge pages where the host has them.
        kept["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        if self.extension:
            kept["LD_PRELOAD"] = str(self.extension)
        if hardware.cpu_features:
            kept["KVMTEST_CPU_FEATURES"] = ",".join(hardware.cpu_features)
        return kept


def _copy_state(state: Path, copy: Path, drives: Drives, ports: Ports) -> None:
    """Copy a saved machine to the folder ``copy``, with other drives and ports."""
    copy.mkdir()
    for file in state.iterdir():
        if file.name != "config":
            (copy / file.name).symlink_to(file)
    saved = (state / "config").read_text()
    (copy / "config").write_text(configuration.reconfigured(saved, drives, ports))
