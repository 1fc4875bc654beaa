"""The Intel lab
=============

From a kernel to a machine that waits for a job: the image it boots, the machine saved after boot,
and the one saved with this kvmtest imported. Each is made once and kept in the cache by the digest
of all that it is made from.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from . import bzimage, cpio, disk, image, payload, userland
from .bochs import CPU_MODEL, INSTRUCTIONS_PER_SECOND, Bochs, Hardware
from .cache import Cache
from .digest import of_files, of_parts
from .kernels import NEEDED, LabKernel
from .machine import Machine, Outcome, Start
from .modules import Module

__all__ = ["LACKS", "PMU", "IntelLab"]

#: What stock Bochs does not model, by the precondition that it therefore does not meet. In a build
#: that the extension knows it does.
LACKS = {
    "pmu": "the emulated machine (Bochs) has no performance counters",
    "debugctl-switch": "the emulated machine (Bochs) does not switch DEBUGCTL at VM-entry and "
    "VM-exit",
}

#: What the extension adds to such a build, for evidence (c_helpers/bochs/pmu.h, docs/lab-pmu.md).
PMU = {
    "pmu": "kvmtest's model, version 1",
    "pmu_not_modelled": "overflow and its interrupt, sampling, skid, events but instructions and "
    "cycles; SMIs on other CPUs than 0, real handlers and their latency",
    "smi_source_msr": 0x4B500000,
}

# Seconds that the steps may take; a loaded host is several times slower than an idle one.
_BOOT_SECONDS = 600.0
_WARM_SECONDS = 300.0

Tell = Callable[[str], None]


@dataclass
class IntelLab:
    """Machines that boot one kernel. ``cold`` saves and restores none.

    ``tell`` gets a line at each step, ``hear`` each line that a machine says.
    """

    bochs: Bochs
    kernel: LabKernel
    cache: Cache
    tell: Tell
    hear: Tell
    hardware: Hardware = field(default_factory=Hardware)
    cold: bool = False

    @cached_property
    def _modules(self) -> list[Module]:
        return self.kernel.load_order(*NEEDED)

    @cached_property
    def _userland(self) -> dict[str, Path]:
        return userland.sources()

    @cached_property
    def _own(self) -> dict[str, cpio.Entry]:
        modules = self._modules
        return {**image.own_entries(modules), **image.module_entries(self.kernel.release, modules)}

    @cached_property
    def image_digest(self) -> str:
        """The digest of all that the boot disk is made from."""
        return of_parts(
            self.kernel.digest, userland.digest(self._userland), image.digest(self._own),
            image.COMMAND_LINE, _makers(),
        )  # fmt: skip

    @cached_property
    def package(self) -> dict[str, bytes]:
        """The files of kvmtest that run inside."""
        return payload.package()

    @property
    def restores(self) -> bool:
        """Whether a run begins from a saved machine."""
        return not self.cold and self.bochs.can_save

    def boot_disk(self) -> Path:
        """Return the boot disk."""

        def make(folder: Path) -> None:
            self.tell(f"making the image of Linux {self.kernel.release}")
            archive = cpio.archive({**userland.entries(self._userland), **self._own})
            kernel = self.kernel.image.read_bytes()
            try:
                kernel = bzimage.flatten(kernel)
            except bzimage.CannotFlatten as reason:
                self.tell(f"it decompresses itself, which takes a minute ({reason})")
            disk.make(folder / "boot.iso", kernel, archive, image.COMMAND_LINE)

        return self.cache.entry("image", self.image_digest, make) / "boot.iso"

    def booted(self) -> Path:
        """Return the state of a machine that has booted and imported all but kvmtest."""

        def make(folder: Path) -> None:
            self.tell("booting it, once")
            self._machine(None, {}, save=folder).run(_BOOT_SECONDS, "booted")

        name = of_parts(self.image_digest, self.bochs.machine_digest(self.hardware))
        return self.cache.entry("booted", name, make)

    def ready(self) -> Path:
        """Return the state of a machine that waits for a job of this kvmtest."""

        def make(folder: Path) -> None:
            state = self.booted()
            self.tell("starting kvmtest in it, once")
            self._machine(state, self.package, save=folder).run(_WARM_SECONDS, "ready")

        name = of_parts(
            self.image_digest, self.bochs.machine_digest(self.hardware),
            of_files(self.package),
        )  # fmt: skip
        return self.cache.entry("ready", name, make)

    def swap(self, folder: Path) -> tuple[dict[str, bytes], list[list[str]]]:
        """Return what loads the modules in ``folder`` instead of the kernel's own, for a job.

        The files that the job needs, and the commands that it runs.
        """
        names = [name for name in ("kvm", "kvm_intel") if (folder / image.file_name(name)).exists()]
        files = {image.file_name(name): (folder / image.file_name(name)).read_bytes()
                 for name in names}  # fmt: skip
        target = f"/lib/modules/{self.kernel.release}/"
        return files, [
            ["rmmod", "kvm_intel"],
            ["rmmod", "kvm"],
            ["cp", *files, target],
            ["modprobe", "kvm_intel", *image.MODULE_ARGUMENTS["kvm_intel"].split()],
        ]

    def run(self, job: Mapping[str, bytes], deadline: float) -> Outcome:
        """Give a machine a job; return what came of it. Raises MachineFailed, EnvironmentUnfit."""
        if self.restores:
            machine = self._machine(self.ready(), job)
            self.tell("running the suite in a saved machine")
        else:
            machine = self._machine(None, {**self.package, **job})
            self.tell("booting it, and running the suite")
        return machine.run(deadline, "end")

    def _machine(
        self, state: Path | None, files: Mapping[str, bytes], save: Path | None = None
    ) -> Machine:
        start = Start(self.hardware, self.boot_disk(), state, save)
        return Machine(self.bochs, start, payload.archive(files), self.hear)

    def facts(self, modules: str = "the kernel's own") -> dict[str, Any]:
        """Return what evidence says of the machine."""
        return {
            "emulator": "Bochs",
            "version": self.bochs.version,
            "model": CPU_MODEL,
            "lacks": {} if self.bochs.is_known else LACKS,
            "details": {
                "emulator_digest": self.bochs.digest,
                "cpus": self.hardware.cpus,
                "memory_mib": self.hardware.memory,
                "shown_cpu_features": " ".join(self.hardware.cpu_features),
                "instructions_per_second": INSTRUCTIONS_PER_SECOND,
                "kernel": self.kernel.origin,
                "kernel_digest": self.kernel.digest,
                "modules": modules,
                "command_line": image.COMMAND_LINE,
                "image_digest": self.image_digest,
                **(PMU if self.bochs.is_known else {}),
                "start": "restored from a saved machine" if self.restores else "booted",
            },
        }


def _makers() -> str:
    """Return the digest of what makes an image of its parts: code, stub, and boot loader."""
    modules = (bzimage, cpio, disk, image, userland)
    files = [*(Path(str(module.__file__)) for module in modules), bzimage.STUB, *disk.LOADER]
    # Where one is missing, disk.make and bzimage.flatten say so.
    return of_parts(*(hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.exists()))
