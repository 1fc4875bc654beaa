"""A kernel to boot
================

The image of one kernel, the modules that fit it, and a digest of both.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kvmtest.kernels import files
from kvmtest.kernels.banner import build_date
from kvmtest.kernels.modules import Module, ModuleFolder

__all__ = ["NEEDED", "BootableKernel"]

#: The modules that are loaded where nobody names any.
NEEDED = ("kvm_intel", "msr")


@dataclass(frozen=True)
class BootableKernel:
    """One kernel: an image to boot, and its modules."""

    release: str
    """As uname -r gives it."""

    image: Path
    """The bzImage."""

    modules: Path
    """The modules are somewhere below this folder."""

    origin: str
    """Where it comes from, in words, for evidence."""

    version: str
    """Upstream's, such as 6.1.170."""

    banner: str
    """The version string in the image's header: builder, build, and with Debian the date."""

    needed: tuple[str, ...] = NEEDED
    """The modules that its machine loads, besides those that they depend on."""

    over: Path | None = None
    """A folder of modules that replace its own after boot (kvmtest.kernels.overlay)."""

    options: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    """Those that it was built with (kvmtest.kernels.configuration); None where nothing says."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the image and the ``needed`` modules, unpacked; raises as load_order."""
        digest = hashlib.sha256(files.read(self.image, files.IMAGE))
        for name in self.needed:
            for module in self.folder.load_order(name):
                digest.update(hashlib.sha256(module.data).digest())
        return digest.hexdigest()

    @property
    def date(self) -> str | None:
        """When it was built; None where its banner does not say."""
        return build_date(self.banner)

    @property
    def debian_version(self) -> str | None:
        """The version of its Debian package, such as 6.1.170-3; None where it is not Debian's."""
        found = re.search(r"\bDebian (\d\S*)", self.banner)
        return found[1] if found else None

    @cached_property
    def folder(self) -> ModuleFolder:
        """The modules of this release."""
        return ModuleFolder(self.modules, self.release)

    def load_order(self, *names: str) -> list[Module]:
        """Return the modules to load for ``names``, each after those it depends on.

        Those that are built in are left out. Raises NoSuchModule, EnvironmentUnfit.
        """
        return self.folder.load_order(*names)
