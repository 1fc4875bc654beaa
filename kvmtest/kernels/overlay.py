"""Modules laid over a kernel's own
================================

A kvm.ko or a vendor's module, built alone (``make M=arch/x86/kvm modules``), takes the place of the
kernel's own in a machine that has booted with these. So a KVM developer's modules are judged, and
the lab's mutants.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels import files
from kvmtest.kernels.elf import reading
from kvmtest.kernels.kernel import LabKernel, narrowed
from kvmtest.kernels.modules import (
    DEPENDENCIES,
    Module,
    ModuleFolder,
    dependencies,
    file_name,
)

__all__ = ["Overlay"]


@dataclass(frozen=True, slots=True)
class Overlay:
    """Modules that a machine loads in place of those of its kernel."""

    release: str
    vendor: str
    """KVM's vendor module, the last one to be loaded."""

    digests: Mapping[str, str]
    """The SHA-256 digest of each file that is laid over, as it was found, by its name."""

    origin: Path
    removed: tuple[str, ...]
    """What is to be unloaded, in this order."""

    files: Mapping[str, bytes]
    """What modprobe is to find, by name: modules, and what each of them needs."""

    @classmethod
    def of(cls, folder: Path, kernel: LabKernel, vendor: str) -> "Overlay":
        """Return what ``folder`` holds of the modules that ``vendor`` needs, itself included.

        Raises UsageError where it holds none of them, EnvironmentUnfit where one does not fit the
        kernel.
        """
        over = ModuleFolder(narrowed(folder, kernel.release), kernel.release, below=kernel.folder)
        own = kernel.load_order(vendor)
        _refuse_built_in(over, kernel, vendor)
        order = over.load_order(vendor)
        laid = [module for module in order if over.holds(module.name)]
        if not laid:
            raise UsageError(_none_of_use(over, own))
        for module in laid:
            _check_fit(module, over.root, kernel)
        changed = {module.name for module in laid}
        for module in own:
            if changed.intersection(module.depends):
                changed.add(module.name)
        # A module that the kernel's own did without is not in the machine yet.
        names = {module.name for module in own}
        new = [module for module in order if module in laid or module.name not in names]
        needs = dependencies(over.load_order(*kernel.needed))
        return cls(
            kernel.release,
            vendor,
            {over.path(m.name).name: files.digest(over.path(m.name), files.MODULE) for m in laid},
            folder.absolute(),
            tuple(module.name for module in reversed(own) if module.name in changed),
            {file_name(m.name): _loadable(m) for m in new} | {DEPENDENCIES: needs},
        )

    def commands(self, arguments: Sequence[str] = ()) -> list[list[str]]:
        """What loads them where the files are; the vendor module gets ``arguments``."""
        return [
            *(["rmmod", name] for name in self.removed),
            ["cp", *self.files, f"/lib/modules/{self.release}/"],
            ["modprobe", self.vendor, *arguments],
        ]

    def __str__(self) -> str:
        laid = ", ".join(f"{name} (sha256 {digest})" for name, digest in self.digests.items())
        return f"{laid} of {self.origin}, laid over the kernel's own"


def _refuse_built_in(over: ModuleFolder, kernel: LabKernel, vendor: str) -> None:
    for name in (vendor, "kvm"):
        if over.holds(name) and name in kernel.folder.builtin:
            raise UsageError(
                f"{name} is built into kernel {kernel.release}, so that no module can replace it: "
                f"give a kernel with CONFIG_{name.upper()}=m"
            )


def _none_of_use(over: ModuleFolder, own: Sequence[Module]) -> str:
    wanted = ", ".join(file_name(module.name) for module in reversed(own))
    held = ", ".join(map(file_name, over.names[:4])) or "no module"
    return (
        f"{over.root} has nothing to lay over the kernel's own modules: this --machine loads "
        f"{wanted}, and there is {held}"
    )


def _check_fit(module: Module, root: Path, kernel: LabKernel) -> None:
    """Raise EnvironmentUnfit where the kernel would refuse the module for its configuration."""
    wanted = next((m.vermagic for m in kernel.load_order(*kernel.needed) if m.vermagic), None)
    if wanted and module.vermagic != wanted:
        raise EnvironmentUnfit(
            f"{file_name(module.name)} in {root} does not fit the kernel: it is built for "
            f'"{module.vermagic}", the kernel is "{wanted}"; build it with that configuration'
        )


def _loadable(module: Module) -> bytes:
    """Return the module's file without signature and debug info, which take time to load."""
    data = module.unsigned
    with reading(data) as elf:
        is_large = any(section.name.startswith(".debug_") for section in elf.iter_sections())
    strip = shutil.which("strip") if is_large else None
    if strip is None:
        return data
    with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
        whole, stripped = Path(folder, "whole.ko"), Path(folder, "stripped.ko")
        whole.write_bytes(data)
        command = [strip, "--strip-debug", "-o", str(stripped), str(whole)]
        done = subprocess.run(command, capture_output=True, check=False)
        return stripped.read_bytes() if done.returncode == 0 else data
