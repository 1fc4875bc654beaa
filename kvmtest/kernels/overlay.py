"""Modules laid over a kernel's own
================================

A kvm.ko or a vendor module that was built alone (``make M=arch/x86/kvm modules``) replaces the
kernel's own in a machine that has already booted with these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels import files
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.modules import (
    DEPENDENCIES,
    Module,
    ModuleFolder,
    dependencies,
    file_name,
    folder_of_release,
)

__all__ = ["Overlay"]


@dataclass(frozen=True, slots=True)
class Overlay:
    """Modules that a machine loads in place of its kernel's own."""

    release: str
    vendor: str
    """KVM's vendor module, which is loaded last."""

    digests: Mapping[str, str]
    """The SHA-256 digest of each file as it was found, by its name."""

    origin: Path
    removed: tuple[str, ...]
    """The modules to unload, in this order."""

    files: Mapping[str, bytes]
    """The files that modprobe needs, by name: the modules, and modules.dep."""

    @classmethod
    def of(cls, folder: Path, kernel: BootableKernel, vendor: str) -> "Overlay":
        """Return those modules in ``folder`` that are ``vendor`` or that it depends on.

        Raises UsageError where there are none, EnvironmentUnfit where one does not fit the kernel.
        """
        over = ModuleFolder(
            folder_of_release(folder, kernel.release), kernel.release, below=kernel.folder
        )
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
        # A dependency that the kernel's own modules do not have is not in the machine yet.
        names = {module.name for module in own}
        new = [module for module in order if module in laid or module.name not in names]
        needs = dependencies(over.load_order(*kernel.needed))
        return cls(
            kernel.release,
            vendor,
            {over.path(m.name).name: files.digest(over.path(m.name), files.MODULE) for m in laid},
            folder.absolute(),
            tuple(module.name for module in reversed(own) if module.name in changed),
            {file_name(m.name): m.loadable for m in new} | {DEPENDENCIES: needs},
        )

    def commands(self, arguments: Sequence[str] = ()) -> list[list[str]]:
        """Commands that load them, run beside ``files``; the vendor module gets ``arguments``."""
        return [
            *(["rmmod", name] for name in self.removed),
            ["cp", *self.files, f"/lib/modules/{self.release}/"],
            ["modprobe", self.vendor, *arguments],
        ]

    def __str__(self) -> str:
        laid = ", ".join(f"{name} (sha256 {digest})" for name, digest in self.digests.items())
        return f"{laid} of {self.origin}, laid over the kernel's own"


def _refuse_built_in(over: ModuleFolder, kernel: BootableKernel, vendor: str) -> None:
    for name in (vendor, "kvm"):
        if over.holds(name) and name in kernel.folder.builtin:
            raise UsageError(
                f"{name} is built into kernel {kernel.release}, so no module can replace it: "
                f"give a kernel with CONFIG_{name.upper()}=m"
            )


def _none_of_use(over: ModuleFolder, own: Sequence[Module]) -> str:
    wanted = ", ".join(file_name(module.name) for module in reversed(own))
    held = ", ".join(map(file_name, over.names[:4])) or "no module"
    return (
        f"{over.root} has nothing to lay over the kernel's own modules: this --machine loads "
        f"{wanted}, and there is {held}"
    )


def _check_fit(module: Module, root: Path, kernel: BootableKernel) -> None:
    """Raise EnvironmentUnfit where the kernel would refuse the module for its vermagic."""
    wanted = next((m.vermagic for m in kernel.load_order(*kernel.needed) if m.vermagic), None)
    if wanted and module.vermagic != wanted:
        raise EnvironmentUnfit(
            f"{file_name(module.name)} in {root} does not fit the kernel: it is built for "
            f'"{module.vermagic}", the kernel is "{wanted}"; build it with that configuration'
        )
