"""Bochs from source
=================

The emulator of the lab's Intel machine as the lab builds it (kvmtest.lab.emulators.bochs.build):
counters and SMIs are compiled in, a machine is saved at a breakpoint, and there is no debugger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from kvmtest.errors import UsageError
from kvmtest.lab.digest import of_parts
from kvmtest.lab.emulators.emulator import (
    Hardware,
    Launch,
    Start,
    inherited,
)
from kvmtest.lab.image import disk

from . import configuration
from .build import Build
from .configuration import Drives, Ports, Variant
from .log import last_words
from .selftest import Program
from .source import VERSION

__all__ = ["PMU", "SHOWN", "BuiltBochs", "program"]

#: CPU features that a machine can show although its CPU lacks them (c_helpers/bochs/cpuid.cc).
SHOWN = ("rtm",)

#: The counters that are compiled in, for evidence (c_helpers/bochs/pmu.h, docs/lab-pmu.md).
PMU: dict[str, str | int] = {
    "pmu": "kvmtest's model, version 4",
    "pmu_not_modelled": "overflow and its interrupt, sampling, skid, events but instructions and "
    "cycles; real handlers of SMIs and their latency, rendezvous",
    "smi_source_msr": 0x4B500000,
}


def _command(build: Build, arguments: Sequence[str], save: Path | None, passes: int) -> Launch:
    """Return how a build is started (c_helpers/bochs/requests.cc)."""
    environment = {**inherited(), "KVMTEST_PASSES": str(passes)}
    if save:
        environment["KVMTEST_SAVE"] = str(save)
    # Restoring fills the machine's memory, faster in huge pages where the host has them.
    environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    return Launch([str(build.program), "-q", *arguments], environment)


def program(build: Build) -> Program:
    """Return a build as its self-test starts it."""
    return Program(_variant(build), lambda arguments, save: _command(build, arguments, save, 0))


def _variant(build: Build) -> Variant:
    return Variant(build.bios, build.vga_bios, ("display_library: nogui",))


@dataclass(frozen=True, slots=True)
class BuiltBochs:
    """A built emulator with the lab's Intel machine; ``proof`` is what its self-test proved."""

    build: Build
    proof: str

    name: ClassVar[str] = "Bochs"
    version: ClassVar[str] = f"{VERSION}, built from source"
    model: ClassVar[str] = configuration.CPU_MODEL
    modules: ClassVar[tuple[str, ...]] = configuration.MODULES
    boots_flat: ClassVar[bool] = True
    cpus: ClassVar[int] = 1
    can_save: ClassVar[bool] = True
    kernel_arguments: ClassVar[str] = configuration.KERNEL_ARGUMENTS

    @property
    def digest(self) -> str:
        """The digest of all that its machines are made from."""
        return self.build.digest

    @property
    def lacks(self) -> Mapping[str, str]:
        """Return nothing: the machine lacks no precondition."""
        return {}

    @property
    def details(self) -> Mapping[str, str | int]:
        """Further facts, for evidence."""
        own: dict[str, str | int] = {
            "instructions_per_second": configuration.INSTRUCTIONS_PER_SECOND,
            "selftest": self.proof,
        }
        return own | PMU

    def check(self, hardware: Hardware) -> None:
        """Raise UsageError for CPU features that can't be shown."""
        for feature in hardware.cpu_features:
            if feature not in SHOWN:
                raise UsageError(
                    f"--show-cpu-feature {feature}: the Intel machine can show {', '.join(SHOWN)}"
                )

    def machine_digest(self, hardware: Hardware) -> str:
        """Return the digest of the emulator and of a machine's configuration."""
        msrs = configuration.MSRS.read_text()
        text = configuration.placeless(_variant(self.build), hardware)
        return of_parts(self.digest, text, msrs, *hardware.cpu_features)

    def make_boot(self, folder: Path, kernel: bytes, initramfs: bytes, command_line: str) -> None:
        """Write the boot CD to a folder."""
        disk.make(folder / configuration.BOOT_DISK, kernel, initramfs, command_line)

    def launch(self, start: Start, folder: Path) -> Launch:
        """Write the configuration to a machine's folder."""
        drives, ports = Drives.of(start, folder), Ports.of(folder)
        variant = _variant(self.build)
        if start.state is None:
            config = folder / "bochsrc"
            config.write_text(configuration.bochsrc(variant, start.hardware, drives, ports))
            arguments = ["-f", str(config)]
        else:
            restored = folder / "state"
            configuration.copy_state(start.state, restored, variant, drives, ports)
            arguments = ["-r", str(restored)]
        launch = _command(self.build, arguments, start.save, start.passes)
        shown = ",".join(start.hardware.cpu_features)
        more = {"KVMTEST_CPU_FEATURES": shown} if shown else {}
        return replace(launch, environment={**launch.environment, **more})

    def is_saved(self, state: Path) -> bool:
        """Tell whether a machine was saved to that folder."""
        return (state / "kvmtest").is_file()

    def ended_well(self, status: int) -> bool:
        """Tell whether the status is 0."""
        return status == 0

    def complaint(self, folder: Path) -> str:
        """Return its last panic, or the last line that it printed."""
        return last_words(folder)
