"""A lab
=====

From a kernel to a machine that waits for a job: the image it boots, the machine saved after boot,
and the one saved with this kvmtest imported. Each is made once and kept in the cache by the digest
of all that it is made from.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kvmtest.cache import Cache
from kvmtest.kernels import bzimage
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.modules import Module
from kvmtest.lab.emulators.emulator import Emulator, Hardware, Start

from .digest import of_files, of_parts
from .image import bytecode, cpio, disk, flat_kernel, payload, userland
from .image import contents as image
from .machine import Machine, Outcome

__all__ = ["Lab"]

# Seconds that either step may take; a loaded host is several times slower than an idle one.
_STEP_SECONDS = 600.0

Tell = Callable[[str], None]


@dataclass
class Lab:
    """Machines that boot one kernel. ``cold`` saves and restores none.

    ``tell`` gets a line at each step, ``hear`` each line that a machine says.
    """

    emulator: Emulator
    kernel: BootableKernel
    cache: Cache
    tell: Tell
    hear: Tell
    hardware: Hardware = field(default_factory=Hardware)
    cold: bool = False

    @cached_property
    def _modules(self) -> list[Module]:
        return self.kernel.load_order(*self.kernel.needed)

    @cached_property
    def _userland(self) -> dict[str, Path]:
        return userland.sources()

    @cached_property
    def _own(self) -> dict[str, cpio.Entry]:
        modules = self._modules
        return {**image.own_entries(modules), **image.module_entries(self.kernel.release, modules)}

    @property
    def command_line(self) -> str:
        """What the kernel is booted with."""
        return f"{image.COMMAND_LINE} {self.emulator.kernel_arguments}"

    @cached_property
    def image_digest(self) -> str:
        """The digest of all that the image is made from."""
        return of_parts(
            self.kernel.digest, userland.digest(self._userland), image.digest(self._own),
            self.command_line, self.emulator.name, str(self.emulator.boots_flat), _makers(),
        )  # fmt: skip

    @cached_property
    def package(self) -> dict[str, bytes]:
        """The files of kvmtest that run inside."""
        return payload.package()

    @property
    def restores(self) -> bool:
        """Whether a run begins from a saved machine."""
        return not self.cold and self.emulator.can_save

    def boot(self) -> Path:
        """Return the folder of what a machine boots from."""

        def make(folder: Path) -> None:
            self.tell(f"making the image of Linux {self.kernel.release}")
            archive = cpio.archive({**userland.entries(self._userland), **self._own})
            kernel = self.kernel.image.read_bytes()
            if self.emulator.boots_flat:
                kernel = self._flat(kernel)
            self.emulator.make_boot(folder, kernel, archive, self.command_line)

        return self.cache.entry("image", self.image_digest, make)

    def _flat(self, kernel: bytes) -> bytes:
        try:
            return flat_kernel.flatten(kernel)
        except flat_kernel.CannotFlatten as reason:
            self.tell(f"it decompresses itself, which takes a minute ({reason})")
            return kernel

    def booted(self) -> Path:
        """Return the state of a machine that has booted and imported all but kvmtest."""

        def make(folder: Path) -> None:
            self.tell("booting it, once")
            self._machine(None, {}, save=folder).run(_STEP_SECONDS, "booted")

        name = of_parts(self.image_digest, self.emulator.machine_digest(self.hardware))
        return self.cache.entry("booted", name, make)

    def ready(self) -> Path:
        """Return the state of a machine that waits for a job of this kvmtest."""

        def make(folder: Path) -> None:
            state = self.booted()
            self.tell("starting kvmtest in it, once")
            package = payload.with_bytecode(self.package)
            self._machine(state, package, save=folder).run(_STEP_SECONDS, "ready")

        name = of_parts(
            self.image_digest, self.emulator.machine_digest(self.hardware),
            of_files(self.package),
        )  # fmt: skip
        return self.cache.entry("ready", name, make)

    def run(self, job: Mapping[str, bytes], deadline: float) -> Outcome:
        """Give a machine a job; return what came of it. Raises MachineFailed, EnvironmentUnfit."""
        if self.restores:
            machine = self._machine(self.ready(), job)
            self.tell("running the suite in a saved machine")
        else:
            machine = self._machine(None, {**payload.with_bytecode(self.package), **job})
            self.tell("booting it, and running the suite")
        return machine.run(deadline, "end")

    def _machine(
        self, state: Path | None, files: Mapping[str, bytes], save: Path | None = None
    ) -> Machine:
        start = Start(self.hardware, self.boot(), state, save)
        return Machine(self.emulator, start, payload.archive(files), self.hear)

    def facts(
        self,
        modules: str = "the kernel's own",
        parameters: str = "",
        laid_over: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return what evidence says of the machine, of KVM's modules and of their parameters.

        ``laid_over`` are the files in place of the kernel's own, which every report names.
        """
        laid = {"modules_laid_over": ", ".join(laid_over)} if laid_over else {}
        return {
            "emulator": self.emulator.name,
            "version": self.emulator.version,
            "model": self.emulator.model,
            "lacks": dict(self.emulator.lacks),
            "details": {
                "emulator_digest": self.emulator.digest,
                "cpus": self.hardware.cpus,
                "memory_mib": self.hardware.memory,
                "shown_cpu_features": " ".join(self.hardware.cpu_features),
                "kernel": self.kernel.origin,
                "kernel_digest": self.kernel.digest,
                "modules": modules,
                **laid,
                "kvm_parameters": parameters,
                "command_line": self.command_line,
                "image_digest": self.image_digest,
                **self.emulator.details,
                "emulated_on": os.uname().nodename,
                "start": "restored from a saved machine" if self.restores else "booted",
            },
        }


def _makers() -> str:
    """Return the digest of what makes an image of its parts: code, stub, and boot loader."""
    modules = (bytecode, bzimage, cpio, disk, flat_kernel, image, userland)
    files = [*(Path(str(module.__file__)) for module in modules), flat_kernel.STUB, *disk.LOADER]
    # Where one is missing, disk.make and flat_kernel.flatten say so.
    return of_parts(*(hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.exists()))
