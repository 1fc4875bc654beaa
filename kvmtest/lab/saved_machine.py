"""Saved machines
==============

From a kernel to an emulated machine that waits for a job: the image it boots, the machine saved
after boot, and the one saved with this kvmtest imported. Each is made once and kept in the cache,
named by the digest of all that it is made from.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.kernels import bzimage
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.modules import Module
from kvmtest.lab.emulators.emulator import Emulator, Hardware, Start

from .digest import of_files, of_parts
from .image import bytecode, cpio, disk, flat_kernel, payload, stub, userland
from .image import contents as image
from .machine import EmulatedMachine, MachineOutput

__all__ = ["SavedMachine"]

# Seconds that booting, or starting kvmtest, may take; a loaded host is several times slower.
_STEP_SECONDS = 600.0


@dataclass
class SavedMachine:
    """One kernel in one emulated machine, booted once and restored for each job.

    ``on_step`` gets a line before each step that takes seconds, ``on_line`` each line that the
    machine prints. A ``cold`` machine boots for each job, and none is saved.
    """

    emulator: Emulator
    kernel: BootableKernel
    cache: Cache
    on_step: Callable[[str], None]
    on_line: Callable[[str], None]
    hardware: Hardware = field(default_factory=Hardware)
    cold: bool = False

    @cached_property
    def _modules(self) -> list[Module]:
        """What is loaded. A build tree's kvm.ko is ten times as large with its debug info."""
        modules = self.kernel.load_order(*self.kernel.needed)
        return [replace(module, data=module.loadable) for module in modules]

    @cached_property
    def _userland(self) -> dict[str, Path]:
        return userland.sources()

    @cached_property
    def _own(self) -> dict[str, cpio.Entry]:
        modules = self._modules
        return {**image.own_entries(modules), **image.module_entries(self.kernel.release, modules)}

    @property
    def command_line(self) -> str:
        """The kernel's command line."""
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
    def is_restored(self) -> bool:
        """Whether a job begins in a restored machine, not in one that boots."""
        return not self.cold and self.emulator.can_save

    def image(self) -> Path:
        """Return the folder of what the machine boots from. Raises EnvironmentUnfit."""

        def make(folder: Path) -> None:
            self.on_step(f"making the image of Linux {self.kernel.release}")
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
            self.on_step(f"it decompresses itself, which takes a minute ({reason})")
            return kernel

    def booted(self) -> Path:
        """Return the state saved after boot, with all imported but kvmtest; raises TargetFailed."""

        def make(folder: Path) -> None:
            self.on_step("booting it, once")
            self._machine(None, {}, save=folder).run(_STEP_SECONDS, "booted")

        name = of_parts(self.image_digest, self.emulator.machine_digest(self.hardware))
        return self.cache.entry("booted", name, make)

    def ready(self) -> Path:
        """Return the state in which this kvmtest waits for a job; raises TargetFailed."""

        def make(folder: Path) -> None:
            state = self.booted()
            self.on_step("starting kvmtest in it, once")
            package = payload.with_bytecode(self.package)
            self._machine(state, package, save=folder).run(_STEP_SECONDS, "ready")

        name = of_parts(
            self.image_digest, self.emulator.machine_digest(self.hardware),
            of_files(self.package),
        )  # fmt: skip
        return self.cache.entry("ready", name, make)

    def run(self, files: Mapping[str, bytes], deadline: float) -> MachineOutput:
        """Run the job in ``files`` (payload.job) within ``deadline`` seconds; return its output.

        Raises TargetFailed, EnvironmentUnfit.
        """
        if self.is_restored:
            machine = self._machine(self.ready(), files)
            self.on_step("running the suite in a saved machine")
        else:
            machine = self._machine(None, {**payload.with_bytecode(self.package), **files})
            self.on_step("booting it, and running the suite")
        return machine.run(deadline, "end")

    def _machine(
        self, state: Path | None, files: Mapping[str, bytes], save: Path | None = None
    ) -> EmulatedMachine:
        start = Start(self.hardware, self.image(), state, save)
        return EmulatedMachine(self.emulator, start, payload.archive(files), self.on_line)


def _makers() -> str:
    """Return the digest of what makes an image of its parts: code, stub, and boot loader."""
    modules = (bytecode, bzimage, cpio, disk, flat_kernel, image, stub, userland)
    files = [*(Path(str(module.__file__)) for module in modules), flat_kernel.STUB, disk.LOADER]
    # Where one is missing, disk.make and flat_kernel.flatten say so.
    return of_parts(*(hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.exists()))
